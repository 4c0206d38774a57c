"""Whether objects of a corpus hold documents that a condition names: what `erase` removes, and what `fsck --absent` looks for.

A document is named when one of its pages, samples or quarantined records matches. A condition is about the columns of the row
contract; columns that a sample or a quarantined record lacks are null there, and the text of a sample is all that it shows.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from palimpsest.corpus.sample_sets import PREFIX as SAMPLES_PREFIX
from palimpsest.schemas import QUARANTINE, SAMPLES, SHARD
from palimpsest.storage.object_store import NoSuchObject, ObjectStore
from palimpsest.storage.stable_json import Damaged

PREFIXES = {"data/": SHARD, SAMPLES_PREFIX: SAMPLES, "quarantine/": QUARANTINE}
BULKY = ("tokens", "token_scales")  # never asked about
GROUP_ROWS = 256


def read_object(store: ObjectStore, key: str) -> pa.Table:
    """All rows of a shard, a set of samples or a quarantine, in memory. Raises NoSuchObject, Damaged."""
    with store.open(key) as stream:
        try:
            return pq.ParquetFile(stream, page_checksum_verification=True).read(use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise Damaged(f"{store.uri(key)} is not readable as Parquet: {error}") from error


def matches(store: ObjectStore, key: str, where: pc.Expression) -> tuple[set[str], int]:
    """The documents of an object that a condition names, and how many rows match. An object that is gone has none.

    Raises:
        Damaged: it cannot be read, so that nobody can tell.
    """
    doc_ids: set[str] = set()
    rows = 0
    try:
        for table in _contract_rows(store, key):
            found = table.filter(where)
            rows += found.num_rows
            doc_ids.update(doc_id for doc_id in found["doc_id"].to_pylist() if doc_id)
    except NoSuchObject:
        return set(), 0
    return doc_ids, rows


def mask(table: pa.Table, where: pc.Expression, doc_ids: set[str]) -> pa.ChunkedArray:
    """For each row of a shard, of samples or of a quarantine, whether it is of one of these documents or matches."""
    rows = as_contract(table).append_column("_row", pa.array(range(table.num_rows), pa.int64()))
    matching = rows.filter(where)["_row"]
    named = pc.is_in(rows["doc_id"], pa.array(sorted(doc_ids), pa.string()))
    return pc.or_(named, pc.is_in(rows["_row"], matching))


def as_contract(table: pa.Table) -> pa.Table:
    """Rows of any of the three kinds with the columns of the row contract, bulky ones null."""
    columns = {name: table[name] for name in table.column_names}
    if "conversation_id" in columns:
        columns["doc_id"] = columns["conversation_id"]
        shown = zip(columns["segments"].to_pylist(), columns["target_text"].to_pylist(), strict=True)
        texts = ["".join(segment["text"] or "" for segment in segments) + target for segments, target in shown]
        columns["text"] = pa.array(texts, pa.large_string())
    given = {name: column for name, column in columns.items() if name not in BULKY}
    return pa.table([given.get(field.name, pa.nulls(table.num_rows, field.type)) for field in SHARD], schema=SHARD)


def _contract_rows(store: ObjectStore, key: str) -> Iterator[pa.Table]:
    with store.open(key) as stream:
        try:
            file = pq.ParquetFile(stream, page_checksum_verification=True)
            columns = [name for name in file.schema_arrow.names if name not in BULKY]
            for batch in file.iter_batches(GROUP_ROWS, columns=columns, use_threads=False):
                yield as_contract(pa.Table.from_batches([batch]))
        except (pa.ArrowException, OSError) as error:
            raise Damaged(f"{store.uri(key)} is not readable as Parquet: {error}") from error


def present(store: ObjectStore, where: pc.Expression) -> Iterator[tuple[str, int]]:
    """(key, rows) of all objects that hold something that matches, whether or not anything refers to them.

    Raises:
        Damaged: an object cannot be read, so that nobody can tell.
    """
    for prefix in PREFIXES:
        for info in store.list(prefix):
            _, rows = matches(store, info.key, where)
            if rows:
                yield info.key, rows
