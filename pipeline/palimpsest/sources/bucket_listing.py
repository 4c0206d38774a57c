"""Objects that a URI of a bucket names, under the rules of names.py."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from typing import Protocol

from palimpsest.config import SourceConfig
from palimpsest.sources.formats import format_of
from palimpsest.sources.names import (
    CORPUS,
    CORPUS_PARTS,
    MARKER_BYTES,
    MARKERS,
    SIDECAR,
    UNSUPPORTED,
    PassedOver,
    is_marker,
    rule_of,
)
from palimpsest.sources.objects import MAGIC, Listed, SourceObject, glob_pattern


class Bucket(Protocol):
    """A storage that lists by prefix. URIs are `scheme://root/key`; nothing in a key is decoded."""

    def entries(self, prefix: str) -> Iterator[Listed]:
        """The objects whose URI begins with `prefix`, in the service's order, a page in memory at a time."""
        ...

    def head(self, uri: str, length: int) -> bytes:
        """The first bytes of an object; b"" where there is none, or where these credentials may not read it."""
        ...


def found(bucket: Bucket, uri: str, config: SourceConfig, out: str, passed: PassedOver) -> Iterator[tuple[str, Listed]]:
    """(rule, object) for the sources and sidecars that a URI names.

    The listing goes to a temporary file first: the marker of a corpus comes after some of the objects in it.
    """
    scheme, _, rest = uri.partition("://")
    root, _, key = rest.partition("/")
    base = f"{scheme}://{root}/"
    for listed in bucket.entries(uri) if key else ():  # an object of this very name is listed before all longer ones
        if listed.item.uri == uri and not key.endswith("/"):
            yield from _one(bucket, listed, config, out, passed)
            return
        break
    magic = MAGIC.search(key)
    folder = "" if magic or not key else key.rstrip("/") + "/"
    prefix = base + (key[: magic.start()] if magic else folder)
    requested = glob_pattern(key) if magic else None
    with _Spool() as spool:
        corpora = {*_corpora_above(bucket, prefix), out.rstrip("/") + "/"}
        for listed in bucket.entries(prefix):
            place, _, name = listed.item.uri.rpartition("/")
            if name in MARKERS and is_marker(bucket.head(listed.item.uri, MARKER_BYTES)):
                corpora.add(place + "/")
            if name and (requested is None or requested.fullmatch(listed.item.uri[len(base) :])):  # "x/" stands for a folder
                spool.add(listed)
        reported: set[str] = set()
        for listed in spool:
            if corpus := _corpus_of(listed.item.uri, corpora):
                if corpus not in reported:
                    passed.add(CORPUS, corpus)
                reported.add(corpus)
            elif (rule := rule_of(listed.item.uri[len(base + folder) :], key if magic else "", config)) in ("", SIDECAR):
                yield rule, listed
            else:
                passed.add(rule, listed.item.uri)


def _one(bucket: Bucket, listed: Listed, config: SourceConfig, out: str, passed: PassedOver) -> Iterator[tuple[str, Listed]]:
    uri = listed.item.uri
    if corpus := _corpus_of(uri, {*_corpora_above(bucket, uri), out.rstrip("/") + "/"}):
        passed.add(CORPUS, corpus)
    elif format_of(uri, config) is None:
        passed.add(UNSUPPORTED, uri)
    else:
        yield "", listed


def _corpora_above(bucket: Bucket, prefix: str) -> Iterator[str]:
    """The corpora that hold a prefix. A marker is asked for where the next step is one that corpora have."""
    steps = prefix.split("/")
    for place in range(3, len(steps)):
        root = "/".join(steps[:place]) + "/"
        if steps[place] in CORPUS_PARTS and any(is_marker(bucket.head(root + name, MARKER_BYTES)) for name in MARKERS):
            yield root


def _corpus_of(uri: str, corpora: set[str]) -> str:
    """The outermost of `corpora` that holds an object; "" for none."""
    steps = uri.split("/")
    above = ("/".join(steps[:place]) + "/" for place in range(3, len(steps)))
    return next((root for root in above if root in corpora), "")


class _Spool:
    """Listed objects in a temporary file."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile("w+", encoding="ascii")  # noqa: SIM115

    def __enter__(self) -> _Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, listed: Listed) -> None:
        self._file.write(to_line(listed) + "\n")

    def __iter__(self) -> Iterator[Listed]:
        self._file.seek(0)
        return map(from_line, self._file)


def to_line(listed: Listed) -> str:
    """One line of ASCII, which `from_line` reads back."""
    return json.dumps([listed.name, asdict(listed.item), listed.status, listed.modified])


def from_line(line: str) -> Listed:
    name, item, status, modified = json.loads(line)
    return Listed(name=name, item=SourceObject(**item), status=status, modified=modified)
