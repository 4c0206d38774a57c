"""Rows of one unit to Parquet objects, in bounded memory: pages by tier, samples, quarantine."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from palimpsest.corpus.quarantine_rows import QuarantineRows
from palimpsest.corpus.sample_sets import PREFIX, TIER
from palimpsest.corpus.shards import ShardRecord, new_attempt, write_shard
from palimpsest.flow.stages.tables import table_of
from palimpsest.schemas import SAMPLES, SHARD, conform
from palimpsest.storage.object_store import ObjectStore

PAGE_SHARD_BYTES = 64 << 20  # of pages of one tier that wait in memory before they become a shard
PAGE_GROUP_BYTES = 2 << 20  # of a row group of pages: what a loader reads to get one
SAMPLE_ROWS = 64  # samples that wait in memory, and a row group of them


class UnitWriter:
    """Gathers what one unit becomes. Nothing of it counts before the unit's record is committed."""

    def __init__(self, store: ObjectStore, unit_id: str) -> None:
        self.store, self.unit_id, self.attempt = store, unit_id, new_attempt()
        self.counts: Counter[str] = Counter()
        self.quarantine = QuarantineRows()
        self._pages: dict[int, ShardRecord] = {}
        self._open: dict[str, tuple[int, list[pa.Table]]] = {}
        self._waiting: Counter[str] = Counter()
        self._shards = 0
        self._samples: list[dict[str, Any]] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._sink: pq.ParquetWriter | None = None

    def __enter__(self) -> UnitWriter:
        self._folder = tempfile.TemporaryDirectory()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._sink is not None:
            self._sink.close()
        assert self._folder is not None
        self._folder.cleanup()

    def keep_pages(self, table: pa.Table) -> list[tuple[int, int]]:
        """Take rows of VERDICTS and return where each is stored: (number of the shard, row in it)."""
        placed = []
        for index, tier in enumerate(table["tier"].to_pylist()):
            if tier not in self._open:
                self._open[tier] = (self._shards, [])
                self._shards += 1
            number, waiting = self._open[tier]
            placed.append((number, len(waiting)))
            waiting.append(table.slice(index, 1).select(SHARD.names))
            self._waiting[tier] += waiting[-1].nbytes
            if self._waiting[tier] >= PAGE_SHARD_BYTES:
                self._seal(tier)
        self.counts["page_rows"] += table.num_rows
        for name in ("text", "context"):
            self.counts[f"page_{name}_tokens"] += pc.sum(table[f"num_{name}_tokens"]).as_py() or 0
        return placed

    def add_sample(self, row: dict[str, Any]) -> None:
        self._samples.append(row)
        for name in ("num_context_tokens", "num_text_tokens", "dropped_text_tokens"):
            self.counts[name.removeprefix("num_")] += row[name]
        self.counts["samples"] += 1
        if len(self._samples) >= SAMPLE_ROWS:
            self._flush()

    def refuse(self, reason: str, detail: str, *, source: dict[str, Any], record: bytes, doc_id: str | None = None) -> None:
        """Quarantine a conversation or a target."""
        row = {"unit_id": self.unit_id, "doc_id": doc_id, "reason": reason, "detail": detail, "record": record, **source}
        self.quarantine.append(row)
        self.counts["quarantined"] += 1

    def finish(self) -> tuple[tuple[ShardRecord, ...], ShardRecord | None, ShardRecord | None]:
        """Write what still waits in memory: (page shards by number, samples, quarantine)."""
        for tier in list(self._open):
            self._seal(tier)
        samples = None
        if self._samples or self._sink is not None:
            self._flush()
            assert self._sink is not None
            self._sink.close()
            self._sink = None
            path = self._path
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            key = f"{PREFIX}{self.unit_id}-{self.attempt}.parquet"
            self.store.put(key, path)
            rows = self.counts["samples"]
            samples = ShardRecord(key=key, tier=TIER, rows=rows, bytes=path.stat().st_size, sha256=digest)
        quarantine = self.quarantine.write(self.store, unit_id=self.unit_id, attempt=self.attempt)
        return tuple(self._pages[number] for number in range(self._shards)), samples, quarantine

    @property
    def _path(self) -> Path:
        assert self._folder is not None
        return Path(self._folder.name) / "samples.parquet"

    def _seal(self, tier: str) -> None:
        number, waiting = self._open.pop(tier)
        del self._waiting[tier]
        rows = conform(pa.concat_tables(waiting), SHARD, "conversations")
        self._pages[number] = write_shard(
            self.store, rows, unit_id=self.unit_id, attempt=self.attempt, number=number, row_group_bytes=PAGE_GROUP_BYTES
        )

    def _flush(self) -> None:
        if self._sink is None:
            self._sink = pq.ParquetWriter(
                self._path, SAMPLES, version="2.6", compression="zstd", compression_level=3, write_page_checksum=True
            )
        if self._samples:
            self._sink.write_table(table_of(self._samples, SAMPLES, "memory samples"))
        self._samples = []
