"""`palimpsest.Corpus`: a published corpus, read back.

Reading follows one snapshot, whatever is published meanwhile. Nothing here imports Ray; torch is imported by `Page.decode` only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from palimpsest.corpus.format import open_corpus
from palimpsest.corpus.page import DOCUMENT_COLUMNS, Document, Page, documents_of
from palimpsest.corpus.row_filter import UnknownColumn, Where, condition
from palimpsest.corpus.shards import ShardRecord, open_shard, read_shard
from palimpsest.corpus.snapshots import CHECKED, Snapshot, latest, read_snapshot, snapshot_numbers
from palimpsest.errors import UsageError
from palimpsest.schemas import QUARANTINE, SHARD
from palimpsest.storage.object_store import ObjectStore
from palimpsest.storage.opening import open_store
from palimpsest.storage.stable_json import Damaged


class Corpus:
    """One snapshot of a corpus.

    Args:
        uri: a directory or `s3://bucket/prefix`.
        snapshot: its number; None means the newest.

    Every `where` is a condition on the columns of `schema`: SQL, as in `"precision >= 0.97 and tier = 'tiny'"`, or a
    pyarrow.compute.Expression.

    Raises:
        UsageError: there is no corpus at `uri`, or nothing is published in it.
        NoSuchObject: there is no such snapshot; the message lists the existing ones.
    """

    schema: pa.Schema = SHARD

    def __init__(self, uri: str, snapshot: int | None = None) -> None:
        self.store = open_store(uri)
        open_corpus(self.store)
        self.uri = str(uri)
        if snapshot is None:
            self.snapshot = _published(self.store, self.uri)
        else:
            self.snapshot = read_snapshot(self.store, snapshot)

    def __repr__(self) -> str:
        return f"<Corpus {self.uri!r}, snapshot {self.snapshot.number}: {len(self):,} pages>"

    def __len__(self) -> int:
        """The number of pages in the snapshot."""
        return self.snapshot.totals.rows

    @cached_property
    def _shards(self) -> tuple[ShardRecord, ...]:
        return tuple(shard for unit in self.snapshot.units for shard in unit.shards)

    def files(self, where: Where | None = None) -> list[str]:
        """Paths or URIs of the snapshot's shards: for DuckDB, Polars, Spark, `load_dataset` or any other Parquet reader.

        They contain every page once. A glob over `data/` also matches the shards of older snapshots, and doubles pages.

        Args:
            where: only shards that may contain such a page, by their Parquet statistics; they contain other pages too.
        """
        expression = condition(where, SHARD)
        if expression is None:
            return [self.store.uri(shard.key) for shard in self._shards]
        return [
            self.store.uri(shard.key) for shard in self._shards if next(self._row_groups(shard, expression), None) is not None
        ]

    def table(self, columns: Sequence[str] | None = None, where: Where | None = None) -> pa.Table:
        """Pages as one Arrow table, in memory: name the columns that you need, for `tokens` is large.

        Raises:
            UnknownColumn, UsageError, Damaged.
        """
        expression = condition(where, SHARD)
        names = SHARD.names if columns is None else list(columns)
        for name in names:
            if name not in SHARD.names:
                raise UnknownColumn(name, SHARD.names)
        schema = pa.schema([SHARD.field(name) for name in names])
        return pa.concat_tables([schema.empty_table(), *self._tables(names, expression)])

    def pages(self, where: Where | None = None) -> Iterator[Page]:
        """Pages in the order of the snapshot, one row group (about 2 MB) in memory at a time.

        Raises:
            UnknownColumn, UsageError: at once. Damaged: when the shard is read.
        """
        expression = condition(where, SHARD)
        return (Page(rows, row, self.store) for rows in self._tables(SHARD.names, expression) for row in range(rows.num_rows))

    def documents(self, where: Where | None = None) -> Iterator[Document]:
        """Documents, reassembled from their pages; the texts of one unit are in memory at a time.

        Args:
            where: only matching pages are used.
        """
        expression = condition(where, SHARD)
        return (
            document
            for unit in self.snapshot.units
            for document in documents_of(
                rows for shard in unit.shards for rows in self._shard_tables(shard, DOCUMENT_COLUMNS, expression)
            )
        )

    def quarantine(self, where: Where | None = None) -> pa.Table:
        """Records that failed, with the reason: rows of `palimpsest.schemas.QUARANTINE`, each with at most 4 KiB of the record.

        Args:
            where: a condition on these columns, as in `"reason = 'invalid_json'"`.
        """
        expression = condition(where, QUARANTINE)
        tables = (read_shard(self.store, unit.quarantine) for unit in self.snapshot.units if unit.quarantine)
        failed = pa.concat_tables([QUARANTINE.empty_table(), *(table.cast(QUARANTINE) for table in tables)])
        return failed if expression is None else failed.filter(expression)

    def samples(self) -> Iterator[dict[str, Any]]:
        """Memory samples, rows of `palimpsest.schemas.SAMPLES`, of a corpus that `palimpsest conversations` made; else none."""
        for unit in self.snapshot.units:
            if unit.samples is not None:
                for start in range(0, len(table := read_shard(self.store, unit.samples)), 64):
                    yield from table.slice(start, 64).to_pylist()

    def snapshots(self) -> list[Snapshot]:
        """All published versions that still exist, oldest first: `number`, `parent`, `run_id`, `totals`."""
        return [read_snapshot(self.store, number) for number in snapshot_numbers(self.store)]

    def _tables(self, columns: Sequence[str], expression: pc.Expression | None) -> Iterator[pa.Table]:
        for shard in self._shards:
            yield from self._shard_tables(shard, columns, expression)

    def _shard_tables(self, shard: ShardRecord, columns: Sequence[str], expression: pc.Expression | None) -> Iterator[pa.Table]:
        """Rows that match, a row group at a time. Raises NoSuchObject, Damaged."""
        for group in self._row_groups(shard, expression):
            try:
                rows = group.to_table(schema=SHARD, columns=list(columns), filter=expression, use_threads=False)
            except (pa.ArrowException, OSError) as error:
                raise Damaged(f"{self.store.uri(shard.key)} is not readable as Parquet: {error}") from error
            if rows.num_rows:
                yield rows

    def _row_groups(self, shard: ShardRecord, expression: pc.Expression | None) -> Iterator[pads.Fragment]:
        """The row groups of a shard that may contain a matching page."""
        with open_shard(self.store, shard) as stream:
            try:
                groups = CHECKED.make_fragment(stream).split_by_row_group(filter=expression, schema=SHARD)
            except (pa.ArrowException, OSError) as error:
                raise Damaged(f"{self.store.uri(shard.key)} is not readable as Parquet: {error}") from error
            yield from groups


def published(corpus: str) -> tuple[ObjectStore, Snapshot]:
    """The store of a corpus and its newest snapshot.

    Raises:
        UsageError: there is no corpus, or nothing is published.
    """
    store = open_store(corpus)
    open_corpus(store)
    return store, _published(store, corpus)


def _published(store: ObjectStore, uri: str) -> Snapshot:
    snapshot = latest(store)
    if snapshot is None:
        raise UsageError(f"corpus {uri!r} has no snapshot yet: run `palimpsest run … --out {uri}` to its end")
    return snapshot
