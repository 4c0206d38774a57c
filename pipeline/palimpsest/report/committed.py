"""The newest state of a corpus for people to look at: what is published, else what is committed so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from palimpsest.corpus.format import open_corpus
from palimpsest.corpus.manifest import Units, sum_counts
from palimpsest.corpus.snapshots import Snapshot, latest
from palimpsest.corpus.units import CommitRecord, Counts, committed_units, read_unit
from palimpsest.errors import UsageError
from palimpsest.storage.object_store import ObjectStore
from palimpsest.storage.opening import open_store


class _Records(Units):
    """Commit records that no manifest holds."""

    def __init__(self, store: ObjectStore, records: Sequence[CommitRecord]) -> None:
        super().__init__(store, ())
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[CommitRecord]:
        return iter(self._records)


class _Unpublished(Snapshot):
    """Units that are committed and in no snapshot."""

    @property
    def totals(self) -> Counts:
        return sum_counts(unit.counts for unit in self.units)


def newest(corpus: str) -> tuple[ObjectStore, Snapshot]:
    """The store of a corpus and its newest snapshot; before anything is published a snapshot 0 of the units that are committed.

    Raises:
        UsageError: there is no corpus, or nothing is committed in it.
        StoreError.
    """
    store = open_store(corpus)
    open_corpus(store)
    snapshot = latest(store)
    if snapshot is not None:
        return store, snapshot
    snapshot = committed(store)
    if not snapshot.units:
        raise UsageError(f"corpus {corpus!r} is empty: no run has committed anything yet (palimpsest run … --out {corpus})")
    return store, snapshot


def committed(store: ObjectStore) -> Snapshot:
    """Every committed unit as a snapshot 0, which is not published."""
    units = tuple(read_unit(store, unit_id) for unit_id in sorted(committed_units(store)))
    run_id = max((unit.run_id for unit in units), default="")
    return _Unpublished(number=0, parent=None, run_id=run_id, units=_Records(store, units), documents=())
