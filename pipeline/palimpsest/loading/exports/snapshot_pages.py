"""What the writers of exports get: the tables of one snapshot, and the totals of what they have read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from palimpsest.corpus.reader import Corpus
from palimpsest.corpus.shards import ShardRecord, read_shard
from palimpsest.schemas import SHARD

COUNTED = ("tier", "status", "text_class", "codec", "codec_revision", "token_dtype")
ROWS = 256  # that `rows` has as Python objects at a time


class SnapshotPages:
    """The pages of a snapshot, shard by shard, each shard's hash checked.

    Attributes:
        corpus: the corpus, opened at that snapshot.
        pages, text_tokens, context_tokens, verified: totals of the shards that were read.
        counts: pages by value of each of COUNTED.
    """

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self.pages = self.text_tokens = self.context_tokens = self.verified = 0
        self.counts: dict[str, Counter[str]] = {name: Counter() for name in COUNTED}
        self._precision = 0.0

    def tables(self) -> Iterator[tuple[ShardRecord, pa.Table]]:
        """Every shard with its rows, in the columns of the row contract; null where an older shard lacks one.

        Raises:
            Damaged: bytes that are not those that were written.
        """
        for unit in self.corpus.snapshot.units:
            for shard in unit.shards:
                table = read_shard(self.corpus.store, shard, verify=True)
                table = pa.table([_column(table, field) for field in SHARD], schema=SHARD)
                self._add(table)
                yield shard, table

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every page as a dict."""
        for _, table in self.tables():
            for batch in table.to_batches(max_chunksize=ROWS):
                yield from batch.to_pylist()

    def facts(self) -> dict[str, Any]:
        """The totals, and the mean precision of the verified pages."""
        named = {"pages": self.pages, "text_tokens": self.text_tokens, "context_tokens": self.context_tokens}
        mean = self._precision / self.verified if self.verified else None
        counts = {name: dict(values) for name, values in self.counts.items()}
        return {**named, "verified_pages": self.verified, "mean_precision": mean, **counts}

    def _add(self, table: pa.Table) -> None:
        self.pages += table.num_rows
        self.text_tokens += pc.sum(table["num_text_tokens"]).as_py() or 0
        self.context_tokens += pc.sum(table["num_context_tokens"]).as_py() or 0
        self.verified += table.num_rows - table["precision"].null_count
        self._precision += pc.sum(table["precision"]).as_py() or 0.0
        for name, counts in self.counts.items():
            counts.update(value for value in table[name].to_pylist() if value is not None)


def without_maps(table: pa.Table) -> pa.Table:
    """The same table with the schema PLAIN."""
    return pa.table([column.cast(field.type) for column, field in zip(table.columns, PLAIN, strict=True)], schema=PLAIN)


def _column(table: pa.Table, field: pa.Field) -> Any:
    return table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(table.num_rows, field.type)


def _without_map(field: pa.Field) -> pa.Field:
    if not pa.types.is_map(field.type):
        return field
    entry = pa.struct([pa.field("key", field.type.key_type, nullable=False), pa.field("value", field.type.item_type)])
    return pa.field(field.name, pa.list_(entry))


PLAIN = pa.schema([_without_map(field) for field in SHARD])
"""The row contract with lists of keys and values for maps, which neither `datasets` nor Lance knows."""
