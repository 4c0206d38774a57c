"""`palimpsest erase`: remove documents from every snapshot of a corpus, provably.

find the documents -> commit each unit without them -> publish a snapshot of these units -> delete every older snapshot that has
them, their old units, and every object that nothing refers to any more and that has them.

Each step looks at the state that it finds, so the same command after a crash finishes what was begun. Shards, samples and
quarantines without these documents are shared, byte for byte.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from palimpsest.corpus import document_index
from palimpsest.corpus.format import open_corpus
from palimpsest.corpus.matching import PREFIXES, mask, matches, present, read_object
from palimpsest.corpus.row_filter import condition
from palimpsest.corpus.run_records import PUBLISHED, new_run_id, record_stats
from palimpsest.corpus.sample_sets import write_samples
from palimpsest.corpus.shards import ShardRecord, new_attempt, write_quarantine, write_shard
from palimpsest.corpus.snapshots import Snapshot, latest, publish, read_snapshot, snapshot_key, snapshot_numbers
from palimpsest.corpus.units import CommitRecord, Counts, commit_unit, committed_units, read_unit, unit_id, unit_key
from palimpsest.errors import UsageError
from palimpsest.schemas import QUARANTINE, SHARD
from palimpsest.storage.object_store import ObjectStore
from palimpsest.storage.opening import open_store
from palimpsest.storage.probe import probe


class NothingToErase(UsageError):
    """No page, sample or quarantined record matches."""


class SharedDocuments(UsageError):
    """Other sources have documents of the units that would change, and left them out as duplicates."""


@dataclass(frozen=True, kw_only=True)
class EraseResult:
    """The outcome of an erasure: what was removed, or would be.

    Attributes:
        documents: their ids.
        rows: of pages, samples and quarantined records in all objects that had them, of all snapshots.
        units: of the newest snapshot that were, or would be, replaced.
        snapshots: the older ones that were, or would be, deleted.
        deleted: objects that were, or would be, deleted.
    """

    corpus: str
    where: str
    dry_run: bool
    documents: tuple[str, ...]
    rows: int
    units: int
    snapshot: int
    snapshots: tuple[int, ...]
    deleted: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def erase(corpus: str, where: str, *, shared: bool = False, dry_run: bool = False) -> EraseResult:
    """Remove every document of which a page, a sample or a quarantined record matches.

    Args:
        where: a condition on the columns of the row contract, as in `"source_id = 'user-17'"`.
        shared: go on where other units rely on those that change: their sources have some of the same documents.
        dry_run: only say what would be removed.

    Raises:
        NothingToErase, SharedDocuments, UsageError.
        StoreError: what was done is kept; the same call finishes it.
    """
    wanted = condition(where, SHARD)
    if wanted is None or not where.strip():
        raise UsageError("erase needs a condition, as in --where \"source_id = 'user-17'\"")
    store = open_store(corpus)
    open_corpus(store)
    rows, doc_ids = _found(store, wanted)
    snapshot = latest(store)
    if not rows:
        raise NothingToErase(f"nothing in {corpus} matches {where!r}; nothing was changed")
    job = _Erasure(store, wanted, doc_ids)
    affected = [unit for unit in (snapshot.units if snapshot else ()) if job.concerns(unit)]
    leaning = _leaning(snapshot, {unit.unit_id for unit in affected})
    if leaning and not shared:
        named = ", ".join(sorted({unit.source_uri for unit in leaning})[:3])
        raise SharedDocuments(
            f"{len(leaning)} units, of {named}, left out documents that the units to change hold; some may be those to erase. "
            "Nothing was changed. With --shared they are erased for these sources too"
        )
    if not dry_run and affected:
        probe(store)
        run_id = new_run_id()
        records = job.replacements([*affected, *leaning], run_id)
        drop = {unit.unit_id for unit in (*affected, *leaning)}
        snapshot = publish(store, run_id, records, drop=drop, forget=doc_ids)
        stats = {"command": "erase", "outcome": PUBLISHED, "snapshot": snapshot.number, "documents": len(doc_ids)}
        record_stats(store, run_id, stats)
    old, deleted = job.purge(None if dry_run and affected else snapshot, dry_run=dry_run)
    return EraseResult(
        corpus=corpus,
        where=where,
        dry_run=dry_run,
        documents=tuple(sorted(doc_ids)),
        rows=rows,
        units=len(affected),
        snapshot=snapshot.number if snapshot else 0,
        snapshots=tuple(old),
        deleted=tuple(deleted),
    )


def _found(store: ObjectStore, where: pc.Expression) -> tuple[int, set[str]]:
    """How many rows of all objects match, and their documents."""
    rows, doc_ids = 0, set[str]()
    for key, _ in present(store, where):
        named, count = matches(store, key, where)
        rows += count
        doc_ids |= named
    return rows, doc_ids


def _leaning(snapshot: Snapshot | None, ids: set[str]) -> list[CommitRecord]:
    """The units that rely on one of these, and those that rely on them."""
    left = [unit for unit in (snapshot.units if snapshot else ()) if unit.defers_to and unit.unit_id not in ids]
    found: list[CommitRecord] = []
    known = set(ids)
    while more := [unit for unit in left if not known.isdisjoint(unit.defers_to)]:
        found += more
        known.update(unit.unit_id for unit in more)
        left = [unit for unit in left if unit.unit_id not in known]
    return found


class _Erasure:
    """Documents, and the condition that named them."""

    def __init__(self, store: ObjectStore, where: pc.Expression, doc_ids: set[str]) -> None:
        self.store, self.doc_ids, self.asked = store, doc_ids, where
        self.where = where | pc.field("doc_id").isin(sorted(doc_ids)) if doc_ids else where
        self._known: dict[str, bool] = {}

    def touches(self, key: str) -> bool:
        """Whether an object holds something of these documents."""
        if key not in self._known:
            self._known[key] = bool(matches(self.store, key, self.where)[1])
        return self._known[key]

    def concerns(self, unit: CommitRecord) -> bool:
        return any(self.touches(part.key) for part in unit.objects)

    # the new snapshot

    def replacements(self, units: list[CommitRecord], run_id: str) -> list[CommitRecord]:
        """The committed units in place of `units`, which rely on each other's new ids."""
        old = {unit.unit_id: unit for unit in units}
        ids: dict[str, str] = {}

        def renamed(unit: CommitRecord) -> str:
            if unit.unit_id not in ids:
                defers = [renamed(old[name]) if name in old else name for name in unit.defers_to]
                what = json.dumps([sorted(self.doc_ids), defers, str(self.where)])
                digest = hashlib.sha256(what.encode()).hexdigest()
                ids[unit.unit_id] = unit_id(f"erase {unit.unit_id}", unit.source_version, unit.slice, unit.fingerprint, [digest])
            return ids[unit.unit_id]

        for unit in units:
            renamed(unit)
        return [self._replaced(unit, ids, run_id) for unit in units]

    def _replaced(self, unit: CommitRecord, ids: dict[str, str], run_id: str) -> CommitRecord:
        name, attempt, gone = ids[unit.unit_id], new_attempt(), _Gone()
        shards: list[ShardRecord] = []
        moved: dict[tuple[int, int], tuple[int, int]] = {}  # pages: (shard, row) before -> now
        for number, shard in enumerate(unit.shards):
            part, kept = self._shard(unit, shard, name, attempt, number, gone)
            moved.update({(number, row): (len(shards), now) for now, row in enumerate(kept)})
            shards += [part] if part else []
        samples, quarantine = self._samples(unit, name, attempt, moved, gone), self._quarantine(unit, name, attempt, gone)
        record = replace(
            unit,
            unit_id=name,
            run_id=run_id,
            attempt=attempt,
            shards=tuple(shards),
            samples=samples,
            quarantine=quarantine,
            counts=gone.taken_from(unit, tuple(shards)),
            defers_to=tuple(ids.get(other, other) for other in unit.defers_to),
        )
        return commit_unit(self.store, record)

    def _shard(
        self, unit: CommitRecord, shard: ShardRecord, name: str, attempt: str, number: int, gone: _Gone
    ) -> tuple[ShardRecord | None, list[int]]:
        """The shard without these documents, None where nothing is left; and which of its rows stay."""
        if not self.touches(shard.key):
            return shard, list(range(shard.rows))
        table = read_object(self.store, shard.key)
        erased = mask(table, self.where, self.doc_ids)
        gone.pages(table.filter(erased))
        stays = pc.invert(erased)
        kept = [row for row, keep in enumerate(stays.to_pylist()) if keep]
        if not kept:
            return None, []
        rows = table.filter(stays)
        return write_shard(self.store, rows, unit_id=name, attempt=attempt, number=number), kept

    def _samples(
        self, unit: CommitRecord, name: str, attempt: str, moved: dict[tuple[int, int], tuple[int, int]], gone: _Gone
    ) -> ShardRecord | None:
        """The samples without these documents, which refer to the pages where they are now."""
        if unit.samples is None:
            return None
        table = read_object(self.store, unit.samples.key)
        erased = mask(table, self.where, self.doc_ids)
        gone.samples(table.filter(erased))
        rows = table.filter(pc.invert(erased)).to_pylist()
        for row in rows:
            row["unit_id"] = name
            for segment in row["segments"]:
                if segment["page_shard"] is not None:
                    segment["page_shard"], segment["page_row"] = moved[segment["page_shard"], segment["page_row"]]
        return write_samples(self.store, rows, unit_id=name, attempt=attempt)

    def _quarantine(self, unit: CommitRecord, name: str, attempt: str, gone: _Gone) -> ShardRecord | None:
        if unit.quarantine is None:
            return None
        table = read_object(self.store, unit.quarantine.key).cast(QUARANTINE)
        erased = mask(table, self.where, self.doc_ids)
        gone.quarantined(table.filter(erased), unit)
        rows = table.filter(pc.invert(erased))
        ids = pa.array([name] * rows.num_rows, pa.string())
        rows = rows.set_column(0, QUARANTINE.field("unit_id"), ids)
        return write_quarantine(self.store, rows, unit_id=name, attempt=attempt)

    # what is left of it

    def purge(self, newest: Snapshot | None, *, dry_run: bool) -> tuple[list[int], list[str]]:
        """Delete reports, older snapshots that have these documents, their units, and objects that nothing refers to.

        Returns:
            the numbers of these snapshots, and the keys of what was deleted, in that order.
        """
        numbers = [number for number in snapshot_numbers(self.store) if newest is None or number < newest.number]
        snapshots = {number: read_snapshot(self.store, number) for number in numbers}
        with_them = [number for number, snapshot in snapshots.items() if any(self.concerns(unit) for unit in snapshot.units)]
        old = [number for number in numbers if with_them and number <= max(with_them)]  # the chain must not have a gap
        staying = [snapshot for number, snapshot in snapshots.items() if number not in old] + ([newest] if newest else [])
        needed = {key for snapshot in staying for key in snapshot.keys}
        units = {unit.unit_id for snapshot in staying for unit in snapshot.units}
        records = {name: read_unit(self.store, name) for name in committed_units(self.store)}
        gone = {name for name, record in records.items() if name not in units and self.concerns(record)}
        pieces = sorted({key for number in old for key in snapshots[number].keys} - needed)
        needed |= {part.key for snapshot in staying for unit in snapshot.units for part in unit.objects}
        needed |= {part.key for name, record in records.items() if name not in gone for part in record.objects}
        deleted = [info.key for info in self.store.list("runs/") if info.key.endswith("/report.html")]  # they show pages
        deleted += [snapshot_key(number) for number in old]
        deleted += [*pieces, *(key for key in self._indexes() if key not in needed and key not in pieces)]
        deleted += [unit_key(name) for name in sorted(gone)]
        ours = {part.key for name in gone for part in records[name].objects}
        objects = self._objects()
        deleted += [key for key in (*sorted(ours - set(objects)), *objects) if key not in needed]
        if not dry_run:
            for key in deleted:
                self.store.delete(key)
        return old, deleted

    def _indexes(self) -> Iterator[str]:
        """Pieces of document indexes that name these documents, whatever refers to them."""
        for info in self.store.list(document_index.PREFIX):
            if not self.doc_ids.isdisjoint(read_object(self.store, info.key)["doc_id"].to_pylist()):
                yield info.key

    def _objects(self) -> list[str]:
        """All objects with something of these documents, whatever refers to them. Those that match the condition itself come
        last: as long as one is there, the same command finds the same documents again."""
        found = [info.key for prefix in PREFIXES for info in self.store.list(prefix) if self.touches(info.key)]
        return sorted(found, key=lambda key: matches(self.store, key, self.asked)[1])


