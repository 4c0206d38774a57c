"""Ingestions in processes of their own: killed at every step, and two at once. The stages run in the process, without Ray.

    python ingest_child.py sweep JOB ROOT    for each n: a copy of ROOT/before as ROOT/<n>, a pass killed before its n-th object
                                             gets its name, and a rerun
    python ingest_child.py pass JOB          one pass; prints the result

JOB is a TOML file; `sweep` writes into ROOT/<n> whatever its `out` says.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tomllib
from functools import cache
from itertools import count
from pathlib import Path

import torch

from palimpsest.codecs import adapter
from palimpsest.codecs.text_tokens import tokenizer
from palimpsest.config import JobConfig, parse
from palimpsest.flow.stages.model import codec_options
from palimpsest.operations import ingest as ingestion
from palimpsest.operations.ingest import ingest


def die_before(step: int) -> None:
    """Arm this process: SIGKILL to itself before its `step`-th object gets its name, which is when the others can see it."""
    steps = count()

    def armed(call):
        def one(*args, **kwargs):
            if next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return one

    os.link, os.replace = armed(os.link), armed(os.replace)


def in_child(config: JobConfig, step: int | None) -> int:
    child = os.fork()
    if child == 0:
        try:
            if step is not None:
                die_before(step)
            ingest(config)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def sweep(config: JobConfig, root: Path) -> None:
    """Print the number of steps that the pass was killed at; the first one that it survives ends the sweep."""
    for step in count():
        out = root / f"{step:03d}"
        shutil.copytree(root / "before", out)
        ended = in_child(config.replace(out=str(out)), step)
        if ended == 0:
            print(step)
            return
        if ended != -signal.SIGKILL or in_child(config.replace(out=str(out)), None) != 0:
            sys.exit(f"step {step}: the armed pass ended with {ended}, or its rerun failed")


def load_models_once(config: JobConfig) -> None:
    """Load both halves of the codec and the tokenizer before the children are forked: that takes longer than all that they do."""
    tokenizer()
    adapter.load_codec = cache(adapter.load_codec)
    for parts in ("encoder", "decoder"):
        adapter.load_codec(config.codec.name, config.codec.path, **codec_options(config), parts=parts)


if __name__ == "__main__":
    torch.set_num_threads(1)
    job = parse(tomllib.loads(Path(sys.argv[2]).read_text()))
    match sys.argv[1]:
        case "sweep":
            ingestion.probe = lambda store: None  # its race is no step of the protocol
            load_models_once(job)
            sweep(job, Path(sys.argv[3]))
        case "pass":
            print(json.dumps(ingest(job).to_json()))
        case _:
            sys.exit(__doc__)
