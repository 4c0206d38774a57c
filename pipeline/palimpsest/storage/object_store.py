"""The seam between the corpus and the storage of its bytes.

The whole corpus relies on one promise: `create` lets exactly one of several racing writers win. `probe` tests it with a race
before the first write, because some storage answers "created" to all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from palimpsest.errors import PalimpsestError

Body = bytes | memoryview | Path


class StoreError(PalimpsestError):
    """The storage cannot carry out the request; the message names the location and the cause."""


class NoSuchObject(StoreError):
    """There is no object with this key."""


class BadKey(StoreError, ValueError):
    """A name that could lead out of the store, or that two stores could read differently."""

    exit_code = 2


class Unavailable(StoreError):
    """The storage does not answer, or refuses every request; the state of the object is unknown."""


class NotExclusive(StoreError):
    """The storage lets two writers create the same object, so nothing can be published on it safely."""


@dataclass(frozen=True)
class ObjectInfo:
    """One object of a listing: its key, its size in bytes (0 for an unfinished upload), and when it was last written (UTC)."""

    key: str
    size: int
    modified: datetime


class ObjectStore(Protocol):
    """Named immutable bytes below one root. Keys are relative, `/`-separated and checked by `check_key`.

    All methods raise StoreError, naming the object and the cause, when the storage fails.
    """

    def create(self, key: str, body: Body) -> bool:
        """Write `body` only if `key` is absent. True: this call created the object. False: another object exists, unchanged."""
        ...

    def put(self, key: str, body: Body) -> None:
        """Write `body`, whole or not at all, over any existing object. For keys that nobody else writes."""
        ...

    def read(self, key: str) -> bytes:
        """The whole object. Raises NoSuchObject."""
        ...

    def open(self, key: str) -> BinaryIO:
        """The object as a seekable stream. Raises NoSuchObject."""
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object whose key starts with `prefix`, streamed, in no promised order. Unfinished writes are not objects."""
        ...

    def exists(self, key: str) -> bool: ...

    def delete(self, key: str) -> None:
        """Remove the object; an absent one is no error."""
        ...

    def uri(self, key: str) -> str:
        """The address that other Parquet readers open: a path, or s3://bucket/key with nothing escaped."""
        ...

    def unfinished(self) -> Iterator[ObjectInfo]:
        """Writes that began and never ended: temporary files, or multipart uploads on an object storage."""
        ...

    def discard(self, key: str) -> None:
        """Remove one of `unfinished()`, by its key there."""
        ...


def check_key(key: str) -> str:
    """Return `key`; raise BadKey unless it names something strictly inside the root.

    Empty parts, `.`-names (so also `..`), backslashes and control characters are refused: no file system and no bucket may read
    them in two ways.
    """
    if not key or any(not part or part.startswith(".") for part in key.split("/")):
        raise BadKey(f"object key {key!r} must be relative, without empty parts and without parts that start with '.'")
    if "\\" in key or not key.isprintable():
        raise BadKey(f"object key {key!r} holds a backslash or a character that does not print")
    return key


def is_key(key: str) -> bool:
    """True if `check_key` accepts the key."""
    try:
        return bool(check_key(key))
    except BadKey:
        return False
