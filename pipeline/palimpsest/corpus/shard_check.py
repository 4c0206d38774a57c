"""The checks of one shard, row by row; one batch is in memory at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from palimpsest.codecs.token_storage import NONE, STORAGES, find_storage
from palimpsest.codecs.token_storage.pq import is_name
from palimpsest.corpus.codebooks import check_codebook
from palimpsest.corpus.duplicates import PageCensus
from palimpsest.corpus.shards import QUARANTINE_TIER, STATUSES, TEXT_TIER, ShardRecord, open_shard, read_shard
from palimpsest.corpus.units import CommitRecord
from palimpsest.schemas import QUARANTINE, SAMPLES, SHARD, VISUAL
from palimpsest.storage.object_store import ObjectStore, StoreError, Unavailable

EXAMPLES = 3  # rows named per kind of fault and shard; the rest is counted
_BATCH_ROWS = 256
_ROW = ("page_id", "doc_id", "tier", "status", "fingerprint", "codec", "codec_revision")
_TOKENS = ("tokens", "num_vision_tokens", "token_dim", "token_dtype", "token_scales", "tokens_sha256")


@dataclass
class CodecRegister:
    """The codec of each fingerprint. All tokens of a fingerprint must have the codec that was seen first."""

    of_fingerprint: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)
    codebooks: dict[str, str | None] = field(default_factory=dict)

    def conflict(self, fingerprint: str, codec: tuple[str | None, str | None]) -> str | None:
        """The fault of tokens of `codec` (id, revision) under `fingerprint`, or None."""
        first = self.of_fingerprint.setdefault(fingerprint, codec)
        return None if first == codec else f"tokens of codec {codec}, but fingerprint {fingerprint} has {first}"

    def codebook_fault(self, store: ObjectStore, name: str) -> str | None:
        """The fault of the codebook of a token storage, read once; None for a sound one or none."""
        if name not in self.codebooks:
            self.codebooks[name] = check_codebook(store, name)
        return self.codebooks[name]


def check_shard(
    store: ObjectStore,
    unit: CommitRecord,
    shard: ShardRecord,
    codecs: CodecRegister,
    census: PageCensus | None = None,
    number: int = 0,
) -> Iterator[str]:
    """The faults of one shard (or quarantine) of a unit; nothing is yielded for a sound one.

    `census`, if given, records the shard's pages under `number`.

    Raises:
        Unavailable: the storage does not answer, so the state of the shard is unknown.
    """
    try:
        stream = open_shard(store, shard, verify=True)
    except Unavailable:
        raise
    except StoreError as error:
        yield str(error)
        return
    with stream:
        try:
            yield from _check_parquet(store, stream, unit, shard, codecs, census, number)
        except (pa.ArrowException, OSError) as error:
            yield f"is not readable as Parquet: {error}"


def _check_parquet(
    store: ObjectStore,
    stream: BinaryIO,
    unit: CommitRecord,
    shard: ShardRecord,
    codecs: CodecRegister,
    census: PageCensus | None,
    number: int,
) -> Iterator[str]:
    parquet = pq.ParquetFile(stream)
    schema = QUARANTINE if shard.tier == QUARANTINE_TIER else SHARD
    if not parquet.schema_arrow.equals(schema):
        has, lacks = _difference(parquet.schema_arrow, schema), _difference(schema, parquet.schema_arrow)
        yield f"schema differs from the row contract: has {has}, lacks {lacks}"
        return
    if parquet.metadata.num_rows != shard.rows:
        yield f"has {parquet.metadata.num_rows} rows, not {shard.rows}"
    faults: dict[str, list[str]] = {}
    seen = 0
    columns = ["unit_id"] if schema is QUARANTINE else [*_ROW, *_TOKENS]
    for batch in parquet.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False):
        if schema is QUARANTINE:
            if pc.any(pc.not_equal(batch["unit_id"], unit.unit_id)).as_py():
                faults.setdefault(f"rows of a unit that is not {unit.unit_id}", []).append(f"from {seen} on")
        else:
            if census is not None:
                census.add((page_id or "" for page_id in batch["page_id"].to_pylist()), number, seen)
            for row in batch.to_pylist():
                for fault in _row_faults(row, unit, shard, codecs, store):
                    faults.setdefault(fault, []).append(str(row["page_id"]))
        seen += batch.num_rows
    for fault, rows in faults.items():
        more = f" and {len(rows) - EXAMPLES} more" if len(rows) > EXAMPLES else ""
        yield f"{fault}: {', '.join(rows[:EXAMPLES])}{more}"


def check_samples(store: ObjectStore, unit: CommitRecord, samples: ShardRecord) -> Iterator[str]:
    """The faults of a unit's samples: of their object, and of their references to pages.

    Memory: the hashes of the tokens of all pages of the unit.

    Raises:
        Unavailable: the storage does not answer, so the state of the samples is unknown.
    """
    try:
        pages = [read_shard(store, shard, ["tokens_sha256"])["tokens_sha256"].to_pylist() for shard in unit.shards]
        with open_shard(store, samples, verify=True) as stream:
            parquet = pq.ParquetFile(stream)
            if not parquet.schema_arrow.equals(SAMPLES):
                yield f"schema differs from that of samples: {_difference(parquet.schema_arrow, SAMPLES)}"
                return
            if parquet.metadata.num_rows != samples.rows:
                yield f"has {parquet.metadata.num_rows} rows, not {samples.rows}"
            for batch in parquet.iter_batches(_BATCH_ROWS, columns=["sample_id", "unit_id", "segments"], use_threads=False):
                for row in batch.to_pylist():
                    yield from _sample_faults(row, unit, pages)
    except Unavailable:
        raise
    except (StoreError, pa.ArrowException, OSError) as error:
        yield f"cannot be read with its pages: {error}"


def _sample_faults(row: dict[str, Any], unit: CommitRecord, pages: list[list[str]]) -> Iterator[str]:
    if row["unit_id"] != unit.unit_id:
        yield f"sample {row['sample_id']} is of unit {row['unit_id']}, not {unit.unit_id}"
    for segment in row["segments"]:
        if segment["kind"] == VISUAL:
            shard, page_row = segment["page_shard"], segment["page_row"]
            known = shard is not None and 0 <= shard < len(pages) and page_row is not None and 0 <= page_row < len(pages[shard])
            if not known or pages[shard][page_row] != segment["tokens_sha256"]:
                yield f"sample {row['sample_id']}: row {page_row} of shard {shard} is not its page {segment['page_id']}"


def _row_faults(
    row: dict[str, Any], unit: CommitRecord, shard: ShardRecord, codecs: CodecRegister, store: ObjectStore
) -> Iterator[str]:
    if not row["page_id"] or not row["doc_id"]:
        yield "page_id or doc_id is missing"
    if row["tier"] != shard.tier:
        yield f"tier {row['tier']!r} in a shard of tier {shard.tier!r}"
    if row["status"] not in STATUSES:
        yield f"status {row['status']!r} is none of {STATUSES}"
    if (
        unit.holds == "pages"
        and row["fingerprint"] != unit.fingerprint
        and not (row["tier"] == TEXT_TIER and row["fingerprint"] is None)
    ):
        yield f"fingerprint {row['fingerprint']!r}, but the unit has {unit.fingerprint!r}"
    if row["tier"] == TEXT_TIER:
        if row["tokens"] is not None:
            yield "tokens on a page of tier 'text'"
        return
    if row["token_dtype"] == NONE:
        if row["tokens"] is not None or row["token_scales"] is not None:
            yield "tokens on a page of token_dtype 'none'"
    elif row["tokens"] is None:
        yield f"no tokens on a page of tier {row['tier']!r}"
        return
    else:
        yield from _token_faults(row, codecs, store)
    conflict = codecs.conflict(row["fingerprint"], (row["codec"], row["codec_revision"]))
    if conflict:
        yield conflict


def _token_faults(row: dict[str, Any], codecs: CodecRegister, store: ObjectStore) -> Iterator[str]:
    dtype = row["token_dtype"]
    if (fault := codecs.codebook_fault(store, dtype or "")) is not None:
        yield fault
        return
    if dtype not in STORAGES and not is_name(dtype or ""):
        yield f"token_dtype {dtype!r} is none of {STORAGES}"
    else:
        count, dim = row["num_vision_tokens"] or 0, row["token_dim"] or 0
        found, expected = len(row["tokens"]) + len(row["token_scales"] or b""), count * find_storage(dtype).bytes_per_token(dim)
        if found != expected:
            yield f"{count} × {dim} tokens of {dtype} in {found} bytes with their scales, not {expected}"
    if hashlib.sha256(row["tokens"]).hexdigest() != row["tokens_sha256"]:
        yield "tokens_sha256 is not the hash of the tokens"


def _difference(left: pa.Schema, right: pa.Schema) -> list[str]:
    other = {str(field) for field in right}
    return [str(field) for field in left if str(field) not in other]
