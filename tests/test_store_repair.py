"""A published unit that lost a shard is rebuilt by the next run, and by nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from palimpsest.corpus.fsck import fsck
from palimpsest.corpus.gc import UNUSED_FOR, gc
from palimpsest.corpus.repair import committed, lost_units, successor
from palimpsest.corpus.snapshots import Snapshot, iter_rows, latest
from palimpsest.corpus.units import committed_units
from palimpsest.operations.run import run
from palimpsest.storage.local_store import LocalStore
from tests.conftest import JobFactory
from tests.mixed_sources import prose


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Three documents; the third file holds the second one's text too."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}.txt").write_text(prose(1500, number))
    (folder / "2.jsonl").write_text(f'{{"text": "only here"}}\n{{"text": "{prose(1500, 1)}"}}\n')
    return folder


def newest(store: LocalStore) -> Snapshot:
    snapshot = latest(store)
    assert snapshot is not None
    return snapshot


def content(store: LocalStore) -> list[dict[str, Any]]:
    return sorted(iter_rows(store, newest(store)), key=lambda row: row["page_id"])


def damage(store: LocalStore, how: str, source: str) -> None:
    unit = next(unit for unit in newest(store).units if unit.source_uri.endswith(source))
    key = unit.shards[0].key
    store.delete(key)
    if how == "cut short":
        store.put(key, b"PAR1")


@pytest.mark.parametrize("how", ["lost", "cut short"])
@pytest.mark.parametrize("source", ["0.txt", "1.txt"])
def test_a_run_makes_a_lost_unit_anew(job: JobFactory, sources: Path, tmp_path: Path, how: str, source: str) -> None:
    out = tmp_path / "out"
    config, store = job(sources, out), LocalStore(out)
    run(config)
    before, units = content(store), {unit.source_uri: unit for unit in newest(store).units}
    damage(store, how, source)
    assert {finding.severity for finding in fsck(store)} == {"error"}
    result = run(config)
    relying = 1 if source == "1.txt" else 0  # what deferred to the lost unit relies on its successor now
    assert (result.units_new, result.units_done, result.snapshot) == (1 + relying, 2 - relying, 2)
    assert content(store) == before
    old = next(unit for uri, unit in units.items() if uri.endswith(source))
    assert successor(old.unit_id) in {unit.unit_id for unit in newest(store).units}
    again = run(config)
    assert (again.units_new, again.units_done, again.snapshot) == (0, 3, 2)
    assert all(old.unit_id in finding.key for finding in fsck(store) if finding.severity == "error")  # in snapshot 1
    from datetime import UTC, datetime

    gc(store, now=datetime.now(UTC) + 2 * UNUSED_FOR, delete=True)
    assert fsck(store) == []


def test_a_repair_that_was_not_published_goes_on(job: JobFactory, sources: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    config, store = job(sources, out), LocalStore(out)
    run(config)
    before = content(store)
    damage(store, "lost", "0.txt")
    run(config)
    store.delete("_snapshots/00000002.json")  # as if the run had died before it published
    result = run(config)
    assert (result.units_new, result.units_done, result.snapshot) == (0, 3, 2) and content(store) == before
    damage(store, "lost", "0.txt")  # the successor, this time
    assert run(config).units_new == 1 and content(store) == before


def test_a_committed_unit_that_nobody_published_is_made_anew_too(job: JobFactory, sources: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    config, store = job(sources, out), LocalStore(out)
    run(config)
    before, whole = content(store), next(iter(newest(store).units))
    damage(store, "lost", "0.txt")
    store.put(f"_units/{whole.unit_id}.json", b"{")
    for prefix in ("_snapshots/", "_manifests/", "_documents/"):
        for info in list(store.list(prefix)):
            store.delete(info.key)
    assert run(config).units_new >= 1
    assert content(store) == before


def test_nothing_is_lost_where_nothing_is(job: JobFactory, sources: Path, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "out")
    run(job(sources, tmp_path / "out"))
    units = list(newest(store).units)
    assert lost_units(store, units) == frozenset() == lost_units(store, [])
    for name in committed_units(store):
        assert committed(store, name)[0] == name
    assert committed(store, "0" * 24) == ("0" * 24, None)
