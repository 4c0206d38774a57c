"""Two configurations on one corpus: the second is refused before its work, and a killed run does not block for long."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from palimpsest.corpus import running
from palimpsest.corpus.format import create_corpus
from palimpsest.corpus.fsck import fsck
from palimpsest.corpus.gc import gc
from palimpsest.corpus.running import AlreadyRunning, at_work, check_running
from palimpsest.operations.dry_run import plan_only
from palimpsest.operations.ingest import ingest
from palimpsest.operations.progress import Progress
from palimpsest.operations.run import run
from palimpsest.storage.local_store import LocalStore
from palimpsest.storage.object_store import ObjectStore
from palimpsest.storage.opening import open_store
from palimpsest.storage.stable_json import to_bytes
from tests.conftest import JobFactory

REFUSED = r"run first is at work with other settings \(palimpsest run, fingerprint f1, process \d+ on .* or write another corpus"


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "BEAT", 0.05)
    monkeypatch.setattr(running.time, "sleep", lambda seconds: None)


def markers(store: ObjectStore) -> list[str]:
    return [info.key for info in store.list(running.PREFIX)]


def refuses_others(store: ObjectStore) -> None:
    with at_work(store, "first", "f1", "run"), at_work(store, "same", "f1", "ingest"):
        for _ in range(2):
            with pytest.raises(AlreadyRunning, match=REFUSED), at_work(store, "second", "f2", "run"):
                raise AssertionError("it began")
            with pytest.raises(AlreadyRunning, match=REFUSED):
                check_running(store, "f2")
        check_running(store, "f1")
        assert sorted(markers(store)) == ["_running/first.json", "_running/same.json"]
    assert markers(store) == []
    with at_work(store, "second", "f2", "run"):
        pass


def test_other_settings_are_refused_while_a_run_is_at_work(tmp_path: Path) -> None:
    refuses_others(LocalStore(tmp_path))


def test_in_a_bucket_too(seaweedfs_place: str) -> None:
    refuses_others(open_store(seaweedfs_place))


def left_by(store: LocalStore, process: int, host: str = "elsewhere", age: float = 0.0) -> None:
    """The marker of a run that was killed `age` seconds after its last sign of life."""
    store.put("_running/left.json", to_bytes({"run_id": "left", "fingerprint": "f1", "host": host, "process": process}))
    then = datetime.now(UTC).timestamp() - age
    os.utime(store.uri("_running/left.json"), (then, then))


def test_a_killed_run_is_noticed_at_once_on_its_machine_and_within_a_minute_elsewhere(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for process, host, age, blocks in (
        (gone.pid, platform.node(), 0, False),
        (os.getpid(), platform.node(), 0, True),
        (gone.pid, "elsewhere", 50, True),
        (gone.pid, "elsewhere", 70, False),
        (gone.pid, "elsewhere", -70, False),  # a clock that was set back
    ):
        left_by(store, process, host, age)
        if blocks:
            with pytest.raises(AlreadyRunning, match="run left is at work"), at_work(store, "mine", "f2", "run"):
                pass
            assert markers(store) == ["_running/left.json"]
        else:
            with at_work(store, "mine", "f2", "run"):
                assert markers(store) == ["_running/mine.json"]


def test_a_run_that_goes_on_for_long_stays_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    with at_work(store, "first", "f1", "run"):
        os.utime(store.uri("_running/first.json"), (0, 0))
        written = datetime.now(UTC)
        while next(iter(store.list(running.PREFIX))).modified < written - timedelta(seconds=10):
            pass  # the next beat writes it
        with pytest.raises(AlreadyRunning):
            check_running(store, "f2")


@pytest.mark.parametrize(
    "body", [b"", b"[" * 100_000, b'{"process": -1, "host": 5}', b'{"fingerprint": {"a": "' + b"x" * 9000 + b'"}}']
)
def test_a_damaged_marker_counts_as_a_run_until_it_expires(tmp_path: Path, body: bytes) -> None:
    store = LocalStore(tmp_path)
    store.put("_running/odd.json", body)
    with pytest.raises(AlreadyRunning, match=r"or delete .*_running/odd.json") as refused, at_work(store, "mine", "f2", "run"):
        pass
    assert len(str(refused.value)) < 1500
    os.utime(store.uri("_running/odd.json"), (0, 0))
    with at_work(store, "mine", "f2", "run"):
        pass


def test_gc_and_fsck_know_the_markers(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    create_corpus(store)
    left_by(store, 1)
    assert fsck(store) == [] and gc(store) == []
    (removal,) = gc(store, now=datetime.now(UTC) + timedelta(days=8), delete=True)
    assert removal.key == "_running/left.json" and markers(store) == []


def test_a_run_refuses_before_it_reads_or_writes_anything(tmp_path: Path, job: JobFactory) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out"
    source.write_text(json.dumps({"text": "one document"}) + "\n")
    mine, theirs = (job(source, out, f"storage.tokens={name}") for name in ("bf16", "int8"))
    before: list[set[str]] = []

    def watch(progress: Progress) -> None:
        if before:
            return
        store = LocalStore(out)
        before.append({info.key for info in store.list() if not info.key.startswith("runs/")})
        for refused in (run, ingest, plan_only):
            with pytest.raises(AlreadyRunning, match="is at work with other settings"):
                refused(theirs)  # type: ignore[operator]
        after = {info.key for info in store.list() if not info.key.startswith("runs/")}  # a refused pass is on record
        assert after == before[0]

    run(mine, watch)
    assert before and markers(LocalStore(out)) == []
    assert run(theirs).snapshot == 2  # one after the other is a change of settings
