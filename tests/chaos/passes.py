"""One `palimpsest ingest` in a process of its own, which can be killed.

Processes are forked from a server that has imported everything, so that a pass costs its work and not its imports.

    light   the stages one after the other in the pass's own process (placement.executor = local)
    ray     as people run it, on the cluster that the job names
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
import traceback
from contextlib import suppress
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

CRASHED = 70  # an exception that the command does not explain: a bug
PATIENCE = {"light": 600.0, "ray": 1200.0}  # seconds, on a machine that is busy with other things
TRIES = 4  # of a request
READ_SECONDS = 2.0  # without a byte
KILLED = -signal.SIGKILL


def context() -> ForkServerContext:
    """Where the processes of passes come from."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["torch", "pyarrow.parquet", "pyarrow.dataset", "boto3", "tests.chaos.preload"])
    return found


class Pass:
    """A running pass.

    Args:
        job: the TOML file.
        said: its output goes to `<said>.out` and `<said>.err`.
    """

    def __init__(self, kind: str, job: Path, said: Path, environment: dict[str, str]) -> None:
        self.kind, self.said = kind, said
        self._process: BaseProcess = context().Process(target=_main, args=(kind, str(job), str(said), environment), daemon=True)
        self._process.start()
        self._ends = time.monotonic() + PATIENCE[kind]

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            if self._process.is_alive() and self._process.pid:
                os.kill(self._process.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Its exit code, negative where a signal ended it; `CRASHED` where it never ends."""
        self._process.join(max(0.0, self._ends - time.monotonic()))
        if self._process.is_alive():
            self.kill()
            self._process.join()
            with self.said.with_suffix(".err").open("a") as said:
                said.write(f"\nit did not end within {PATIENCE[self.kind]:.0f} s\n")
            return CRASHED
        return int(self._process.exitcode or 0)

    def complaint(self) -> str:
        """The end of what it said to stderr."""
        with suppress(FileNotFoundError):
            return self.said.with_suffix(".err").read_text(errors="replace")[-3000:]
        return ""


def _main(kind: str, job: str, said: str, environment: dict[str, str]) -> None:
    for place, stream in ((1, "out"), (2, "err")):
        with open(f"{said}.{stream}", "wb") as sink:
            os.dup2(sink.fileno(), place)
    os.environ.update(environment)
    code = CRASHED
    try:
        _hasten()
        settings: list[str] = []
        if kind == "light":
            settings = ["--set", "placement.executor=local"]
            _lighten()
        from palimpsest.cli.app import app

        app(["ingest", job, "--json", *settings])
    except SystemExit as ended:
        code = int(ended.code or 0) if isinstance(ended.code, int | None) else CRASHED
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _hasten() -> None:
    """Wait a twentieth between tries, and two seconds for a byte: the faults are the same, without an hour of pauses."""
    import botocore.retries.standard as standard

    from palimpsest.storage import s3_client as s3

    def soon(self: object, context: object) -> float:
        return random.random() * min(20.0, 2.0**context.attempt_number) / 20  # type: ignore[attr-defined]

    standard.ExponentialBackoff.delay_amount = soon
    s3.pause = lambda attempt: time.sleep(random.random() * min(20.0, 2.0**attempt) / 20)
    s3.READ_SECONDS = READ_SECONDS


def _lighten() -> None:
    import torch

    from palimpsest.operations import ingest as ingestion

    torch.set_num_threads(1)
    ingestion.probe = lambda store: None  # the start-up race: 1 to 3 s of the server's time, and tests/test_store_s3.py has it
