"""A re-tiering that dies before its n-th disk change, for each n, and is run again.

    python -m tests.retier_crash_child ROOT CODEC

ROOT/corpus is copied to ROOT/<n>; the job there is killed and run again. Prints the number of steps. The models are loaded once,
before the children are forked.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from functools import cache
from itertools import count
from pathlib import Path

import pytest

from palimpsest.codecs import adapter
from palimpsest.codecs.text_tokens import tokenizer
from palimpsest.operations import retier as job
from tests.store_crash_child import die_before

AS_OF, POLICY = "2026-02-15", ("tiers.policy=age+importance",)


def once(root: Path, step: int | None) -> int:
    """Re-tier in a child process; returns how it ended, as in `os.waitstatus_to_exitcode`."""
    child = os.fork()
    if child == 0:
        if step is not None:
            die_before(step)
        job.retier(str(root), (*POLICY, f"codec.path={sys.argv[2]}"), as_of=AS_OF)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def sweep(root: Path) -> None:
    for step in count():
        corpus = root / f"{step:03d}"
        shutil.copytree(root / "corpus", corpus)
        ended = once(corpus, step)
        if ended == 0:
            print(step)
            return
        if ended != -signal.SIGKILL or once(corpus, None) != 0:
            sys.exit(f"step {step}: the armed job ended with {ended}, or its rerun failed")


if __name__ == "__main__":
    patches = pytest.MonkeyPatch()
    tokenizer()
    load = cache(adapter.load_codec)
    patches.setattr(adapter, "load_codec", load)
    patches.setattr(job, "probe", lambda store: None)  # its races are no part of what is tested here, and make most of the steps
    for parts in ("encoder", "decoder"):
        import torch

        options = {"revision": None, "content_hash": None, "dtype": torch.bfloat16, "device": "cpu", "trust_remote_code": False}
        load("embedded", sys.argv[2], **options, parts=parts)
    sweep(Path(sys.argv[1]))
