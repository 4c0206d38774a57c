"""The cache of an ingestion pass for the next one. It is advice only: without it a pass reads more and has the same result.

_ingest/<sources>/settled.json      with this inventory and this snapshot there was nothing to do
_ingest/<sources>/versions.parquet  the versions of local files under their status, so that only new ones are read
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from palimpsest.config import JobConfig
from palimpsest.sources.objects import Listed
from palimpsest.storage.object_store import NoSuchObject, ObjectStore
from palimpsest.storage.stable_json import Damaged, read_json, to_bytes

PREFIX = "_ingest/"
_ROWS = 8192
_SCHEMA = pa.schema([("name", pa.string()), ("status", pa.string()), ("version", pa.string())])


class Memory:
    """The cache of passes over these sources."""

    def __init__(self, store: ObjectStore, config: JobConfig) -> None:
        self._store = store
        name = hashlib.sha256(json.dumps(sorted(config.sources)).encode("ascii")).hexdigest()[:24]
        self._settled, self._versions = f"{PREFIX}{name}/settled.json", f"{PREFIX}{name}/versions.parquet"
        self._policy = config.ingest.model_dump()

    def settled(self, inventory: str, snapshot: int, fingerprint: str) -> dict[str, int] | None:
        """The counts of the comparison that found no work for this inventory and this snapshot; None if none is recorded."""
        try:
            record = read_json(self._store, self._settled)
        except (NoSuchObject, Damaged):
            return None
        key = self._key(inventory, snapshot, fingerprint)
        return record["counts"] if {name: record.get(name) for name in key} == key else None

    def settle(self, inventory: str, snapshot: int, fingerprint: str, counts: dict[str, int]) -> None:
        """Record that this inventory (its digest) and this snapshot leave nothing to do."""
        self._store.put(self._settled, to_bytes({**self._key(inventory, snapshot, fingerprint), "counts": counts}))

    def _key(self, inventory: str, snapshot: int, fingerprint: str) -> dict[str, Any]:
        return {"inventory": inventory, "snapshot": snapshot, "fingerprint": fingerprint, "policy": self._policy}

    def versions(self) -> Iterator[tuple[str, str, str]]:
        """(name, status, version) of the files of the last pass, by name."""
        try:
            with self._store.open(self._versions) as stream:
                for batch in pq.ParquetFile(stream).iter_batches(_ROWS, use_threads=False):
                    yield from zip(*(batch.column(name).to_pylist() for name in _SCHEMA.names), strict=True)
        except (NoSuchObject, pa.ArrowException):
            return

    def watch(self, listing: Iterable[tuple[Listed, bool]]) -> VersionWriter:
        """Iterate over a listing and record the versions that can be cached."""
        return VersionWriter(self._store, self._versions, listing)


class VersionWriter:
    """A listing whose versions are recorded while a caller iterates over it; `keep` stores them."""

    def __init__(self, store: ObjectStore, key: str, listing: Iterable[tuple[Listed, bool]]) -> None:
        self._store, self._key, self._listing = store, key, listing
        self._folder = tempfile.TemporaryDirectory()
        self._path = Path(self._folder.name) / "versions.parquet"
        self.local = self.settled = 0

    def __iter__(self) -> Iterator[tuple[Listed, bool]]:
        rows: list[tuple[str, str, str]] = []
        with pq.ParquetWriter(self._path, _SCHEMA, compression="zstd") as writer:
            for listed, settled in self._listing:
                self.local += bool(listed.status)
                self.settled += settled
                if settled:
                    rows.append((listed.name, listed.status, listed.item.version))
                if len(rows) >= _ROWS:
                    writer.write_table(_table(rows))
                    rows = []
                yield listed, settled
            if rows:
                writer.write_table(_table(rows))

    def keep(self) -> None:
        """Store the recorded versions, after the whole listing was iterated."""
        if self.settled:
            self._store.put(self._key, self._path)

    def close(self) -> None:
        self._folder.cleanup()


def _table(rows: list[tuple[str, str, str]]) -> pa.Table:
    return pa.table([pa.array(column, pa.string()) for column in zip(*rows, strict=True)], schema=_SCHEMA)
