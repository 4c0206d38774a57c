"""`python -m tests.noisy_child run …`: the command line with libraries that talk all the time, and workers of Ray that die once.

NOISY_DEATHS names a folder, in which each stage notes that it has died; without it none dies.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import ray.cloudpickle

from palimpsest.cli import app, console
from palimpsest.flow import ray_executor, stages

DEATHS = os.environ.get("NOISY_DEATHS")
NOISE = "said by a library"


def die_once(stage: str) -> None:
    """End this process the first time that a stage has pages."""
    try:
        os.close(os.open(Path(os.environ["NOISY_DEATHS"], stage), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


class Render(stages.Render):
    def __call__(self, table: pa.Table) -> pa.Table:
        die_once("render")
        return super().__call__(table)


class Encode(stages.Encode):
    def __call__(self, table: pa.Table) -> pa.Table:
        die_once("encode")
        return super().__call__(table)


def talk() -> None:
    while True:
        for module in ("torch", "transformers", "pyarrow"):
            warnings.warn_explicit(f"{NOISE}:\n  on two lines", UserWarning, f"/site-packages/{module}/api.py", 7)
            warnings.warn_explicit(f"{NOISE}, deprecated", FutureWarning, f"/site-packages/{module}/api.py", 8)
            logging.getLogger(f"{module}.core").warning("%s\nTraceback (most recent call last):", NOISE)
        for name in ("ray", "ray.data", "ray.data._internal.execution"):
            logging.getLogger(name).error("An exception was raised from a task of operator MapBatches(EncodeWorker)\n%s", NOISE)
        time.sleep(0.5)


def quiet_and_talk(quiet: Callable[[], None]) -> None:
    quiet()
    warnings.simplefilter("always")
    threading.Thread(target=talk, daemon=True).start()


if __name__ == "__main__":
    if DEATHS:
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers do not have the tests
        ray_executor.Render, ray_executor.Encode = Render, Encode  # type: ignore[misc]
    console.quiet_libraries = partial(quiet_and_talk, console.quiet_libraries)
    app.main()
