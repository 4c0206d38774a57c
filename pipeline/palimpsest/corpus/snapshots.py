"""The published versions of a corpus, and their readers.

`_snapshots/00000007.json` is version 7. It names the manifest segments with the commit records of its units (manifest.py), and
the segments of its document index (document_index.py). A reader opens these and then only shards; it never lists `data/`. A
publish writes the segments that it touches and shares the others with its parent. Then it creates the snapshot, only if absent:
one of two publishers gets the number, and the other publishes its units on top of the winner.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from pydantic import ConfigDict

from palimpsest.corpus import document_index
from palimpsest.corpus.document_index import DocumentSegment
from palimpsest.corpus.format import REBUILD
from palimpsest.corpus.manifest import Merged, Segment, Units, merge, read_columns, sum_counts, write
from palimpsest.corpus.shards import ShardRecord, open_shard
from palimpsest.corpus.units import CommitRecord, Counts, committed_units, read_unit
from palimpsest.schemas import SHARD
from palimpsest.storage.object_store import NoSuchObject, ObjectStore, StoreError
from palimpsest.storage.stable_json import Damaged, decoded, read_json, to_bytes

PREFIX = "_snapshots/"
FORMAT = 3
_AGAIN = "another run published meanwhile. Run the same command again to publish yours in its stead; the work is kept"
PUBLISH_TRIES = 32  # every lost race is somebody else's published snapshot
CHECKED = pads.ParquetFileFormat(default_fragment_scan_options=pads.ParquetFragmentScanOptions(page_checksum_verification=True))


class PublishConflict(StoreError):
    """Units that cannot be in one snapshot; the message names them."""


@dataclass(frozen=True, kw_only=True)
class SnapshotRecord:
    """`_snapshots/<number>.json`."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    number: int
    parent: int | None
    run_id: str
    num_units: int
    totals: Counts
    segments: tuple[Segment, ...]
    documents: tuple[DocumentSegment, ...]
    format: int = FORMAT


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One version.

    Attributes:
        parent: number of the version that it builds on; None for the first.
        units: in the order of `manifest.order`; read from the store each time they are iterated.
        documents: the segments of its document index.
    """

    number: int
    parent: int | None
    run_id: str
    units: Units
    documents: tuple[DocumentSegment, ...]

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments of its manifest."""
        return self.units.segments

    @property
    def totals(self) -> Counts:
        return sum_counts(segment.totals for segment in self.segments)

    @property
    def pieces(self) -> tuple[Segment | DocumentSegment, ...]:
        """The objects that it needs in addition to those of its units: the segments of its manifest and of its index."""
        return (*self.segments, *self.documents)

    @property
    def keys(self) -> list[str]:
        """The keys of its `pieces`, which gc keeps and fsck checks."""
        return [segment.key for segment in self.pieces]

    def to_json(self) -> dict[str, Any]:
        return asdict(
            SnapshotRecord(
                number=self.number,
                parent=self.parent,
                run_id=self.run_id,
                num_units=len(self.units),
                totals=self.totals,
                segments=self.segments,
                documents=self.documents,
            )
        )


def publish(
    store: ObjectStore,
    run_id: str,
    records: Iterable[CommitRecord],
    drop: Collection[str] = (),
    *,
    forget: Collection[str] = (),
) -> Snapshot:
    """Publish committed units on top of the newest snapshot, without those whose ids are in `drop`.

    If this changes nothing, nothing is written and the newest snapshot is returned; an empty corpus gets an empty first snapshot.
    `forget`: ids of documents that the document index must no longer name.

    The cost depends only on the change: the affected manifest segments are read and rewritten, and one column of the shards of
    new units is read for the document index.

    Raises:
        PublishConflict: two units claim the same slice or different versions of one source, a unit relies on a missing one, or
            PUBLISH_TRIES races were lost in a row.
    """
    ours = {record.unit_id: record for record in records}
    drop = set(drop)
    for _ in range(PUBLISH_TRIES):
        base = latest(store)
        merged = merge(store, base.segments if base else (), ours.values(), drop)
        _refuse_conflicts(store, merged, ours)
        if base is not None and not merged.added and not merged.removed:
            return base
        snapshot = _written(store, base, run_id, merged, forget)
        if store.create(snapshot_key(snapshot.number), to_bytes(snapshot.to_json())):
            return snapshot
    raise PublishConflict(f"run {run_id}: other publishers were faster {PUBLISH_TRIES} times in a row; publish again")


