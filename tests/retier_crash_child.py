"""A re-tiering that dies before its n-th disk change, for each n, and is run again.

    python -m tests.retier_crash_child ROOT CODEC

ROOT/corpus is copied to ROOT/<n>; the job there is killed and run again. Prints the number of steps.
"""

from __future__ import annotations

import shutil
import sys
from functools import cache
from pathlib import Path

from palimpsest.codecs import adapter
from palimpsest.operations import retier
from tests import crash_sweep

AS_OF, POLICY = "2026-02-15", ("tiers.policy=age+importance",)


def job(corpus: Path) -> None:
    retier.retier(str(corpus), (*POLICY, f"codec.path={sys.argv[2]}"), as_of=AS_OF)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    retier.probe = lambda store: None  # its races are no part of what is tested here, and make most of the steps
    adapter.load_codec = cache(adapter.load_codec)
    crash_sweep.remember()
    shutil.copytree(root / "corpus", root / "first")
    job(root / "first")
    crash_sweep.sweep(job, root, crash_sweep.DISK, start=root / "corpus")
