"""Sources in places other than disks and S3, against real servers: HTTP, SFTP, a GCS emulator, Azurite, a stand-in
for the Hugging Face hub."""

from __future__ import annotations

import asyncio
import functools
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from palimpsest.config import SourceConfig
from palimpsest.errors import UsageError
from palimpsest.operations.doctor import OK, PROBLEM, storage_of
from palimpsest.sources.documents import Document
from palimpsest.sources.inventory import Inventory
from palimpsest.sources.listing import expand, list_sources
from palimpsest.sources.remote_objects import RemoteError, canonical
from palimpsest.sources.tables import plan_units, read_unit
from tests.hub_server import REPOSITORY, hub
from tests.paths import PYTHONPATH

CONFIG = SourceConfig(unit_bytes=300)
LINES = "".join(json.dumps({"text": f"text {n}"}) + "\n" for n in range(40)).encode()
AZURITE = Path(sys.prefix, "node", "node_modules", ".bin")  # where `make install` puts it
Write = Callable[[str, bytes], None]


def fill(write: Write) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": [f"row {n}" for n in range(30)]}), sink, row_group_size=10)
    write("in/a.jsonl", LINES)
    write("in/deep/b.parquet", sink.getvalue().to_pybytes())
    write("in/README.md", b"a card")
    write("in/logo.png", b"\x89PNG")
    write("in/old/corpus.json", b'{"format": "palimpsest corpus", "version": 1}')
    write("in/old/data/x.jsonl", LINES)


def texts(uri: str) -> list[str]:
    found = [record for item in expand([uri], CONFIG) for unit in plan_units(item, CONFIG) for record in read_unit(unit, CONFIG)]
    return [record.text if isinstance(record, Document) else record.reason for record in found]


ALL = [*(f"text {n}" for n in range(40)), *(f"row {n}" for n in range(30))]


def check_a_place_that_lists(root: str, write: Write) -> None:
    fill(write)
    listing = list_sources([f"{root}/in"], CONFIG)
    assert [item.uri for item in listing.objects] == [f"{root}/in/a.jsonl", f"{root}/in/deep/b.parquet"]
    assert {rule: sum(found["suffixes"].values()) for rule, found in listing.passed_over.to_json().items()} == {
        "corpus": 1, "sidecar": 1, "no_text": 1
    }  # fmt: skip
    assert texts(f"{root}/in") == ALL
    assert texts(f"{root}/in/a.jsonl") == ALL[:40]
    assert texts(f"{root}/i*/d*") == ALL[40:]
    with Inventory([f"{root}/in"], CONFIG) as inventory:
        assert [listed.item for listed in inventory] == listing.objects
    with pytest.raises(UsageError, match="names no file"):
        expand([f"{root}/none"], CONFIG)
    lines = listing.objects[0]
    (first, *_) = plan_units(lines, CONFIG)
    write("in/a.jsonl", b'{"text": "new"}\n')
    assert [getattr(record, "reason", "") for record in read_unit(first, CONFIG)] == ["changed"]


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", tmp_path
    server.shutdown()
    server.server_close()


def test_single_objects_over_http(web: tuple[str, Path]) -> None:
    root, folder = web
    fill(lambda name, content: _write(folder, name, content))
    assert texts(f"{root}/in/a.jsonl") == ALL[:40]
    assert texts(f"{root}/in/a.jsonl?download=true") == ALL[:40]
    assert texts(f"{root}/in/deep/b.parquet") == ALL[40:]  # this server knows no ranges: it goes through a temporary file
    for name in ("none.jsonl", "in/"):
        with pytest.raises(UsageError, match="http.*name single objects|names no file"):
            expand([f"{root}/{name}"], CONFIG)
    (item,) = expand([f"{root}/in/a.jsonl"], CONFIG)
    (folder / "in" / "a.jsonl").write_bytes(LINES[:100])
    assert [getattr(record, "reason", "") for record in read_unit(plan_units(item, CONFIG)[0], CONFIG)] == ["changed"]
    (folder / "in" / "a.jsonl").unlink()
    assert [getattr(record, "reason", "") for record in read_unit(plan_units(item, CONFIG)[0], CONFIG)] == ["vanished"]


def test_a_server_that_is_down_is_no_property_of_the_object() -> None:
    with pytest.raises(RemoteError, match=r"cannot read http://127\.0\.0\.1"):
        expand([f"http://127.0.0.1:{_free_port()}/a.jsonl"], CONFIG)


def test_passwords_in_uris_are_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match="holds credentials") as refused:
        canonical("sftp://me:secret@host/in")
    assert "secret" not in str(refused.value)


