"""The store under kill -9, races between processes, and disks that fail."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palimpsest.corpus.fsck import fsck
from palimpsest.corpus.shards import read_shard
from palimpsest.corpus.snapshots import Snapshot, iter_rows, latest, read_snapshot, snapshot_numbers
from palimpsest.storage.local_store import LocalStore
from palimpsest.storage.object_store import StoreError
from tests.paths import PYTHONPATH
from tests.store_crash_child import job

CHILD = [sys.executable, "-m", "tests.store_crash_child"]
HERE = {"PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1"}


def logical_content(root: Path) -> tuple[Any, ...]:
    """Every row and column that a reader sees, and every quarantined record; not the names of tries and runs."""
    store = LocalStore(root)
    snapshot = latest(store)
    assert isinstance(snapshot, Snapshot)
    rows = sorted(iter_rows(store, snapshot), key=lambda row: row["page_id"])
    quarantined = [read_shard(store, unit.quarantine).to_pylist() for unit in snapshot.units if unit.quarantine]
    return rows, quarantined, snapshot.totals, [unit.unit_id for unit in snapshot.units]


def test_a_job_killed_at_any_step_and_run_again_ends_in_the_same_corpus(tmp_path: Path) -> None:
    job(tmp_path / "undisturbed")
    expected = logical_content(tmp_path / "undisturbed")
    assert len(expected[0]) == 8 and fsck(LocalStore(tmp_path / "undisturbed")) == []
    swept = subprocess.run([*CHILD, "sweep", str(tmp_path / "killed")], env=HERE, check=True, capture_output=True, text=True)
    steps = int(swept.stdout)
    assert steps > 40
    left_behind = set()
    for step in range(steps):
        root = tmp_path / "killed" / f"{step:03d}"
        assert logical_content(root) == expected, f"killed at step {step}"
        findings = fsck(LocalStore(root))
        assert all(finding.severity == "warning" for finding in findings), f"killed at step {step}: {findings}"
        left_behind |= {finding.what.split()[0] for finding in findings}
    assert left_behind == {"orphan", "unfinished"}  # the sweep reached between the writes, and into them


def test_processes_that_race_on_units_and_on_the_snapshot_make_one_corpus(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen([*CHILD, "run", str(tmp_path / "raced"), str(seed), str(units)], env=HERE)
        for seed, units in enumerate((3, 4, 4, 2))
    ]
    assert [racer.wait(60) for racer in racers] == [0] * 4
    job(tmp_path / "alone", units=4)
    store = LocalStore(tmp_path / "raced")
    assert logical_content(tmp_path / "raced") == logical_content(tmp_path / "alone")
    numbers = snapshot_numbers(store)
    assert [read_snapshot(store, number).parent for number in numbers] == [None, *numbers[:-1]]
    assert all(finding.severity == "warning" for finding in fsck(store))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KB, where this user may mount one."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a tmpfs")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk_is_named_and_nothing_half_written_shows(small_disk: Path) -> None:
    store = LocalStore(small_disk / "corpus")
    store.put("data/first", b"x" * 100_000)
    for write in (store.put, store.create):
        with pytest.raises(StoreError, match=r"data/second: No space left on device \(the disk is full\)"):
            write("data/second", b"x" * 300_000)
    assert [info.key for info in store.list()] == ["data/first"] and list(store.unfinished()) == []
    assert store.create("data/second", b"x" * 100_000)


def test_a_read_only_disk_is_named(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreError, match="the file system is read-only"):
        LocalStore(small_disk / "corpus").create("corpus.json", b"{}")


def test_a_file_size_limit_is_named_and_nothing_half_written_shows(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(StoreError, match="larger than this process may write"):
            store.create("data/big", b"x" * 20_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(store.list()) == [] == list(store.unfinished())


def test_an_output_below_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=r"cannot create .*file/corpus/corpus\.json: .*\(a part of the path is a file"):
        LocalStore(tmp_path / "file" / "corpus").create("corpus.json", b"{}")
