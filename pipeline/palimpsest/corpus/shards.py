"""Rows as immutable Parquet objects. Deterministic: the same rows give the same bytes.

Payloads (tokens, texts) are stored plain, without dictionaries. Row groups are cut by bytes, so a reader knows the memory that
one needs, whatever the content of its pages.
"""

from __future__ import annotations

import hashlib
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, ClassVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ConfigDict

from palimpsest.errors import UsageError
from palimpsest.schemas import QUARANTINE, QUARANTINE_BYTES, SHARD, conform
from palimpsest.storage.object_store import ObjectStore, check_key
from palimpsest.storage.stable_json import Damaged

STATUSES = ("verified", "below_target", "unfinished", "unverified", "text")
TEXT_TIER = "text"
QUARANTINE_TIER = "quarantine"
SHARD_BYTES = 512 << 20
ROW_GROUP_BYTES = 2 << 20  # what a training job reads at once
DATA_PAGE_BYTES = 64 << 10  # a data page holds at least one row; a reader fetches single rows by them
PROVEN_BYTES = 8 << 20
KEPT_IN_MEMORY = 64 << 20  # bytes of a verified shard; a bigger one goes to a temporary file
_UNCOMPRESSED = ("tokens",)
"""zstd takes 12 % off int8 tokens and costs more CPU than everything else in reading them (docs/decisions/0037)."""
_PLAIN = ("page_id", "text", "tokens", "token_scales", "tokens_sha256", "decoded_text", "record")
_PAYLOADS = ("text", "tokens", "token_scales", "decoded_text", "detail", "record")
_ROW_OVERHEAD = 256  # bytes of the short columns of one row, about


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """One Parquet object: `bytes` is its size, `sha256` the hash of its content. Raises BadKey."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    key: str
    tier: str
    rows: int
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        check_key(self.key)


def new_attempt() -> str:
    """A unique name for one try at a unit: objects of a crashed or beaten try are never overwritten, only left behind."""
    return secrets.token_hex(6)


def write_shards(
    store: ObjectStore,
    table: pa.Table,
    *,
    unit_id: str,
    attempt: str,
    shard_bytes: int = SHARD_BYTES,
    row_group_bytes: int = ROW_GROUP_BYTES,
) -> tuple[ShardRecord, ...]:
    """Write all rows of one unit, in any order: sorted by tier, document and page, and cut by tier and `shard_bytes`.

    Raises:
        SchemaMismatch: `table` is not of the SHARD schema.
        ValueError: a page appears twice, or has no tier.
    """
    table = conform(table, SHARD, "shard")
    if table["tier"].null_count:
        raise UsageError(f"unit {unit_id}: {table['tier'].null_count} of its {table.num_rows} rows have no tier")
    if pc.count_distinct(table["page_id"], mode="all").as_py() != table.num_rows:
        raise UsageError(f"unit {unit_id}: a page_id appears twice among its {table.num_rows} rows")
    table = table.sort_by([(name, "ascending") for name in ("tier", "doc_id", "page_number", "page_id")])
    records: list[ShardRecord] = []
    for tier in pc.unique(table["tier"]).to_pylist():
        rows = table.filter(pc.equal(table["tier"], tier))
        for start, stop in _cuts(_row_bytes(rows), shard_bytes):
            part = rows.slice(start, stop - start)
            shard = write_shard(
                store, part, unit_id=unit_id, attempt=attempt, number=len(records), row_group_bytes=row_group_bytes
            )
            records.append(shard)
    return tuple(records)


def write_shard(
    store: ObjectStore, table: pa.Table, *, unit_id: str, attempt: str, number: int, row_group_bytes: int = ROW_GROUP_BYTES
) -> ShardRecord:
    """Write rows of one tier, in the given order, as `data/<tier>/<unit_id>-<attempt>-<number>.parquet`.

    Raises:
        SchemaMismatch: `table` is not of the SHARD schema.
        ValueError: the rows are not of exactly one tier.
    """
    table = conform(table, SHARD, "shard")
    tiers = pc.unique(table["tier"]).to_pylist()
    if len(tiers) != 1 or not tiers[0]:
        raise UsageError(f"unit {unit_id}, shard {number}: the rows of a shard have one tier, these have {tiers}")
    return _write(store, table, f"data/{tiers[0]}/{unit_id}-{attempt}-{number}.parquet", tiers[0], row_group_bytes)


def write_quarantine(store: ObjectStore, table: pa.Table, *, unit_id: str, attempt: str) -> ShardRecord | None:
    """Write the quarantine of one unit as `quarantine/<unit_id>-<attempt>.parquet`; None if it is empty.

    Raises:
        SchemaMismatch: `table` is not of the QUARANTINE schema.
        ValueError: a row belongs to another unit, or keeps more than QUARANTINE_BYTES of its record.
    """
    table = conform(table, QUARANTINE, "quarantine")
    if table.num_rows == 0:
        return None
    units = pc.unique(table["unit_id"]).to_pylist()
    if units != [unit_id]:
        raise UsageError(f"quarantine of unit {unit_id} holds rows of {units}")
    longest = pc.max(pc.binary_length(table["record"])).as_py() or 0
    if longest > QUARANTINE_BYTES:
        raise UsageError(f"quarantine of unit {unit_id}: a record keeps {longest} bytes, at most {QUARANTINE_BYTES} are kept")
    table = table.sort_by([(name, "ascending") for name in ("source_uri", "source_id", "doc_id", "reason", "detail", "record")])
    return _write(store, table, f"quarantine/{unit_id}-{attempt}.parquet", QUARANTINE_TIER, ROW_GROUP_BYTES)


def read_shard(store: ObjectStore, shard: ShardRecord, columns: Sequence[str] | None = None, *, verify: bool = False) -> pa.Table:
    """The rows of a shard (or of a quarantine), in memory. `verify` compares the object's hash first.

    Raises:
        NoSuchObject, Damaged.
    """
    with open_shard(store, shard, verify=verify) as stream:
        try:
            file = pq.ParquetFile(stream, page_checksum_verification=True)
            return file.read(columns=None if columns is None else list(columns), use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise Damaged(f"{store.uri(shard.key)} is not readable as Parquet: {error}") from error


def read_proven(store: ObjectStore, shard: ShardRecord, columns: Sequence[str]) -> pa.Table:
    """Columns of a shard, for a publish that depends on them. A small shard is checked by its hash; a big one is read twice.

    Parquet's checksums cover its pages, but neither their headers nor the footer: one flipped bit there can hide rows.

    Raises:
        NoSuchObject, Damaged.
    """
    if shard.bytes <= PROVEN_BYTES:
        return read_shard(store, shard, columns, verify=True)
    found, again = (read_shard(store, shard, columns) for _ in range(2))
    if not found.equals(again):
        raise Damaged(f"{store.uri(shard.key)}: two reads gave different rows; run the same command again")
    return found


def open_shard(store: ObjectStore, shard: ShardRecord, *, verify: bool = False) -> BinaryIO:
    """The shard's bytes as a seekable stream at its beginning; `verify` reads them all once and compares size and hash.

    The verified bytes are those that are then read: bytes from a network are kept, in memory or in a temporary file.

    Raises:
        NoSuchObject, Damaged.
    """
    if not verify:
        return store.open(shard.key)
    try:
        return _verified(store, shard)
    except Damaged:
        return _verified(store, shard)  # they may have been damaged on the way only


def _verified(store: ObjectStore, shard: ShardRecord) -> BinaryIO:
    stream = store.open(shard.key)
    kept = stream if _is_file(stream) else cast(BinaryIO, tempfile.SpooledTemporaryFile(KEPT_IN_MEMORY))  # noqa: SIM115
    digest, size = hashlib.sha256(), 0
    while block := stream.read(1 << 20):
        digest.update(block)
        size += len(block)
        if kept is not stream:
            kept.write(block)
    if size != shard.bytes or digest.hexdigest() != shard.sha256:
        for opened in (stream, kept):
            opened.close()
        what = f"{size} bytes, not {shard.bytes}" if size != shard.bytes else f"sha256 {digest.hexdigest()}, not {shard.sha256}"
        raise Damaged(f"{store.uri(shard.key)} has {what}")
    kept.seek(0)
    return kept


def _is_file(stream: BinaryIO) -> bool:
    try:
        return stream.fileno() >= 0
    except OSError:
        return False


def _write(store: ObjectStore, table: pa.Table, key: str, tier: str, row_group_bytes: int) -> ShardRecord:
    body = parquet_body(table, row_group_bytes)
    store.put(key, body)
    return ShardRecord(key=key, tier=tier, rows=table.num_rows, bytes=len(body), sha256=hashlib.sha256(body).hexdigest())


def parquet_body(table: pa.Table, row_group_bytes: int = ROW_GROUP_BYTES) -> memoryview:
    """The table as Parquet bytes. They do not depend on the chunking, the time or the machine."""
    table = table.combine_chunks().replace_schema_metadata(None)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        table.schema,
        version="2.6",
        compression={name: "none" if name in _UNCOMPRESSED else "zstd" for name in _leaves(table.schema)},
        compression_level={name: 3 for name in _leaves(table.schema) if name not in _UNCOMPRESSED},
        data_page_size=DATA_PAGE_BYTES,
        write_batch_size=1,  # the size of a data page is looked at after so many rows
        write_page_index=True,
        use_dictionary=[name for name in table.column_names if name not in _PLAIN],
        write_statistics=[name for name in table.column_names if name not in _PAYLOADS],
        write_page_checksum=True,
    ) as writer:
        for start, stop in _cuts(_row_bytes(table), row_group_bytes):
            writer.write_table(table.slice(start, stop - start), row_group_size=stop - start)
    return memoryview(sink.getvalue())


def _leaves(schema: pa.Schema) -> list[str]:
    """The paths of the Parquet columns of a schema."""

    def below(name: str, kind: pa.DataType) -> list[str]:
        if pa.types.is_map(kind):
            parts = {"key_value.key": kind.key_type, "key_value.value": kind.item_type}
        elif pa.types.is_list(kind):
            parts = {"list.element": kind.value_type}
        elif pa.types.is_struct(kind):
            parts = {field.name: field.type for field in kind}
        else:
            return [name]
        return [leaf for part, inner in parts.items() for leaf in below(f"{name}.{part}", inner)]

    return [leaf for field in schema for leaf in below(field.name, field.type)]


def _row_bytes(table: pa.Table) -> np.ndarray:
    """Approximate bytes of each row in memory, `[rows]`."""
    sizes = np.full(table.num_rows, _ROW_OVERHEAD, np.int64)
    for name in _PAYLOADS:
        if name in table.column_names:
            sizes += pc.fill_null(pc.binary_length(table[name]), 0).to_numpy().astype(np.int64)
    return sizes


def _cuts(sizes: np.ndarray, limit: int) -> Iterator[tuple[int, int]]:
    """Consecutive ranges of rows, each as long as fits in `limit` bytes, and at least one row."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + limit, side="right")))
        yield start, stop
        start = stop
