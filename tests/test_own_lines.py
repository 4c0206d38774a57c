"""Every line that a command prints is one of ours, whatever Ray and the libraries say, when workers die, and at Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from palimpsest.config import to_toml
from palimpsest.flow.ray_output import CORE_LINE, core_lines_held
from tests.conftest import JobFactory
from tests.mixed_sources import prose
from tests.noisy_child import NOISE
from tests.paths import PYTHONPATH

pytestmark = pytest.mark.cluster

OURS = [
    re.compile(pattern)
    for pattern in (
        r" *\d+ s  (starting|[\d,]+( of (about )?[\d,]+)? pages  [\d,.]+ pages/s.*)",  # the heartbeat
        r"\d\d:\d\d:\d\d [a-z_]+( [a-z_]+=.*)?",  # an event
        r"run [\dT]+-[0-9a-f]+",  # the result
        r"(snapshot|units|documents|pages|tokens|ratio|time|speed|quarantine)  +\S.*",
        r"See it: palimpsest report \S+",
        r"\d+ names? passed over: .*",
        r"failed: stopped with \d+ of \d+ units committed; the same command .*",
        r"",
    )
]
CORE = "[2026-11-30 07:54:48,183 I 7562 7562] logging.cc:303: Set ray log level from environment variable"


def foreign(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if not any(pattern.fullmatch(line.rstrip()) for pattern in OURS)]


class Child:
    """The noisy command line, in a process group of its own, as a shell starts it; both streams go to a file."""

    def __init__(self, output: Path, *arguments: str | Path, **variables: str) -> None:
        self.output = output
        environment = {**os.environ, "PYTHONPATH": PYTHONPATH, **variables}
        environment.pop("COLUMNS", None)  # by which tables are folded
        command = [sys.executable, "-m", "tests.noisy_child", *map(str, arguments)]
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                command, env=environment, start_new_session=True, stdout=file, stderr=subprocess.STDOUT
            )

    def wait(self) -> tuple[int, str]:
        """The exit code, and what was printed."""
        try:
            code = self.process.wait(timeout=300)
        finally:
            self.process.kill()
        return code, self.output.read_text("utf-8")


def without_noise(printed: str) -> str:
    return "\n".join(line for line in printed.splitlines() if "library_" not in line)


def test_the_demo_with_dying_workers_and_talking_libraries(tmp_path: Path) -> None:
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    code, printed = Child(tmp_path / "said", "run", "demo", "--out", tmp_path / "out", NOISY_DEATHS=str(deaths)).wait()
    assert code == 0, without_noise(printed)
    assert sorted(path.name for path in deaths.iterdir()) == ["encode", "render"]
    assert not foreign(printed)
    assert f"text={NOISE}: on two lines" in printed  # a warning is not hidden
    assert "cluster_message" in printed and "A worker died" in printed
    assert "deprecated" not in printed  # advice for programmers is


def test_ctrl_c(job: JobFactory, tmp_path: Path) -> None:
    """It reaches the whole process group."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in range(60):
        (folder / f"{name}.jsonl").write_text(json.dumps({"text": prose(20_000, name)}))
    preset = tmp_path / "job.toml"
    preset.write_text(to_toml(job(folder, out, "placement.executor=ray", "placement.render_batch=4", "placement.shard_batch=4")))
    run = Child(tmp_path / "said", "run", preset)
    deadline = time.monotonic() + 200
    while not any((out / "_units").glob("*.json")) and run.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(run.process.pid, signal.SIGINT)
    code, printed = run.wait()
    assert code == 1, without_noise(printed)
    assert not foreign(printed)
    assert without_noise(printed).splitlines()[-1].startswith("failed: stopped with")


@contextmanager
def descriptor(path: Path) -> Iterator[None]:
    """File descriptor 2 and `sys.stderr` go to this file."""
    saved, before = os.dup(2), sys.stderr
    with path.open("wb") as file:
        os.dup2(file.fileno(), 2)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = before
        os.dup2(saved, 2)
        os.close(saved)


def test_lines_of_the_core_are_dropped_and_all_others_pass(tmp_path: Path) -> None:
    path = tmp_path / "stderr"
    with descriptor(path):
        with core_lines_held():
            os.write(2, f"{CORE}\nout of file descriptors\n".encode())
            print("ours", file=sys.stderr)
            at_once = path.read_text()
        print("later", file=sys.stderr, flush=True)
    assert (at_once, path.read_text()) == ("ours\n", "ours\nout of file descriptors\nlater\n")


def test_lines_of_the_core_are_in_the_error_when_ray_does_not_start(tmp_path: Path) -> None:
    path = tmp_path / "stderr"
    with descriptor(path), pytest.raises(RuntimeError) as raised, core_lines_held():
        os.write(2, f"{CORE}\n".encode())
        raise RuntimeError("Ray did not start")
    assert CORE in raised.value.__notes__[0]
    assert path.read_text() == ""


def test_a_line_of_ours_is_none_of_the_core() -> None:
    assert CORE_LINE.match(CORE.encode())
    for line in ("[x] a.cc: 1", "failed: [2026-11-30 07:54:48,183 I 7562 7562] is a name", "12:00:01 unit_committed"):
        assert not CORE_LINE.match(line.encode())
