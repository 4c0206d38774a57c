"""The seam between the corpus and whatever keeps its bytes.

Everything above this file rests on one promise: `create` lets exactly one of several racing writers win. `probe` tests it with a
race before the first write, because storage exists that answers "created" to every one of them.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pipeline.s3 import redacted

Body = bytes | memoryview | Path


class StoreError(RuntimeError):
    """The storage cannot do what was asked; the message names the place and the cause."""


class NoSuchObject(StoreError):
    """There is no object with this key."""


class Unavailable(StoreError):
    """The storage could not be asked, or refuses everybody; this says nothing about the object."""


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
        """Write `body` only if `key` is absent. True: this call made the object; False: another stands there, unchanged."""
        ...

    def put(self, key: str, body: Body) -> None:
        """Write `body`, whole or not at all, whatever stood there. For keys that nobody else writes."""
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
        """What a Parquet reader outside this project opens: a path, or s3://bucket/key as it is, nothing escaped."""
        ...

    def unfinished(self) -> Iterator[ObjectInfo]:
        """Writes that were begun and never ended: temporary files here, multipart uploads on an object storage."""
        ...

    def discard(self, key: str) -> None:
        """Remove one of `unfinished()`, by its key there."""
        ...


SCHEMES = ("file", "s3")


def open_store(uri: str | Path) -> ObjectStore:
    """The store at a path or URI, found by its scheme. Creates nothing, and asks no service.

    Raises:
        ValueError: for a scheme that has no store, or a URI with credentials in it.
    """
    scheme, separator, _ = str(uri).partition("://")
    if not separator:
        scheme, path = "file", str(uri)
    match scheme.lower():  # a new kind of storage is one file beside local.py and one case here
        case "file":
            from pipeline.store.local import LocalStore

            if separator:
                parts = urlsplit(str(uri))
                path = url2pathname(parts.path)
            if not path or (separator and parts.netloc not in ("", "localhost")):
                said = redacted(str(uri))
                raise ValueError(f"store {said!r} names no local path; write file:///an/absolute/path or a plain path")
            return LocalStore(path)
        case "s3":
            from pipeline.store.s3 import S3Store

            return S3Store(str(uri))
        case _:
            supported = ", ".join(["a plain path", *(f"{name}://" for name in SCHEMES)])
            raise ValueError(f"store {redacted(str(uri))!r} has the scheme {scheme!r}; supported: {supported}")


def check_key(key: str) -> str:
    """Return `key`; raise ValueError unless it names something strictly inside the root.

    Empty parts, `.`-names (so also `..`), backslashes and control characters are refused: no file system and no bucket may read
    them in two ways.
    """
    if not key or any(not part or part.startswith(".") for part in key.split("/")):
        raise ValueError(f"object key {key!r} must be relative, without empty parts and without parts that start with '.'")
    if "\\" in key or not key.isprintable():
        raise ValueError(f"object key {key!r} holds a backslash or a character that does not print")
    return key


def is_key(key: str) -> bool:
    """Whether `check_key` accepts it."""
    try:
        return bool(check_key(key))
    except ValueError:
        return False


def probe(store: ObjectStore, writers: int = 8, rounds: int = 2) -> None:
    """Race `writers` threads for one key, `rounds` times, and demand one winner whose bytes stay.

    Raises:
        NotExclusive: where several writers win, none does, or a later one replaces the winner's bytes.
        StoreError: the storage cannot be reached or written; the message says why.
        ValueError: there are no credentials for it.
    """
    token = secrets.token_hex(8)
    store.exists(f"_probe/{token}")  # what is wrong with an endpoint or its credentials is said once, not by every writer
    for number in range(rounds):
        key = f"_probe/{token}-{number}"
        try:
            _race(store, key, [f"{token} {number} writer {writer}".encode() for writer in range(writers)])
        except NotExclusive:
            store.delete(key)
            raise
        store.delete(key)  # not after other errors: the storage may not answer any more, and gc removes it too


def _race(store: ObjectStore, key: str, bodies: list[bytes]) -> None:
    start = threading.Barrier(len(bodies))

    def write(body: bytes) -> bool:
        start.wait()
        return store.create(key, body)

    with ThreadPoolExecutor(len(bodies)) as pool:
        won = list(pool.map(write, bodies))
    if won.count(True) != 1:
        raise NotExclusive(
            f"{store.uri(key)}: {won.count(True)} of {len(bodies)} racing writers were told that they won, so this storage "
            f"{'ignores' if all(won) else 'does not keep'} the condition 'only if absent', and nothing can be published on it "
            f"safely; use one that keeps it"
        )
    if store.create(key, b"late"):
        raise NotExclusive(f"{store.uri(key)}: a conditional write to an object that was there was accepted")
    if store.read(key) != bodies[won.index(True)]:
        raise NotExclusive(f"{store.uri(key)}: the writer that was told that it won is not the one whose bytes stand there")
