"""The document index: which unit stores a document. With it a plan need not open the shards of a whole corpus.

`_documents/<hash>-<try>.parquet` contains pairs (doc_id, unit_id), sorted by document, in row groups with their range. A publish
adds one segment with the documents of its new units, read from one column of their shards. It merges segments of similar size to
keep their number small. Entries of unpublished units remain until there are too many of them, so a caller must check that the
unit of an entry is still published.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ConfigDict

from palimpsest.corpus.manifest import parquet_bytes
from palimpsest.corpus.shards import PROVEN_BYTES, ShardRecord, new_attempt, read_proven
from palimpsest.corpus.units import CommitRecord
from palimpsest.storage.object_store import ObjectStore
from palimpsest.storage.stable_json import Damaged, read_promised

PREFIX = "_documents/"
SEGMENT_DOCUMENTS = 2 << 20  # a merge keeps this many in memory: about 200 MB
GROUP_DOCUMENTS = 1 << 15
READERS = 8  # shards read at the same time
SCHEMA = pa.schema([pa.field("doc_id", pa.string(), nullable=False), pa.field("unit_id", pa.string(), nullable=False)])


@dataclass(frozen=True, kw_only=True)
class DocumentSegment:
    """One piece of the index, with `documents` pairs."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    key: str
    documents: int
    bytes: int
    sha256: str


def extend(
    store: ObjectStore,
    segments: Sequence[DocumentSegment],
    added: Sequence[CommitRecord],
    published: int,
    live: Callable[[], pa.Array],
    forget: Collection[str] = (),
) -> tuple[DocumentSegment, ...]:
    """The index with the documents of `added`; segments that need no merge are shared with the old index.

    Args:
        published: number of documents in the whole snapshot. An index of more than twice as many entries is cleaned.
        live: returns the ids of all units of the snapshot, for the cleaning.
        forget: documents that it must no longer name.
    """
    kept, left = _without(store, segments, forget) if forget else (list(segments), [])
    for fresh in [pa.concat_tables([*left, *_pieces(store, added)])] if left else _pieces(store, added):
        while kept and kept[-1].documents <= 2 * fresh.num_rows and kept[-1].documents + fresh.num_rows <= SEGMENT_DOCUMENTS:
            fresh = pa.concat_tables([read(store, kept.pop()), fresh])
        kept.append(_write(store, fresh))
    if sum(segment.documents for segment in kept) > 2 * published + GROUP_DOCUMENTS:
        alive = live()
        cleaned = (_alive(read(store, segment), alive) for segment in kept)
        kept = [_write(store, table) for table in cleaned if table.num_rows]
    return tuple(kept)


def _without(
    store: ObjectStore, segments: Iterable[DocumentSegment], doc_ids: Iterable[str]
) -> tuple[list[DocumentSegment], list[pa.Table]]:
    """The segments that name none of these documents, and what is left of the others."""
    gone = pa.array(sorted(doc_ids), pa.string())
    kept, left = [], []
    for segment in segments:
        table = read(store, segment)
        rest = table.filter(pc.invert(pc.is_in(table["doc_id"], gone)))
        if rest.num_rows == table.num_rows:
            kept.append(segment)
        else:
            left.append(rest)
    return kept, left


def find(store: ObjectStore, segments: Iterable[DocumentSegment], doc_ids: Iterable[str]) -> pa.Table:
    """All entries of these documents: a table of SCHEMA.

    From a big segment only the row groups that may contain one of them are read, and each twice: a flipped bit in a footer hides
    a group, and its documents would be stored a second time.

    Raises:
        NoSuchObject, Damaged.
    """
    requested = sorted(set(doc_ids))
    values = pa.array(requested, pa.string())
    entries = [SCHEMA.empty_table()]
    for segment in segments if requested else ():
        if segment.bytes <= PROVEN_BYTES:
            table = read(store, segment)
            entries.append(table.filter(pc.is_in(table["doc_id"], values)))
            continue
        once, again = (_find_in(store, segment, requested, values) for _ in range(2))
        if not once.equals(again):
            raise Damaged(f"{store.uri(segment.key)}: two reads gave different rows; run the same command again")
        entries.append(once)
    return pa.concat_tables(entries)


def _find_in(store: ObjectStore, segment: DocumentSegment, requested: Sequence[str], values: pa.Array) -> pa.Table:
    with store.open(segment.key) as stream:
        try:
            file = pq.ParquetFile(stream, page_checksum_verification=True)
            groups = [group for group in range(file.num_row_groups) if _within(file.metadata.row_group(group), requested)]
            table = file.read_row_groups(groups, use_threads=False)
            return table.filter(pc.is_in(table["doc_id"], values)).cast(SCHEMA)
        except (pa.ArrowException, OSError) as error:
            raise Damaged(f"{store.uri(segment.key)} is not readable as Parquet: {error}") from error


def read(store: ObjectStore, segment: DocumentSegment) -> pa.Table:
    """A whole segment. Raises NoSuchObject, Damaged."""
    body = read_promised(store, segment.key, segment.sha256)
    return pq.ParquetFile(pa.BufferReader(body)).read(use_threads=False).cast(SCHEMA)


def _within(group: Any, requested: Sequence[str]) -> bool:
    statistics = group.column(0).statistics
    if statistics is None or not statistics.has_min_max:
        return True
    index = bisect_left(requested, statistics.min)
    return index < len(requested) and requested[index] <= statistics.max


def _pieces(store: ObjectStore, added: Sequence[CommitRecord]) -> Iterable[pa.Table]:
    """The documents of units, in tables of bounded size."""
    shards = [(record.unit_id, shard) for record in added if record.holds == "pages" for shard in record.shards]
    waiting: list[pa.Table] = []
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(shards), 64):
            for table in pool.map(lambda pair: _documents(store, *pair), shards[start : start + 64]):
                waiting.append(table)
                if sum(part.num_rows for part in waiting) >= SEGMENT_DOCUMENTS:
                    yield pa.concat_tables(waiting)
                    waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _documents(store: ObjectStore, unit_id: str, shard: ShardRecord) -> pa.Table:
    ids = pc.unique(read_proven(store, shard, ["doc_id"])["doc_id"].cast(pa.string())).drop_null()
    return pa.table({"doc_id": ids, "unit_id": pa.repeat(pa.scalar(unit_id), len(ids))}, schema=SCHEMA)


def _write(store: ObjectStore, table: pa.Table) -> DocumentSegment:
    table = table.group_by(["doc_id", "unit_id"]).aggregate([]).sort_by([(name, "ascending") for name in SCHEMA.names])
    body = parquet_bytes(table.select(SCHEMA.names).cast(SCHEMA), GROUP_DOCUMENTS)
    digest = hashlib.sha256(body).hexdigest()
    key = f"{PREFIX}{digest[:16]}-{new_attempt()}.parquet"
    segment = DocumentSegment(key=key, documents=table.num_rows, bytes=len(body), sha256=digest)
    store.put(key, body)
    return segment


def _alive(table: pa.Table, alive: pa.Array) -> pa.Table:
    return table.filter(pc.is_in(table["unit_id"], alive))
