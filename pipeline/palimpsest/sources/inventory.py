"""All objects below some URIs, sorted by URI, on disk: what an incremental pass compares with what is published.

A listing of any size goes through in bounded memory: it is sorted in runs that lie in a temporary file. A local file is known by
its status (size, times, inode) until somebody asks for its version; `versions` reads only the files whose status is new.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from palimpsest.config import SourceConfig
from palimpsest.sources.bucket_listing import from_line, to_line
from palimpsest.sources.listing import find
from palimpsest.sources.names import PassedOver, is_hidden
from palimpsest.sources.objects import MAGIC, UNREAD, Listed, SourceObject, glob_pattern, local_object
from palimpsest.sources.remote_objects import canonical, scheme_of

RUN_OBJECTS = 50_000  # sorted in memory at a time
SETTLED_SECONDS = 2.0  # a file that was changed less than this before it was read may change again under the same status
_GLOB = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class Inventory:
    """A sorted listing in a temporary file; use it as a context manager and go through it as often as needed, once at a time.

    Attributes:
        count, bytes: its objects, and their sizes added up.
        newest: when the last of them was changed, Unix time.
        digest: the same for the same names, sizes, versions or statuses, and times.
        passed_over: what the listing passed over.

    Args:
        out: the output of the job, which is never a source.

    Raises:
        ValueError: a URI of an unknown kind, a folder that cannot be listed, or a path that does not exist.
        S3Error: the service refuses.
    """

    def __init__(self, uris: Iterable[str], config: SourceConfig | None = None, out: str = "") -> None:
        config = config or SourceConfig()
        self.passed_over = PassedOver()
        self.count = self.bytes = 0
        self.newest = 0.0
        digest = hashlib.sha256()
        self._file: IO[str] = tempfile.TemporaryFile("w+", encoding="ascii")  # noqa: SIM115
        previous = ""
        found = (listed for uri in uris for listed in find(uri, config, out, self.passed_over))
        for name, line in sorted_lines((listed.name, to_line(listed)) for listed in found):
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
    elif scheme_of(uri):
        uri = canonical(uri)
    elif scheme:
        uri = scheme[1].lower() + uri[len(scheme[1]) :]
    plain = uri if scheme and scheme[1].lower() != "file" else os.path.normpath(uri)
    if name == plain or name.startswith(plain.rstrip("/") + "/"):
        return not is_hidden(name[len(plain) :])
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


def _with_version(listed: Listed, size: int, version: str) -> Listed:
    item = SourceObject(uri=listed.item.uri, key=listed.item.key, size=size, version=version)
    return Listed(name=listed.name, item=item, status=listed.status, modified=listed.modified)
