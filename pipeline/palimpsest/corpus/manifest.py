"""Manifest segments: the units of a snapshot in immutable pieces, so that a publish rewrites only the pieces that it touches.

`_manifests/<hash>-<try>.parquet` contains up to SEGMENT_UNITS commit records, sorted by source, slice and id. The segments of a
snapshot follow each other in that order without overlap, except that the slices of one source may be in two segments. A snapshot
shares all unchanged segments with its parent. Each write has its own name, so gc never removes a segment as an orphan that
another publisher is about to refer to.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ConfigDict

from palimpsest.corpus.shards import ShardRecord, new_attempt
from palimpsest.corpus.units import CommitRecord, Counts
from palimpsest.storage.object_store import BadKey, ObjectStore
from palimpsest.storage.stable_json import Damaged, read_promised

PREFIX = "_manifests/"
SEGMENT_UNITS = 8192  # about 1.5 MB
SMALL_UNITS = SEGMENT_UNITS // 4
_OBJECT = pa.struct(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("tier", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
    ]
)
_COUNTS = pa.struct([pa.field(count.name, pa.int64(), nullable=False) for count in fields(Counts)])
SCHEMA = pa.schema(
    [
        pa.field("unit_id", pa.string(), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("attempt", pa.string(), nullable=False),
        pa.field("source_uri", pa.string(), nullable=False),
        pa.field("source_version", pa.string(), nullable=False),
        pa.field("slice", pa.string(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("holds", pa.string(), nullable=False),
        pa.field("shards", pa.list_(_OBJECT), nullable=False),
        pa.field("samples", _OBJECT),
        pa.field("quarantine", _OBJECT),
        pa.field("counts", _COUNTS, nullable=False),
        pa.field("defers_to", pa.list_(pa.string()), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One segment, as its snapshot describes it.

    Attributes:
        units: number of its units; `defers` of them rely on another unit.
        first, last: `source_uri` of its first and last unit.
        totals: the sum of its units' counts.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    key: str
    units: int
    bytes: int
    sha256: str
    first: str
    last: str
    defers: int
    totals: Counts


def order(record: CommitRecord) -> tuple[str, str, str]:
    """The order of the units of a snapshot."""
    return record.source_uri, record.slice, record.unit_id


def write_segment(store: ObjectStore, records: Sequence[CommitRecord]) -> Segment:
    """Write units that are in `order`."""
    body = parquet_bytes(pa.Table.from_pylist([asdict(record) for record in records], SCHEMA), len(records))
    digest = hashlib.sha256(body).hexdigest()
    key = f"{PREFIX}{digest[:16]}-{new_attempt()}.parquet"
    store.put(key, body)
    return Segment(
        key=key,
        units=len(records),
        bytes=len(body),
        sha256=digest,
        first=records[0].source_uri,
        last=records[-1].source_uri,
        defers=sum(bool(record.defers_to) for record in records),
        totals=sum_counts(record.counts for record in records),
    )


def read_columns(store: ObjectStore, segment: Segment, columns: Sequence[str]) -> pa.Table:
    """Some columns of a segment; its hash is compared first.

    Raises:
        NoSuchObject, Damaged.
    """
    body = read_promised(store, segment.key, segment.sha256)
    try:
        return pq.ParquetFile(pa.BufferReader(body)).read(columns=list(columns), use_threads=False).select(list(columns))
    except (pa.ArrowException, OSError) as error:
        raise Damaged(f"{store.uri(segment.key)} is not readable as Parquet: {error}") from error


def read_segment(store: ObjectStore, segment: Segment) -> list[CommitRecord]:
    """The units of a segment. Raises NoSuchObject, Damaged."""
    table = read_columns(store, segment, SCHEMA.names)
    uri = store.uri(segment.key)
    if table.schema != SCHEMA:
        raise Damaged(f"{uri} is no manifest segment of this format: its columns are {table.schema.to_string()}")
    try:
        return [_record(row) for row in table.to_pylist()]
    except (BadKey, TypeError) as error:
        raise Damaged(f"{uri} is no manifest segment of this format: {error}") from error


def _record(row: dict[str, Any]) -> CommitRecord:
    def one(part: dict[str, Any] | None) -> ShardRecord | None:
        return None if part is None else ShardRecord(**part)

    parts: dict[str, Any] = {name: one(row[name]) for name in ("samples", "quarantine")}
    parts["shards"] = tuple(ShardRecord(**part) for part in row["shards"])
    return CommitRecord(**{**row, **parts, "counts": Counts(**row["counts"]), "defers_to": tuple(row["defers_to"])})


class Units(Collection[CommitRecord]):
    """The units of a snapshot. Each iteration reads them segment by segment; one segment is in memory."""

    def __init__(self, store: ObjectStore, segments: tuple[Segment, ...]) -> None:
        self._store, self.segments = store, segments

    def __len__(self) -> int:
        return sum(segment.units for segment in self.segments)

    def __iter__(self) -> Iterator[CommitRecord]:
        for segment in self.segments:
            yield from read_segment(self._store, segment)

    def __contains__(self, unit: object) -> bool:
        return any(unit == other for other in self)

    def __getitem__(self, index: int) -> CommitRecord:
        return list(self)[index]

    def __eq__(self, other: object) -> bool:
        return self.segments == other.segments if isinstance(other, Units) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(segment.key for segment in self.segments))


@dataclass
class Merged:
    """The result of `merge`: the added and removed units, and the next manifest as unchanged segments and records to write."""

    groups: list[Segment | list[CommitRecord]] = field(default_factory=list)
    added: list[CommitRecord] = field(default_factory=list)
    removed: list[CommitRecord] = field(default_factory=list)

    @property
    def loaded(self) -> list[CommitRecord]:
        """The records of all groups that changed, or may have changed."""
        return [record for group in self.groups if isinstance(group, list) for record in group]

    @property
    def untouched(self) -> list[Segment]:
        return [group for group in self.groups if isinstance(group, Segment)]


def merge(store: ObjectStore, segments: Sequence[Segment], ours: Iterable[CommitRecord], drop: Collection[str]) -> Merged:
    """Add units to a manifest and remove those whose ids are in `drop`. Only the affected segments are read.

    A unit of `ours` whose id is in the manifest already is left unchanged.
    """
    ours = list(ours)
    firsts = [segment.first for segment in segments]
    touched = {index for record in ours for index in _indices(segments, firsts, record.source_uri)}
    loaded = {index: read_segment(store, segments[index]) for index in sorted(touched)}
    elsewhere = set(drop) - {record.unit_id for records in loaded.values() for record in records}
    for index, segment in enumerate(segments):
        if elsewhere and index not in loaded and holds(store, segment, elsewhere):
            loaded[index] = read_segment(store, segment)
    merged = Merged()
    groups = merged.groups
    home: dict[int, list[CommitRecord]] = {}
    for index, segment in enumerate(segments):
        if index not in loaded:
            groups.append(segment)
            continue
        if not (groups and isinstance(groups[-1], list)):
            groups.append([])
        home[index] = groups[-1]  # type: ignore[assignment]
        for record in loaded[index]:
            (merged.removed if record.unit_id in drop else home[index]).append(record)
    if not segments:
        groups.append([])
        home[0] = groups[0]  # type: ignore[assignment]
    there = {record.unit_id for records in loaded.values() for record in records}
    for record in ours:
        if record.unit_id not in there and record.unit_id not in drop:
            merged.added.append(record)
            home[max(_indices(segments, firsts, record.source_uri), default=0)].append(record)
    for group in home.values():
        group.sort(key=order)
    return merged


def write(store: ObjectStore, merged: Merged) -> tuple[Segment, ...]:
    """Write the changed segments, and merge small ones with a neighbour; returns the whole manifest."""
    written: list[Segment] = []
    groups = [group for group in merged.groups if group]
    for index, group in enumerate(groups):
        if isinstance(group, Segment):
            written.append(group)
            continue
        records, last = group, index == len(groups) - 1
        if len(records) < SMALL_UNITS and written and written[-1].units + len(records) <= SEGMENT_UNITS:
            records = [*read_segment(store, written.pop()), *records]
        pieces = -(-len(records) // SEGMENT_UNITS)
        size = SEGMENT_UNITS if last else -(-len(records) // pieces)  # appended units fill up the last segment
        written += [write_segment(store, records[start : start + size]) for start in range(0, len(records), size)]
    return tuple(written)


def holds(store: ObjectStore, segment: Segment, unit_ids: Collection[str]) -> bool:
    """True if a segment has one of these units."""
    return not set(unit_ids).isdisjoint(read_columns(store, segment, ["unit_id"])["unit_id"].to_pylist())


def sum_counts(counts: Iterable[Counts]) -> Counts:
    """The sum, without an object for each addend."""
    totals = dict.fromkeys((count.name for count in fields(Counts)), 0)
    for count in counts:
        for name, value in vars(count).items():
            totals[name] += value
    return Counts(**totals)


def parquet_bytes(table: pa.Table, row_group_rows: int) -> bytes:
    """A sorted table of short strings as Parquet; deterministic: the same table gives the same bytes."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink, table.schema, version="2.6", compression="zstd", compression_level=3, write_page_checksum=True,
        use_dictionary=["source_version", "slice", "fingerprint"], write_statistics=["doc_id"],
    ) as writer:  # fmt: skip
        writer.write_table(table.combine_chunks(), row_group_size=max(1, row_group_rows))
    return sink.getvalue().to_pybytes()


def _indices(segments: Sequence[Segment], firsts: Sequence[str], source: str) -> list[int]:
    """Indices of the segments with units of a source, and of the segment that would take new ones."""
    if not segments:
        return []
    index = max(0, bisect_right(firsts, source) - 1)
    indices = [index]
    while index and segments[index - 1].last == source:
        index -= 1
        indices.append(index)
    return indices