def _written(store: ObjectStore, base: Snapshot | None, run_id: str, merged: Merged, forget: Collection[str]) -> Snapshot:
    """The next snapshot, not published; all objects that it names are written."""
    number, parent, documents = (base.number + 1, base.number, base.documents) if base else (1, None, ())
    units = Units(store, write(store, merged))
    snapshot = Snapshot(number=number, parent=parent, run_id=run_id, units=units, documents=documents)
    published, live = snapshot.totals.documents_committed, partial(unit_ids, store, snapshot)
    return replace(snapshot, documents=document_index.extend(store, documents, merged.added, published, live, forget))


def unit_ids(store: ObjectStore, snapshot: Snapshot) -> pa.Array:
    """The ids of all units of a snapshot: about 32 bytes each in memory."""
    columns = (read_columns(store, segment, ["unit_id"])["unit_id"] for segment in snapshot.segments)
    return pa.concat_arrays([pa.array([], pa.string()), *chain.from_iterable(column.chunks for column in columns)])


def document_owners(store: ObjectStore, snapshot: Snapshot, doc_ids: Iterable[str]) -> dict[str, str]:
    """The documents that a snapshot stores, out of these, with their unit: {doc_id: unit_id}."""
    found = document_index.find(store, snapshot.documents, doc_ids)
    if found.num_rows:
        found = found.filter(pc.is_in(found["unit_id"], unit_ids(store, snapshot)))
    return dict(zip(found["doc_id"].to_pylist(), found["unit_id"].to_pylist(), strict=True))


def superseded(snapshot: Snapshot | None, records: Iterable[CommitRecord]) -> set[str]:
    """The units that `publish` must drop so that `records` replace older versions of the same sources.

    These are the units of the snapshot whose source has a new unit of another version or fingerprint, or whose slice has a new
    unit with another id.
    """
    if snapshot is None:
        return set()
    sources: dict[str, set[tuple[str, str]]] = {}
    slices: dict[tuple[str, str], str] = {}
    for record in records:
        sources.setdefault(record.source_uri, set()).add((record.source_version, record.fingerprint))
        slices[record.source_uri, record.slice] = record.unit_id
    return {
        unit.unit_id
        for unit in snapshot.units
        if (unit.source_uri in sources and (unit.source_version, unit.fingerprint) not in sources[unit.source_uri])
        or slices.get((unit.source_uri, unit.slice), unit.unit_id) != unit.unit_id
    }


def _refuse_conflicts(store: ObjectStore, merged: Merged, ours: dict[str, CommitRecord]) -> None:
    """Check only the parts that a change can break: the sources that it touches, and the references between units."""
    loaded = merged.loaded
    holder: dict[tuple[str, str], CommitRecord] = {}
    version: dict[str, CommitRecord] = {}
    for unit in loaded:
        if ours.get(unit.unit_id, unit) != unit:
            raise PublishConflict(f"unit {unit.unit_id} is published with other shards than those of the commit record given")
        same_slice = holder.setdefault((unit.source_uri, unit.slice), unit)
        same_source = version.setdefault(unit.source_uri, unit)
        if same_slice is not unit:
            pair = f"{same_slice.unit_id} and {unit.unit_id}"
            raise PublishConflict(f"units {pair} hold the same slice {unit.slice!r} of {unit.source_uri}; {_AGAIN}")
        if same_source.source_version != unit.source_version:
            pair = f"{same_source.unit_id} (version {same_source.source_version!r}) and {unit.unit_id} ({unit.source_version!r})"
            raise PublishConflict(f"units {pair} hold two versions of {unit.source_uri}; {_AGAIN}")
    gone = {unit.unit_id for unit in merged.removed}
    present = {unit.unit_id for unit in loaded}
    needed = {name for unit in merged.added for name in unit.defers_to} - present - gone
    for segment in merged.untouched if needed else ():
        needed -= set(read_columns(store, segment, ["unit_id"])["unit_id"].to_pylist())
    for unit in loaded:
        missing = [name for name in unit.defers_to if name in gone or name in needed]
        if missing:
            raise _bereft(unit.unit_id, missing)
    for segment in merged.untouched if gone else ():
        if segment.defers:
            columns = read_columns(store, segment, ["unit_id", "defers_to"])
            for name, relied_on in zip(columns["unit_id"].to_pylist(), columns["defers_to"].to_pylist(), strict=True):
                if not gone.isdisjoint(relied_on):
                    raise _bereft(name, sorted(gone.intersection(relied_on)))


def _bereft(unit_id: str, missing: list[str]) -> PublishConflict:
    return PublishConflict(f"unit {unit_id} left out documents of units {missing}, which are not there; {_AGAIN}")


def units_of(store: ObjectStore, numbers: Iterable[int]) -> Iterator[tuple[int, CommitRecord]]:
    """The units of several snapshots, each manifest segment read once: (the first of the numbers that has it, unit).

    A unit is repeated if another snapshot has it in another segment.
    """
    seen: set[str] = set()
    for number in numbers:
        snapshot = read_snapshot(store, number)
        fresh = tuple(segment for segment in snapshot.segments if segment.key not in seen)
        seen.update(segment.key for segment in fresh)
        for unit in Units(store, fresh):
            yield number, unit


