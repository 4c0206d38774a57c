"""The scripts of docs/train-on-a-corpus.md run as they are printed."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.loader_corpora import DIM, publish_corpus
from tests.paths import ROOT, SOURCE


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    page = (ROOT / "docs" / "train-on-a-corpus.md").read_text("utf-8")
    for body in re.findall(r"```python\n(# \w+\.py\n.*?)```", page, re.DOTALL):
        assert body.count("\n") <= 62
        (tmp_path / body.split()[1]).write_text(body)
    publish_corpus(tmp_path / "corpus", units=2, documents=12)
    return tmp_path


def run(scripts: Path, name: str, steps: int, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, name, "corpus", "state.pt", str(steps), str(DIM)]
    paths = os.pathsep.join([str(SOURCE), str(scripts)])
    return subprocess.Popen(
        command, cwd=scripts, env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def lines(process: subprocess.Popen[str]) -> list[str]:
    out, problem = process.communicate(timeout=240)
    assert process.returncode == 0, problem
    return [line.partition(" [")[2] for line in out.splitlines()]


def pages_of(printed: list[str]) -> list[str]:
    return [line.partition("]")[0] for line in printed]


@pytest.mark.slow
def test_the_scripts_train_and_continue(scripts: Path) -> None:
    whole = pages_of(lines(run(scripts, "train.py", 4)))
    (scripts / "state.pt").unlink()
    assert pages_of(lines(run(scripts, "train.py", 2)) + lines(run(scripts, "train.py", 2))) == whole and len(whole) == 4
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = [
        run(scripts, "ranks.py", 2, RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        for rank in range(2)
    ]
    seen = [lines(process) for process in ranks]
    assert all(len(some) == 2 for some in seen) and not set(seen[0]) & set(seen[1])
