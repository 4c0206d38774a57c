"""An ingestion killed before any of its objects gets its name, and run again; two ingestions at once in two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from palimpsest.config import JobConfig, to_toml
from palimpsest.corpus.fsck import fsck
from palimpsest.corpus.shards import read_shard
from palimpsest.corpus.snapshots import iter_rows, latest
from palimpsest.operations.ingest import ingest
from palimpsest.storage.object_store import ObjectStore
from palimpsest.storage.opening import open_store
from tests.conftest import JobFactory
from tests.test_run import by_id, documents, write_lines

HERE = Path(__file__).parent
PATIENCE = 900  # seconds, on a machine that is busy with other things
SETTINGS = ("verification.share=0", "ingest.vanished=drop", "ingest.drop_share=0.5", "ingest.tries=1", "ingest.batch_units=2")


def content(store: ObjectStore) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What a reader finds: rows and quarantine of the newest snapshot."""
    snapshot = latest(store)
    assert snapshot is not None
    quarantine = [row for unit in snapshot.units if unit.quarantine for row in read_shard(store, unit.quarantine).to_pylist()]
    rows = sorted(iter_rows(store, snapshot), key=lambda row: row["page_id"])
    return rows, sorted(quarantine, key=lambda row: (row["source_uri"], row["reason"]))


def errors(store: ObjectStore) -> list[Any]:
    return [finding for finding in fsck(store) if finding.severity == "error"]


def child(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.ingest_child", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=HERE.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> str:
    try:
        said, complained = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0, complained[-3000:]
    return said


def change(folder: Path) -> None:
    """A night's changes: rewritten, vanished, new, a document that moves, one that is stored already, what cannot be read."""
    write_lines(folder / "a.jsonl", "a", "new in a")
    (folder / "b.jsonl").unlink()
    write_lines(folder / "e.jsonl", "cc", "aa", "e")
    (folder / "f.jsonl").write_text("no json\n")
    os.mkfifo(folder / "g.jsonl")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abcd":
        write_lines(folder / f"{name}.jsonl", name, f"{name}{name}")
    return folder


@pytest.mark.slow
def test_a_pass_killed_at_any_step_ends_in_the_same_corpus(
    folder: Path, job: JobFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "killed"
    before: JobConfig = job(folder, root / "before", *SETTINGS)
    ingest(before)
    write_lines(folder / "d.jsonl", "d", "dd", "aa")  # relies on a.jsonl
    ingest(before)
    change(folder)
    (tmp_path / "job.toml").write_text(to_toml(before))
    steps = int(finished(child("sweep", str(tmp_path / "job.toml"), str(root))))
    assert steps > 15
    undisturbed = open_store(root / f"{steps:03d}")
    rows, quarantine = content(undisturbed)
    assert documents(root / f"{steps:03d}") == by_id("a", "new in a", "c", "cc", "d", "dd", "aa", "e")
    assert {row["reason"] for row in quarantine} == {"invalid_json", "unreadable"}
    for step in range(steps + 1):
        store = open_store(root / f"{step:03d}")
        assert (step, content(store)) == (step, (rows, quarantine))
        assert (step, errors(store)) == (step, [])


def at_once(config: JobConfig, tmp_path: Path, number: int = 2) -> list[dict[str, Any]]:
    (tmp_path / "job.toml").write_text(to_toml(config))
    results: list[dict[str, Any]] = json.loads(finished(child("passes", str(tmp_path / "job.toml"), str(number))))
    return results


@pytest.mark.slow
def test_two_passes_in_two_processes_make_one_corpus(folder: Path, job: JobFactory, tmp_path: Path) -> None:
    config: JobConfig = job(folder, tmp_path / "out", *SETTINGS)
    for changed in (lambda: None, lambda: change(folder)):
        changed()
        results = at_once(config, tmp_path)
        assert max(result["snapshot"] for result in results) == latest_number(config)
    assert documents(tmp_path / "out") == by_id("a", "new in a", "c", "cc", "d", "dd", "aa", "e")
    assert errors(open_store(config.out)) == []


def latest_number(config: JobConfig) -> int:
    snapshot = latest(open_store(config.out))
    assert snapshot is not None
    return snapshot.number


@pytest.fixture
def bucket(seaweedfs_place: str) -> str:
    return seaweedfs_place


@pytest.fixture
def put(bucket: str) -> Callable[..., None]:
    """`put(name, text, …)`: JSON lines as `in/name` of the bucket; without texts the object is deleted."""
    store = open_store(f"{bucket}/in")

    def one(name: str, *texts: str) -> None:
        if texts:
            store.put(name, "".join(json.dumps({"text": text}) + "\n" for text in texts).encode())
        else:
            store.delete(name)

    return one


@pytest.mark.slow
def test_nights_on_an_s3_service(
    bucket: str, put: Callable[..., None], job: JobFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.jsonl", "deep/er/b.jsonl", "c.jsonl", "in2.jsonl"):
        put(name, name, f"shared by {name[:1]}")
    config: JobConfig = job(Path("x"), Path("x"), *SETTINGS, f'sources=["{bucket}/in/"]', f"out={bucket}/corpus")
    store = open_store(config.out)
    first = ingest(config)
    assert (first.changes["new"], first.units_new) == (4, 4)
    assert ingest(config).changes["unchanged"] == 4
    put("a.jsonl", "a.jsonl", "rewritten")
    put("c.jsonl")
    put("late.jsonl", "late", "shared by i")
    open_store(f"{bucket}/in").put("empty.jsonl", b"")
    open_store(f"{bucket}/in").put("bad.parquet", b"PAR1")
    second = ingest(config)
    assert {kind: number for kind, number in second.changes.items() if number} == {
        "unchanged": 2, "new": 3, "rewritten": 1, "vanished": 1,
    }  # fmt: skip
    assert (second.dropped, second.fresh.duplicates, second.reasons) == (1, 1, {"corrupt_parquet": 1})
    rows, quarantine = content(store)
    texts = {"a.jsonl", "rewritten", "deep/er/b.jsonl", "shared by d", "in2.jsonl", "shared by i", "late"}
    assert {row["text"] for row in rows} == texts and len(quarantine) == 1 and errors(store) == []
    quiet = ingest(config)
    assert quiet.changes["unchanged"] == 6 and not quiet.snapshots
    for number in range(6):
        put(f"more/{number}.jsonl", f"more {number}")
    results = at_once(config, tmp_path)
    assert {row["text"] for row in content(store)[0]} == texts | {f"more {number}" for number in range(6)}
    assert errors(store) == [] and all(result["changes"]["new"] == 6 for result in results)