def _write(folder: Path, name: str, content: bytes) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def sftp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    asyncssh = pytest.importorskip("asyncssh", reason="asyncssh is not installed: pip install asyncssh")
    pytest.importorskip("paramiko", reason="paramiko is not installed: pip install 'palimpsest[ssh]'")
    home, root = tmp_path / "home", tmp_path / "root"
    (home / ".ssh").mkdir(parents=True)
    root.mkdir()
    key = asyncssh.generate_private_key("ssh-rsa")
    key.write_private_key(str(home / ".ssh" / "id_rsa"))
    (home / ".ssh" / "id_rsa").chmod(0o600)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    accepted = asyncssh.import_authorized_keys(key.export_public_key().decode())
    loop, ready = asyncio.new_event_loop(), threading.Event()
    ports: list[int] = []

    async def serve() -> None:
        host_key = asyncssh.generate_private_key("ssh-rsa")
        options = {"server_host_keys": [host_key], "authorized_client_keys": accepted, "sftp_factory": True}
        server = await asyncssh.listen("127.0.0.1", 0, **options)
        ports.append(server.sockets[0].getsockname()[1])
        ready.set()

    def work() -> None:
        loop.run_until_complete(serve())
        loop.run_forever()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert ready.wait(30)
    yield f"sftp://me@127.0.0.1:{ports[0]}{root}", root
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


def test_folders_over_sftp(sftp: tuple[str, Path]) -> None:
    uri, folder = sftp
    check_a_place_that_lists(uri, lambda name, content: _write(folder, name, content))


@pytest.fixture
def gcs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[str, Write]]:
    pytest.importorskip("gcp_storage_emulator", reason="gcp-storage-emulator is not installed: pip install gcp-storage-emulator")
    pytest.importorskip("gcsfs", reason="gcsfs is not installed: pip install 'palimpsest[gcs]'")
    port = _free_port()
    made = f"create_server('127.0.0.1', {port}, in_memory=True, default_bucket='b')"
    code = f"from gcp_storage_emulator.server import create_server; {made}.run()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "test")
    try:
        _wait_for(port)
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        bucket = storage.Client(project="test", credentials=AnonymousCredentials()).bucket("b")
        yield "gs://b", lambda name, content: bucket.blob(name).upload_from_string(content)
    finally:
        process.kill()
        process.wait()


def test_buckets_of_google(gcs: tuple[str, Write]) -> None:
    check_a_place_that_lists(*gcs)


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[str, Write]]:
    program = shutil.which("azurite-blob", path=AZURITE) or shutil.which("azurite-blob")
    if program is None or shutil.which("node") is None:
        pytest.skip("azurite is not installed: make install, where npm is there")
    pytest.importorskip("adlfs", reason="adlfs is not installed: pip install 'palimpsest[azure]'")
    port = _free_port()
    command = [program, "--blobPort", str(port), "--skipApiVersionCheck", "--inMemoryPersistence"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path)
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # Azurite's own, public
    account = f"AccountName=devstoreaccount1;AccountKey={key}"
    connection = f"DefaultEndpointsProtocol=http;{account};BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection)
    try:
        _wait_for(port)
        from azure.storage.blob import BlobServiceClient

        container: Any = BlobServiceClient.from_connection_string(connection).create_container("con")
        yield "az://con", lambda name, content: container.upload_blob(name, content, overwrite=True)
    finally:
        process.kill()
        process.wait()


def test_containers_of_azure(azure: tuple[str, Write]) -> None:
    check_a_place_that_lists(*azure)


def check_the_hub(folder: Path) -> None:
    """Listing and reading, in a process whose HF_ENDPOINT is the stand-in: huggingface_hub reads it once."""
    uri = f"hf://datasets/{REPOSITORY}"
    check_a_place_that_lists(uri, lambda name, content: _write(folder, name, content))
    (found,) = storage_of(f"{uri}/in/")
    assert (found.state, found.detail) == (OK, "can be listed")
    with pytest.raises(FileNotFoundError, match="owner/nowhere .repository not found"):
        expand(["hf://datasets/owner/nowhere/in"], CONFIG)


def test_data_sets_of_the_hub(tmp_path: Path) -> None:
    code = (
        f"from pathlib import Path; from tests.test_sources_places import check_the_hub; check_the_hub(Path({str(tmp_path)!r}))"
    )
    with hub(tmp_path) as address:
        here = {**os.environ, "PYTHONPATH": PYTHONPATH, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path.parent / "hub")}
        done = subprocess.run([sys.executable, "-c", code], env=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_doctor_reaches_every_kind_of_place(web: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, folder = web
    _write(folder, "a.jsonl", LINES)
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING", raising=False)
    for uri, state, detail in (
        (f"{root}/a.jsonl", OK, "can be listed"),
        (f"{root}/none.jsonl", PROBLEM, "nothing is there"),
        (str(folder), OK, "can be listed"),
        ("az://con/x", PROBLEM, "set AZURE_STORAGE_CONNECTION_STRING|needs a package"),
        ("sftp://me:secret@host/x", PROBLEM, "holds credentials"),
        ("ftp://host/x", PROBLEM, "ftp"),
    ):
        (found,) = storage_of(uri)
        assert found.state == state and re.search(detail, found.detail) and "secret" not in found.detail, found
        assert bool(found.advice) == (state == PROBLEM)


def _wait_for(port: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"no server on port {port}")
