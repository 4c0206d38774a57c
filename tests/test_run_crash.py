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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from palimpsest.config import JobConfig, to_toml
from palimpsest.corpus.fsck import fsck
from palimpsest.storage.local_store import LocalStore
from tests.conftest import JobFactory
from tests.mixed_sources import prose
from tests.test_flow import content

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

CHILD = """
import sys, tomllib
from palimpsest.config import parse
from palimpsest.operations.run import run
config = parse(tomllib.load(open(sys.argv[1], "rb")))
run(config, lambda progress: print(progress.units, progress.pages, flush=True))
"""
PATIENCE = 900  # seconds for an undisturbed run on a machine that is busy with other things


@contextmanager
def started(preset: Path) -> Iterator[subprocess.Popen[str]]:
    """The run as the leader of a session of its own, to which all that it starts belongs; none of it outlives the block."""
    command, here = [sys.executable, "-c", CHILD, str(preset)], Path(__file__).parent.parent
    with preset.with_suffix(".log").open("a") as log:
        child = subprocess.Popen(command, start_new_session=True, text=True, cwd=here, stdout=subprocess.PIPE, stderr=log)
    try:
        yield child
    finally:
        kill_session(child)


def kill_session(child: subprocess.Popen[str]) -> None:
    """SIGKILL to every process of the child's session, until none is left."""
    while members := session_members(child.pid):
        for pid in members:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        child.poll()
        time.sleep(0.1)
    child.wait()


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
def config(job: JobFactory, tmp_path: Path, request: pytest.FixtureRequest) -> JobConfig:
    """Units of a few pages each, enough for all kills, and some bad records."""
    folder = tmp_path / "in"
    folder.mkdir()
    for unit in range(3 * request.config.getoption("--kills")):
        records = [{"id": f"{unit}-{number}", "text": prose(1500 + 900 * number, 10 * unit + number)} for number in range(3)]
        lines = [json.dumps(record) for record in [*records, {"id": "shared", "text": prose(500, 999)}]]
        (folder / f"{unit}.jsonl").write_text("\n".join([*lines, "no json"]))
    return job(folder, tmp_path / "killed", "placement.executor=ray", "placement.render_batch=4", "placement.shard_batch=4")


def test_a_run_killed_at_random_moments_ends_in_the_same_corpus(
    config: JobConfig, job: JobFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    preset = tmp_path / "preset.toml"
    preset.write_text(to_toml(config))
    store, moments = LocalStore(config.out), random.Random(20260)
    kills, left = request.config.getoption("--kills"), []
    for _ in range(kills):
        with started(preset) as child:
            assert child.stdout is not None
            for _ in range(moments.randint(1, 7)):  # the first report says that the plan is made
                child.stdout.readline()
            time.sleep(moments.random() * 0.3)
        assert child.returncode in (-signal.SIGKILL, 0), preset.with_suffix(".log").read_text()[-2000:]
        left.append(sum(1 for _ in store.list("_units/")))
    assert left == sorted(left)
    with started(preset) as last:
        last.communicate(timeout=PATIENCE)
    assert last.returncode == 0, preset.with_suffix(".log").read_text()[-2000:]
    from palimpsest.operations.run import run

    folder = tmp_path / "undisturbed"
    run(job(tmp_path / "in", folder))
    assert content(Path(config.out)) == content(folder)
    findings = fsck(store)
    assert [finding for finding in findings if finding.severity == "error"] == []
    print(f"{kills} kills; committed units after each {left}; {len(findings)} leftovers for gc")
