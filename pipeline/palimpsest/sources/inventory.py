"""All objects below some URIs, sorted by URI, on disk: what an incremental pass compares with what is published.

A listing of any size goes through in bounded memory: it is sorted in runs that lie in a temporary file. A local file is known by
its status (size, times, inode) until somebody asks for its version; `versions` reads only the files whose status is new.
"""

from __future__ import annotations

import glob
import hashlib
import heapq
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from palimpsest.sources.listing import walk
from palimpsest.sources.objects import MAGIC, UNREAD, SourceObject, is_hidden, local_object
from palimpsest.sources.s3_listing import glob_pattern, stream_s3
from palimpsest.storage.s3_client import redacted

RUN_OBJECTS = 50_000  # sorted in memory at a time
SETTLED_SECONDS = 2.0  # a file that was changed less than this before it was read may change again under the same status
_GLOB = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One object of an inventory.

    Attributes:
        name: its URI as rows and records have it; the inventory is sorted by it.
        item: the object; its version is "" where it was not asked for yet.
        status: of a local file, what says that it is unchanged; "" in a bucket, whose listing tells the version.
        modified: when it was last changed, Unix time.
    """

    name: str
    item: SourceObject
    status: str
    modified: float


class Inventory:
    """A sorted listing in a temporary file; use it as a context manager and go through it as often as needed, once at a time.

    Attributes:
        count, bytes: its objects, and their sizes added up.
        newest: when the last of them was changed, Unix time.
        digest: the same for the same names, sizes, versions or statuses, and times.

    Raises:
        ValueError: a URI of an unknown kind, a folder that cannot be listed, or a path that does not exist.
        S3Error: the service refuses.
    """

    def __init__(self, uris: Iterable[str]) -> None:
        self.count = self.bytes = 0
        self.newest = 0.0
        digest = hashlib.sha256()
        self._file: IO[str] = tempfile.TemporaryFile("w+", encoding="ascii")  # noqa: SIM115
        previous = ""
        for name, line in sorted_lines((listed.name, to_line(listed)) for uri in uris for listed in _list(uri)):
            if name == previous:  # two of the URIs name it
                continue
            previous = name
            self._file.write(line + "\n")
            digest.update(line.encode("ascii") + b"\n")
            listed = from_line(line)
            self.count += 1
            self.bytes += listed.item.size
            self.newest = max(self.newest, listed.modified)
        self.digest = digest.hexdigest()

    def __enter__(self) -> Inventory:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Listed]:
        self._file.flush()
        with open(os.dup(self._file.fileno()), encoding="ascii") as stream:  # of one pass at a time
            stream.seek(0)
            for line in stream:
                yield from_line(line)


def versions(inventory: Iterable[Listed], known: Iterable[tuple[str, str, str]]) -> Iterator[tuple[Listed, bool]]:
    """The objects with their versions, and whether the version is worth remembering.

    Args:
        known: (name, status, version) of an earlier pass, sorted by name.

    A file of a known status is not read. One that was changed just now is read again next time: a second change could hide behind
    the same times.
    """
    import time

    remembered = iter(known)
    row = next(remembered, None)
    for listed in inventory:
        while row is not None and row[0] < listed.name:
            row = next(remembered, None)
        if not listed.status:
            yield listed, False
        elif row is not None and row[:2] == (listed.name, listed.status):
            yield _with_version(listed, listed.item.size, row[2]), True
        else:
            settled = time.time() - listed.modified > SETTLED_SECONDS
            item = local_object(listed.item.uri)
            yield _with_version(listed, item.size, item.version), settled and item.version != UNREAD


def covers(uri: str, name: str) -> bool:
    """Whether a listing of `uri` would show an object called `name`, were it there."""
    scheme = _GLOB.match(uri)
    if scheme and scheme[1].lower() == "file":
        uri = unquote(urlsplit(uri.replace("?", "%3F").replace("#", "%23")).path)
    elif scheme:
        uri = scheme[1].lower() + uri[len(scheme[1]) :]
    plain = uri if scheme and scheme[1].lower() != "file" else os.path.normpath(uri)
    if name == plain or name.startswith(plain.rstrip("/") + "/"):
        return not is_hidden(name[len(plain) :], "")
    if plain in (".", "./"):
        return not name.startswith("/") and "://" not in name
    return bool(MAGIC.search(plain)) and glob_pattern(plain).fullmatch(name) is not None and not is_hidden(name, plain)


def sorted_lines(rows: Iterable[tuple[str, str]], run: int = RUN_OBJECTS) -> Iterator[tuple[str, str]]:
    """(key, line) pairs by key, in memory for `run` of them; lines hold no line feed."""
    rows = iter(rows)
    files: list[Any] = []
    try:
        while part := sorted(islice(rows, run)):
            if not files and len(part) < run:
                yield from part
                return
            file = tempfile.TemporaryFile("w+", encoding="ascii")  # noqa: SIM115
            file.writelines(f"{json.dumps(key)}\t{line}\n" for key, line in part)
            file.seek(0)
            files.append(file)
        yield from heapq.merge(*(_run(file) for file in files))
    finally:
        for file in files:
            file.close()


def _run(file: IO[str]) -> Iterator[tuple[str, str]]:
    for row in file:
        key, _, line = row.rstrip("\n").partition("\t")
        yield json.loads(key), line


def _list(uri: str) -> Iterator[Listed]:
    scheme = _GLOB.match(uri)
    if scheme and scheme[1].lower() == "s3":
        for item, modified in stream_s3("s3://" + uri[scheme.end() :]):
            yield Listed(name=_name(item.uri), item=item, status="", modified=modified)
        return
    if scheme and scheme[1].lower() != "file":
        raise ValueError(
            f"source {redacted(uri)!r} has the unknown scheme {scheme[1]!r}; give a path, file:///path or s3://bucket/key"
        )
    path = unquote(urlsplit(uri.replace("?", "%3F").replace("#", "%23")).path) if scheme else uri
    for found in _local_paths(path, uri):
        yield _local(found)


def _local_paths(path: str, uri: str) -> Iterator[str]:
    if os.path.isdir(path):
        yield from walk(os.path.normpath(path), uri)
    elif os.path.lexists(path):
        yield os.path.normpath(path)
    elif MAGIC.search(path):
        for match in glob.iglob(path, recursive=True):
            if not is_hidden(match, path) and not os.path.isdir(match):
                yield os.path.normpath(match)
    else:
        raise ValueError(
            f"source {uri!r} does not exist; give a path, file:///path or s3://bucket/key, each a file, a folder or a glob"
        )


def _local(path: str) -> Listed:
    try:
        status = os.stat(path)
        size, modified = status.st_size, status.st_mtime
        said = f"{size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_dev} {status.st_ino}"
    except OSError:
        size, modified, said = 0, 0.0, "unread"
    return Listed(
        name=_name(path),
        item=SourceObject(uri=path, key=os.path.abspath(path), size=size, version=""),
        status=said,
        modified=modified,
    )


def _name(uri: str) -> str:
    return uri.encode("utf-8", "backslashreplace").decode()


def _with_version(listed: Listed, size: int, version: str) -> Listed:
    item = SourceObject(uri=listed.item.uri, key=listed.item.key, size=size, version=version)
    return Listed(name=listed.name, item=item, status=listed.status, modified=listed.modified)


def to_line(listed: Listed) -> str:
    """One line of ASCII, which `from_line` reads back."""
    return json.dumps([listed.name, asdict(listed.item), listed.status, listed.modified])


def from_line(line: str) -> Listed:
    name, item, status, modified = json.loads(line)
    return Listed(name=name, item=SourceObject(**item), status=status, modified=modified)
