"""A bounded folder of shard pieces, so that each machine fetches a piece of a bucket once."""

from __future__ import annotations

import io
import os
import secrets
from pathlib import Path
from typing import Any, BinaryIO, cast

from palimpsest.corpus.shards import ShardRecord
from palimpsest.errors import UsageError
from palimpsest.storage.object_store import ObjectStore

PIECE = 2 << 20  # bytes
TRIMMED_TO = 0.9  # share of the limit that is left after pieces were removed


class ShardCache:
    """Pieces of shards by content hash, shared by all processes of a machine; local files are not cached.

    Args:
        limit: bytes; the pieces used longest ago are removed above it. Each process counts what it adds, so that several may
            exceed the limit by what they write between two counts (a tenth of it each).
    """

    def __init__(self, folder: str | Path, limit: int) -> None:
        if limit < PIECE:
            raise UsageError(f"cache_bytes = {limit}: at least one piece of {PIECE} bytes")
        self.folder, self.limit = Path(folder), limit
        self.folder.mkdir(parents=True, exist_ok=True)
        self._added = limit  # so that the first addition counts

    def open(self, store: ObjectStore, shard: ShardRecord) -> BinaryIO:
        """The shard as a stream that reads through the cache. Raises NoSuchObject, StoreError."""
        if Path(store.uri(shard.key)).is_file():
            return store.open(shard.key)
        return cast(BinaryIO, io.BufferedReader(_Cached(self, store, shard), 1 << 16))

    def piece(self, store: ObjectStore, shard: ShardRecord, number: int) -> bytes:
        """A piece, from the folder or else from the store."""
        path = self._path(shard, number)
        size = min(PIECE, shard.bytes - number * PIECE)
        try:
            body = path.read_bytes()
            if len(body) == size:
                os.utime(path)
                return body
        except FileNotFoundError:
            pass
        with store.open(shard.key) as stream:
            stream.seek(number * PIECE)
            body = stream.read(size)
        beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
        beside.write_bytes(body)
        beside.replace(path)
        self._added += len(body)
        if self._added > self.limit * (1 - TRIMMED_TO):
            self._trim()
        return body

    def drop(self, shard: ShardRecord) -> None:
        """Remove what is cached of a shard."""
        for number in range(-(-shard.bytes // PIECE)):
            self._path(shard, number).unlink(missing_ok=True)

    def _path(self, shard: ShardRecord, number: int) -> Path:
        return self.folder / f"{shard.sha256[:32]}-{number}"

    def _trim(self) -> None:
        self._added = 0
        pieces = []
        for path in self.folder.iterdir():
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            pieces.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in pieces)
        if total <= self.limit:
            return
        for _, size, path in sorted(pieces):
            path.unlink(missing_ok=True)
            total -= size
            if total <= self.limit * TRIMMED_TO:
                return


class _Cached(io.RawIOBase):
    """One shard, read by pieces."""

    def __init__(self, cache: ShardCache, store: ObjectStore, shard: ShardRecord) -> None:
        super().__init__()
        self._cache, self._store, self._shard = cache, store, shard
        self._at = 0
        self._last: tuple[int, bytes] = (-1, b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._shard.bytes}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        if self._at >= self._shard.bytes:
            return 0
        number, inside = divmod(self._at, PIECE)
        if self._last[0] != number:
            self._last = (number, self._cache.piece(self._store, self._shard, number))
        part = self._last[1][inside : inside + len(view)]
        view[: len(part)] = part
        self._at += len(part)
        return len(part)
