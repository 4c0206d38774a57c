"""URIs to objects: a file, a folder or a glob, on a local disk or in a bucket."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from urllib.parse import unquote, urlsplit

from palimpsest.config import SourceConfig
from palimpsest.sources.formats import format_of, supported_names
from palimpsest.sources.objects import MAGIC, SourceObject, is_hidden, local_object
from palimpsest.sources.s3_listing import list_s3
from palimpsest.storage.s3_client import redacted

_PLACES = "a path, file:///path or s3://bucket/key, each a file, a folder or a glob"


def expand(uris: Iterable[str], config: SourceConfig) -> list[SourceObject]:
    """The objects that the URIs name, each once: in the order of the URIs, sorted by name within one; folders with all below.

    A URI must name at least one object of a supported format. What else it names is listed too, and its unit yields one rejected
    record with the reason UNSUPPORTED. Hidden names (`is_hidden`) are passed over.

    Raises:
        ValueError: a URI that names nothing, nothing supported, or is of an unknown kind; the message says what is supported.
    """
    found: dict[str, SourceObject] = {}
    for uri in uris:
        objects = _list(uri)
        if not objects:
            raise ValueError(f"source {uri!r} names no file; give {_PLACES}")
        if all(format_of(item, config) is None for item in objects):
            names = ", ".join(item.uri for item in objects[:3])
            raise ValueError(f"source {uri!r}: no supported format in {names}; supported are {supported_names()}, or set format")
        for item in objects:
            found.setdefault(item.key, item)
    return list(found.values())


def _list(uri: str) -> list[SourceObject]:
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", uri)
    if scheme is None:
        return [local_object(path) for path in _local_paths(uri, uri)]
    if scheme[1].lower() == "file":
        parts = urlsplit(uri.replace("?", "%3F").replace("#", "%23"))
        if parts.netloc not in ("", "localhost"):
            said = redacted(uri)
            raise ValueError(f"source {said!r} names the host {parts.hostname!r}; a file URI has three slashes: file:///path")
        return [local_object(path) for path in _local_paths(unquote(parts.path), uri)]
    if scheme[1].lower() == "s3":
        return list_s3("s3://" + uri[scheme.end() :])
    raise ValueError(f"source {redacted(uri)!r} has the unknown scheme {scheme[1]!r}; give {_PLACES}")


def _local_paths(path: str, uri: str) -> list[str]:
    if os.path.isdir(path):
        return sorted(walk(os.path.normpath(path), uri))
    if os.path.lexists(path):
        return [os.path.normpath(path)]
    if MAGIC.search(path):
        matches = {os.path.normpath(match) for match in glob.glob(path, recursive=True)}
        return sorted(match for match in matches if not is_hidden(match, path) and not os.path.isdir(match))
    raise ValueError(f"source {uri!r} does not exist; give {_PLACES}")


def walk(folder: str, uri: str) -> Iterator[str]:
    """The files below a folder, hidden ones left out, in no promised order. Raises ValueError where a folder cannot be listed."""

    def refuse(error: OSError) -> None:
        raise ValueError(f"source {uri!r}: the folder {error.filename!r} cannot be listed: {error.strerror}") from error

    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        identity = os.path.realpath(place)
        if identity in seen:  # a link back up
            folders.clear()
            continue
        seen.add(identity)
        folders[:] = sorted(name for name in folders if not is_hidden(name, ""))
        yield from (os.path.join(place, name) for name in names if not is_hidden(name, ""))
