"""Ingestions in processes of their own: killed at every step, and two at once. The stages run in the process, without Ray.

    python -m tests.ingest_child sweep JOB ROOT    for each n: a copy of ROOT/before as ROOT/<n>, a pass killed before its n-th
                                                   object gets its name, and a rerun
    python -m tests.ingest_child passes JOB N      N passes at once, forks of this process; prints their results as a list

JOB is a TOML file; `sweep` writes into ROOT/<n> whatever its `out` says.
"""

from __future__ import annotations

import json
import shutil
import sys
import tomllib
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from palimpsest.codecs import adapter
from palimpsest.config import JobConfig, parse
from palimpsest.operations import ingest as ingestion
from palimpsest.operations.ingest import ingest
from tests import crash_sweep


def sweep(config: JobConfig, root: Path) -> None:
    def job(corpus: Path) -> None:
        ingest(config.replace(out=str(corpus)))

    ingestion.probe = lambda store: None  # its race is no step of the protocol
    adapter.load_codec = cache(adapter.load_codec)
    crash_sweep.remember()
    shutil.copytree(root / "before", root / "first")
    job(root / "first")
    crash_sweep.sweep(job, root, crash_sweep.NAMES, start=root / "before")


def passes(config: JobConfig, number: int) -> list[Any]:
    with ProcessPoolExecutor(number, get_context("fork")) as pool:
        return [one.result().to_json() for one in [pool.submit(ingest, config) for _ in range(number)]]


if __name__ == "__main__":
    torch.set_num_threads(1)
    config = parse(tomllib.loads(Path(sys.argv[2]).read_text()))
    match sys.argv[1]:
        case "sweep":
            sweep(config, Path(sys.argv[3]))
        case "passes":
            print(json.dumps(passes(config, int(sys.argv[3]))))
        case _:
            sys.exit(__doc__)
