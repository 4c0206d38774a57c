"""The quarantine of one unit, collected row by row. Beyond a few thousand rows it is on disk: a whole unit may be unusable."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from palimpsest.corpus.shards import QUARANTINE_TIER, ShardRecord, write_quarantine
from palimpsest.schemas import QUARANTINE, conform
from palimpsest.storage.object_store import ObjectStore

ROWS_IN_MEMORY = 4096  # each keeps up to QUARANTINE_BYTES of its record
SORTED_BY = ("source_uri", "source_id", "doc_id", "reason", "detail", "record")


class QuarantineRows:
    """Rows of the QUARANTINE schema.

    Attributes:
        reasons: number of rows per reason.
    """

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self._first: dict[str, dict[str, Any]] = {}
        self._rows: list[dict[str, Any]] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._sink: pa.ipc.RecordBatchFileWriter | None = None

    def __len__(self) -> int:
        return self.reasons.total()

    def append(self, row: dict[str, Any]) -> None:
        self.reasons[row["reason"]] += 1
        self._first.setdefault(row["reason"], row)
        self._rows.append(row)
        if len(self._rows) >= ROWS_IN_MEMORY:
            if self._sink is None:
                self._folder = tempfile.TemporaryDirectory()
                self._sink = pa.ipc.new_file(self._path("rows"), QUARANTINE)
            self._sink.write_table(_table(self._rows))
            self._rows = []

    def first(self, reasons: Collection[str]) -> dict[str, Any] | None:
        """A row with one of these reasons, or None."""
        return next((row for reason, row in self._first.items() if reason in reasons), None)

    def write(self, store: ObjectStore, *, unit_id: str, attempt: str) -> ShardRecord | None:
        """Write the rows as the unit's quarantine; None if there are none. Memory: 8 bytes a row beyond the rows in memory."""
        if self._sink is None or self._folder is None:
            return write_quarantine(store, _table(self._rows), unit_id=unit_id, attempt=attempt) if self._rows else None
        self._sink.write_table(_table(self._rows))
        self._sink.close()
        with self._folder, pa.memory_map(self._path("rows")) as source:
            rows = pa.ipc.open_file(source).read_all()
            order = pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in SORTED_BY])
            with pq.ParquetWriter(
                self._path("parquet"), QUARANTINE, version="2.6", compression="zstd", write_page_checksum=True,
                use_dictionary=["unit_id", "source_uri", "source_version", "reason"],
            ) as writer:  # fmt: skip
                for start in range(0, len(order), ROWS_IN_MEMORY):
                    writer.write_table(rows.take(order[start : start + ROWS_IN_MEMORY]))
            key, path = f"quarantine/{unit_id}-{attempt}.parquet", Path(self._path("parquet"))
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            store.put(key, path)
            return ShardRecord(key=key, tier=QUARANTINE_TIER, rows=len(self), bytes=path.stat().st_size, sha256=digest)

    def _path(self, name: str) -> str:
        assert self._folder is not None
        return str(Path(self._folder.name) / name)


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    columns = {column.name: pa.array([row.get(column.name) for row in rows], column.type) for column in QUARANTINE}
    return conform(pa.table(columns), QUARANTINE, "quarantine")