class _Gone:
    """The rows that one unit loses."""

    def __init__(self) -> None:
        self.doc_ids: set[str] = set()
        self.counts: dict[str, int] = dict.fromkeys(asdict(Counts()), 0)

    def pages(self, rows: pa.Table) -> None:
        self.doc_ids |= set(rows["doc_id"].to_pylist())
        text = rows.filter(pc.equal(rows["tier"], "text"))
        self._add(pages_in=rows.num_rows, pages_committed=rows.num_rows, rows=rows.num_rows)
        self._add(text_tokens=_sum(rows, "num_text_tokens"), context_tokens=_sum(rows, "num_context_tokens"))
        self._add(tokens_as_text=_sum(text, "num_text_tokens"))

    def samples(self, rows: pa.Table) -> None:
        self.doc_ids |= set(rows["conversation_id"].to_pylist())
        self._add(samples_in=rows.num_rows, samples_committed=rows.num_rows, sample_text_tokens=_sum(rows, "num_text_tokens"))
        self._add(sample_context_tokens=_sum(rows, "num_context_tokens"), sample_dropped_tokens=_sum(rows, "dropped_text_tokens"))

    def quarantined(self, rows: pa.Table, unit: CommitRecord) -> None:
        """Of a conversation that was taken, a quarantined row is a reply; of a document that was, a page; else the whole."""
        for doc_id in rows["doc_id"].to_pylist():
            part = unit.holds == "samples" and doc_id is not None
            if part:
                self.doc_ids.add(doc_id)
                self._add(samples_in=1, samples_quarantined=1)
            elif doc_id in self.doc_ids and self.counts["pages_quarantined"] < unit.counts.pages_quarantined:
                self._add(pages_in=1, pages_quarantined=1)
            elif self.counts["documents_quarantined"] < unit.counts.documents_quarantined:
                self._add(documents_in=1, documents_quarantined=1)
            else:
                self._add(pages_in=1, pages_quarantined=1)

    def taken_from(self, unit: CommitRecord, shards: tuple[ShardRecord, ...]) -> Counts:
        """The counts of the unit without it."""
        whole = {**self.counts, "documents_in": self.counts["documents_in"] + len(self.doc_ids)}
        whole["documents_committed"] += len(self.doc_ids)
        left = {name: value - whole[name] for name, value in asdict(unit.counts).items()}
        return Counts(**{**left, "bytes": sum(shard.bytes for shard in shards)})

    def _add(self, **counts: int) -> None:
        for name, value in counts.items():
            self.counts[name] += value


def _sum(rows: pa.Table, name: str) -> int:
    return int(pc.sum(rows[name]).as_py() or 0)
