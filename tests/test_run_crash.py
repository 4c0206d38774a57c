"""A run that is killed at random moments, Ray and all, and run again: the corpus is that of an undisturbed one.

Three kills by default; `pytest tests/test_run_crash.py --kills 10` is the full measure.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.config import JobConfig, to_toml
from pipeline.store.fsck import fsck
from pipeline.store.local import LocalStore
from tests import flow_in_process
from tests.conftest import JobFactory
from tests.mixed_sources import prose
from tests.test_flow import content

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

CHILD = """
import sys, tomllib
from pipeline.config import parse
from pipeline.run import run
config = parse(tomllib.load(open(sys.argv[1], "rb")))
run(config, lambda progress: print(progress.units, progress.pages, flush=True))
"""
START_SECONDS = 300  # until the first rows arrive, on a busy machine


def start(preset: Path) -> subprocess.Popen[str]:
    """The run as the leader of a session of its own, to which all that it starts belongs."""
    command, here = [sys.executable, "-c", CHILD, str(preset)], Path(__file__).parent.parent
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, start_new_session=True, text=True, cwd=here, **pipes)


def kill_session(child: subprocess.Popen[str]) -> None:
    """SIGKILL to every process of the child's session, until none is left."""
    while members := session_members(child.pid):
        for pid in members:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        child.poll()
        time.sleep(0.1)
    child.communicate()


def session_members(session: int) -> list[int]:
    """The living processes of a session."""
    members = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, of_session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(of_session) == session and state not in "ZX":
            members.append(int(folder.name))
    return members


@pytest.fixture
def config(job: JobFactory, tmp_path: Path) -> JobConfig:
    """Eight units of a few pages each, and some bad records."""
    folder = tmp_path / "in"
    folder.mkdir()
    for unit in range(8):
        records = [{"id": f"{unit}-{number}", "text": prose(1500 + 900 * number, 10 * unit + number)} for number in range(4)]
        lines = [json.dumps(record) for record in [*records, {"id": "shared", "text": prose(500, 999)}]]
        (folder / f"{unit}.jsonl").write_text("\n".join([*lines, "no json"]))
    return job(folder, tmp_path / "killed", "placement.render_batch=4", "placement.shard_batch=4")


def test_a_run_killed_at_random_moments_ends_in_the_same_corpus(
    config: JobConfig, job: JobFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    preset = tmp_path / "preset.toml"
    preset.write_text(to_toml(config))
    store, moments = LocalStore(config.out), random.Random(20260)
    kills, left = request.config.getoption("--kills"), []
    for _ in range(kills):
        child = start(preset)
        assert child.stdout is not None
        before, wanted = child.stdout.readline(), moments.randint(0, 6)  # the plan is made; then so many reports of rows
        for _ in range(wanted):
            before = child.stdout.readline() or before
        time.sleep(moments.random() * 0.3)
        kill_session(child)
        if child.returncode != -signal.SIGKILL:
            assert child.returncode == 0, f"the run ended by itself after {before!r}"
        left.append(sum(1 for _ in store.list("_units/")))
    assert left == sorted(left)
    last = start(preset)
    out, err = last.communicate(timeout=START_SECONDS)
    kill_session(last)
    assert last.returncode == 0, err[-2000:]
    flow_in_process.without_ray(monkeypatch)
    from pipeline.run import run

    folder = tmp_path / "undisturbed"
    run(job(tmp_path / "in", folder))
    assert content(Path(config.out)) == content(folder)
    findings = fsck(store)
    assert [finding for finding in findings if finding.severity == "error"] == []
    print(f"{kills} kills; committed units after each {left}; {len(findings)} leftovers for gc")