def all_units(store: ObjectStore) -> Iterator[CommitRecord]:
    """The units of all snapshots, with repeats; then the committed units that are in no snapshot."""
    published: set[str] = set()
    for _, unit in units_of(store, snapshot_numbers(store)):
        published.add(unit.unit_id)
        yield unit
    for unit_id in committed_units(store):
        if unit_id not in published:
            yield read_unit(store, unit_id)


def snapshot_key(number: int) -> str:
    return f"{PREFIX}{number:08d}.json"


def snapshot_numbers(store: ObjectStore) -> list[int]:
    """The numbers of all snapshots, ascending. Raises Damaged for a name that is no snapshot's."""
    numbers = []
    for info in store.list(PREFIX):
        name = info.key.removeprefix(PREFIX).removesuffix(".json")
        if not name.isdecimal() or info.key != snapshot_key(int(name)):
            raise Damaged(f"{store.uri(info.key)} is not named like a snapshot ({snapshot_key(7)})")
        numbers.append(int(name))
    return sorted(numbers)


def latest(store: ObjectStore) -> Snapshot | None:
    """The newest snapshot, or None if nothing was published."""
    numbers = snapshot_numbers(store)
    return read_snapshot(store, numbers[-1]) if numbers else None


def read_snapshot(store: ObjectStore, number: int) -> Snapshot:
    """One version.

    Raises:
        NoSuchObject: there is no such version; the message lists the existing ones.
        Damaged: the object is unreadable or contradicts itself.
    """
    key = snapshot_key(number)
    try:
        content = read_json(store, key)
    except NoSuchObject:
        raise NoSuchObject(f"there is no snapshot {number}; the corpus has {snapshot_numbers(store)}") from None
    uri, has = store.uri(key), content.get("format", 1)
    if has != FORMAT:
        what = f"is newer than this program, which reads format {FORMAT}: upgrade it"
        if isinstance(has, int) and has < FORMAT:
            what = f"is not read any more: {REBUILD}"
        raise Damaged(f"{uri}: snapshot format {has!r} {what}")
    record = decoded(SnapshotRecord, content, uri, "snapshot")
    units = Units(store, record.segments)
    snapshot = Snapshot(number=number, parent=record.parent, run_id=record.run_id, units=units, documents=record.documents)
    if record.number != number:
        raise Damaged(f"{uri} is snapshot {record.number}")
    if (record.totals, record.num_units) != (snapshot.totals, len(units)):
        raise Damaged(f"{uri}: its totals {record.totals} are not the sum of its units {snapshot.totals}")
    return snapshot


def iter_tables(
    store: ObjectStore,
    snapshot: Snapshot,
    columns: Sequence[str] | None = None,
    filter: pc.Expression | None = None,
    *,
    verify: bool = False,
    batch_rows: int = 1024,
) -> Iterator[pa.Table]:
    """The rows of a version in tables of at most `batch_rows`, shard by shard, in the same order every time.

    Args:
        columns: None means all.
        filter: e.g. `pc.field("tier") == "base"`; row groups that cannot match are not read.
        verify: first read each shard's bytes once more and compare their hash.

    Raises:
        NoSuchObject, Damaged.
    """
    for unit in snapshot.units:
        yield from iter_shards(store, unit.shards, columns, filter, verify=verify, batch_rows=batch_rows)


def iter_shards(
    store: ObjectStore,
    shards: Iterable[ShardRecord],
    columns: Sequence[str] | None = None,
    filter: pc.Expression | None = None,
    *,
    verify: bool = False,
    batch_rows: int = 1024,
) -> Iterator[pa.Table]:
    """`iter_tables` of some shards."""
    for shard in shards:
        with open_shard(store, shard, verify=verify) as stream:
            try:
                fragment = CHECKED.make_fragment(stream)
                batches = fragment.to_batches(
                    schema=SHARD,
                    columns=None if columns is None else list(columns),
                    filter=filter,
                    batch_size=batch_rows,
                    batch_readahead=0,
                    use_threads=False,
                )
                for batch in batches:
                    if batch.num_rows:
                        yield pa.Table.from_batches([batch])
            except (pa.ArrowException, OSError) as error:
                raise Damaged(f"{store.uri(shard.key)} is not readable as Parquet: {error}") from error


def iter_rows(
    store: ObjectStore, snapshot: Snapshot, columns: Sequence[str] | None = None, filter: pc.Expression | None = None
) -> Iterator[dict[str, Any]]:
    """`iter_tables`, one dict a row."""
    for table in iter_tables(store, snapshot, columns, filter):
        yield from table.to_pylist()
