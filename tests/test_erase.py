"""Erasure: the named documents are in no object any more, all else is as it was, and a crash anywhere changes nothing of that."""

from __future__ import annotations

from pathlib import Path

import pytest

import palimpsest
from palimpsest.corpus.format import create_corpus
from palimpsest.corpus.fsck import fsck
from palimpsest.corpus.matching import present
from palimpsest.corpus.row_filter import condition
from palimpsest.corpus.snapshots import publish, snapshot_numbers
from palimpsest.errors import UsageError
from palimpsest.operations import erase as erasing
from palimpsest.operations.erase import NothingToErase, SharedDocuments, erase
from palimpsest.schemas import SHARD
from palimpsest.storage.local_store import LocalStore
from palimpsest.storage.object_store import Body
from tests.store_crash_child import page, rows, unit_pages, write_unit

WHERE = "source_id = 'anna'"


def of_anna(doc: int) -> list[dict[str, object]]:
    """Two pages of one document, of two tiers; only the first one carries the id, so that the document must be found whole."""
    return [{**page(doc, 0), "source_id": "anna"}, page(doc, 1, tier="text")]


def write_corpus(root: Path) -> LocalStore:
    """Three units, two of them with a document of Anna; the first snapshot has two of them, and a run left a report."""
    store = LocalStore(root)
    create_corpus(store)
    units = [
        write_unit(store, "in/0", rows([*of_anna(1), *unit_pages(7)]), bad=2),
        write_unit(store, "in/1", rows(unit_pages(8)), bad=1),
    ]
    publish(store, "r1", units)
    publish(store, "r2", [write_unit(store, "in/2", rows(of_anna(2)))])
    store.put("runs/r1/report.html", b"anna wrote")
    return store


def others(store: LocalStore) -> dict[str, bytes]:
    """The objects of the unit that has nothing of Anna."""
    (unit,) = [unit for unit in palimpsest.Corpus(str(store.root)).snapshot.units if unit.source_uri == "in/1"]
    return {part.key: store.read(part.key) for part in unit.objects}


def pages_left(store: LocalStore) -> list[str]:
    return sorted(found.page_id for found in palimpsest.Corpus(str(store.root)).pages())


def assert_erased(store: LocalStore, before: dict[str, bytes]) -> None:
    found = fsck(store, absent=WHERE)
    assert [finding for finding in found if finding.severity == "error"] == []
    assert list(present(store, condition("doc_id in ('doc-1', 'doc-2')", SHARD))) == []  # type: ignore[arg-type]
    assert pages_left(store) == sorted(str(row["page_id"]) for row in (*unit_pages(7), *unit_pages(8)))
    assert others(store) == before and not store.exists("runs/r1/report.html")
    totals = palimpsest.Corpus(str(store.root)).snapshot.totals
    assert (totals.documents_committed, totals.documents_quarantined, totals.rows) == (4, 3, 8)


def test_a_person_is_removed_from_every_snapshot_and_all_else_stays(tmp_path: Path) -> None:
    store = write_corpus(tmp_path / "corpus")
    before, everything = others(store), {info.key: info.size for info in store.list()}
    assert {finding.key.split("/")[0] for finding in fsck(store, absent=WHERE)} == {"data"}
    planned = erase(str(store.root), WHERE, dry_run=True)
    assert {info.key: info.size for info in store.list()} == everything and planned.documents == ("doc-1", "doc-2")
    done = erase(str(store.root), WHERE)
    assert (done.documents, done.units, done.snapshot, done.snapshots) == (planned.documents, 2, 3, (1, 2))
    assert planned.snapshots == (1, 2) and set(planned.deleted) <= set(done.deleted)
    assert_erased(store, before)
    assert [finding for finding in fsck(store) if finding.severity == "warning"] == []
    with pytest.raises(NothingToErase, match="nothing in .* matches .*anna.*nothing was changed"):
        erase(str(store.root), WHERE)


class _Dies(LocalStore):
    """A store whose process dies before its n-th change."""

    left = 0

    def _step(self) -> None:
        if _Dies.left == 0:
            raise KeyboardInterrupt
        _Dies.left -= 1

    def create(self, key: str, body: Body) -> bool:
        self._step()
        return super().create(key, body)

    def put(self, key: str, body: Body) -> None:
        self._step()
        super().put(key, body)

    def delete(self, key: str) -> None:
        self._step()
        super().delete(key)


def test_a_crash_before_any_change_is_finished_by_the_same_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasing, "probe", lambda store: None)
    for step in range(200):
        store = write_corpus(tmp_path / str(step))
        before, published = others(store), snapshot_numbers(store)
        _Dies.left = step
        with monkeypatch.context() as patch:
            patch.setattr(erasing, "open_store", _Dies)
            try:
                erase(str(store.root), WHERE)
            except KeyboardInterrupt:
                pass
            else:
                assert step > 15
                return
        assert [finding for finding in fsck(store) if finding.severity == "error"] == []
        if snapshot_numbers(store) == published:
            assert len(pages_left(store)) == 12
        erase(str(store.root), WHERE)
        assert_erased(store, before)
    raise AssertionError("erasure never ended")


def test_documents_that_another_unit_relies_on_are_refused_until_it_is_meant(tmp_path: Path) -> None:
    from dataclasses import replace

    from palimpsest.corpus.units import commit_unit

    store = LocalStore(tmp_path)
    create_corpus(store)
    owner = write_unit(store, "in/0", rows([*of_anna(1), *unit_pages(7)]))
    plain = write_unit(store, "in/1", rows(unit_pages(8)))
    counts = replace(plain.counts, documents_in=plain.counts.documents_in + 1, duplicates=1)
    leaning = commit_unit(store, replace(plain, unit_id="leaning", defers_to=(owner.unit_id,), counts=counts))
    publish(store, "r", [owner, leaning])
    with pytest.raises(SharedDocuments, match=r"1 units, of in/1, left out documents .* Nothing was changed. With --shared"):
        erase(str(tmp_path), WHERE)
    erase(str(tmp_path), WHERE, shared=True)
    assert [finding for finding in fsck(store, absent=WHERE) if finding.severity == "error"] == []
    assert len(palimpsest.Corpus(str(tmp_path))) == 8


@pytest.mark.parametrize(
    ("where", "message"),
    [("", "where = ''"), ("source_idd = 'a'", "did you mean 'source_id'"), ("doc_id = 'none'", "nothing in")],
)
def test_what_cannot_be_erased_is_said(tmp_path: Path, where: str, message: str) -> None:
    store = write_corpus(tmp_path)
    keys = sorted(info.key for info in store.list())
    with pytest.raises(UsageError, match=message):
        erase(str(tmp_path), where)
    assert sorted(info.key for info in store.list()) == keys
