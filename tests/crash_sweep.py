"""A job that is killed before its n-th change of the disk, for each n, and run again.

Every try is a fork of one process that has loaded the models and has run the job once: a fork inherits what the stages with a
model returned then (`remember`). A try takes a tenth of a second, so that all steps fit into the suite.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa

from palimpsest.flow.stages import Encode, Verify

DISK = ("mkdir", "fsync", "link", "replace", "unlink")
NAMES = ("link", "replace")  # an object gets its name, which is when others can see it


def sweep(job: Callable[[Path], Any], root: Path, calls: Sequence[str], start: Path | None = None) -> None:
    """Print the number of steps that the job was killed at; the first one that it survives ends the sweep.

    Args:
        job: works on the folder that it is given: `root`/000, `root`/001, …
        calls: the functions of `os` that are steps.
        start: what each folder is a copy of; without it the job makes its folder.
    """
    for step in count():
        folder = root / f"{step:03d}"
        if start:
            shutil.copytree(start, folder)
        ended = _in_child(lambda folder=folder, step=step: (_die_before(step, calls), job(folder)))
        if ended == 0:
            print(step)
            return
        if ended != -signal.SIGKILL or _in_child(lambda folder=folder: job(folder)) != 0:
            sys.exit(f"step {step}: the armed job ended with {ended}, or its rerun failed")


def _in_child(work: Callable[[], Any]) -> int:
    """Call `work` in a fork; returns how it ended, as in `os.waitstatus_to_exitcode`."""
    child = os.fork()
    if child == 0:
        try:
            os.fsync = lambda file: None  # a killed process loses nothing that it has written: no need to wait for the disk
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _die_before(step: int, calls: Sequence[str]) -> None:
    """Arm this process: SIGKILL to itself instead of its `step`-th call of one of the functions."""
    steps = count()

    def armed(call: Any) -> Any:
        def one(*args: Any, **kwargs: Any) -> Any:
            if next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return one

    for name in calls:
        setattr(os, name, armed(getattr(os, name)))


def remember() -> None:
    """From now on Encode and Verify work out once what a table becomes under a fingerprint."""
    for stage in (Encode, Verify):
        stage.__call__ = _remembering(stage.__call__)  # type: ignore[method-assign]


def _remembering(call: Any) -> Any:
    known: dict[tuple[str, bytes], pa.Table] = {}

    def one(self: Any, table: pa.Table) -> pa.Table:
        key = (self.fingerprint, _bytes(table))
        if key not in known:
            known[key] = call(self, table)
        return known[key]

    return one


def _bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table.combine_chunks())
    return sink.getvalue().to_pybytes()
