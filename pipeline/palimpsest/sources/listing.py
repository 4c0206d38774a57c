"""URIs to objects: one object, all below a folder or prefix, or what a glob matches; on a local disk or in a bucket.

A folder that a glob matches is walked like one that is named. `names.py` has the rules for what is passed over.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from palimpsest.config import SourceConfig
from palimpsest.errors import UsageError
from palimpsest.sources import bucket_listing, remote_objects, s3_objects
from palimpsest.sources.formats import format_of, supported_names
from palimpsest.sources.names import (
    CORPUS,
    HIDDEN,
    LINK,
    MARKER_BYTES,
    MARKERS,
    SIDECAR,
    UNSUPPORTED,
    PassedOver,
    is_data,
    is_hidden,
    is_marker,
    rule_of,
    rule_of_rest,
)
from palimpsest.sources.objects import MAGIC, Listed, SourceObject, local_object, record_name
from palimpsest.storage.s3_client import redacted

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PLACES = (
    f"a path, file:///path or s3://bucket/key, each a file, a folder or a glob; or {'://, '.join(remote_objects.SCHEMES)}:// "
    f"(docs/sources.md)"
)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The objects that URIs name, and what was passed over on the way."""

    objects: list[SourceObject] = field(default_factory=list)
    passed_over: PassedOver = field(default_factory=PassedOver)


def expand(uris: Iterable[str], config: SourceConfig, out: str = "") -> list[SourceObject]:
    """The objects of `list_sources`."""
    return list_sources(uris, config, out).objects


def list_sources(uris: Iterable[str], config: SourceConfig, out: str = "") -> Listing:
    """The objects that the URIs name, each once: in the order of the URIs, sorted by name within one.

    Args:
        out: the output of the job, which is never a source.

    Raises:
        UsageError: a URI that names nothing, nothing that can be read, or is of an unknown kind.
    """
    listing = Listing()
    found: dict[str, SourceObject] = {}
    for uri in uris:
        passed = PassedOver()
        objects = sorted(find(uri, config, out, passed), key=lambda listed: listed.item.key)
        if not objects:
            raise UsageError(f"source {redacted(uri)!r} {nothing_to_read(passed)}")
        for listed in objects:
            if listed.item.key not in found:
                found[listed.item.key] = local_object(listed.item.uri) if listed.status else listed.item
        listing.passed_over.add_all(passed)
    listing.objects.extend(found.values())
    return listing


def nothing_to_read(passed: PassedOver) -> str:
    """What to say of a URI that names no source, after the URI."""
    if passed.of(CORPUS):
        example = next(uri for (rule, _), uri in passed.examples.items() if rule == CORPUS)
        return f"holds a corpus at {example}: a corpus or the output is never a source"
    if passed.of(UNSUPPORTED):
        examples = ", ".join(uri for (rule, _), uri in passed.examples.items() if rule == UNSUPPORTED)
        return f"has no supported format in {examples}; supported are {supported_names()}, or set source.format"
    return f"names no file to read; {passed}" if len(passed) else f"names no file; give {_PLACES}"


def find(uri: str, config: SourceConfig, out: str, passed: PassedOver) -> Iterator[Listed]:
    """The sources that a URI names, streamed, in no promised order and possibly more than once; local ones without a version.

    Memory: of sidecars and of the folders with data, the names.

    Args:
        passed: counts what is passed over.

    Raises:
        UsageError: as `list_sources`, except that an empty folder is no error.
        S3Error: the service refuses.
    """
    scheme = _SCHEME.match(uri)
    kind = scheme[1].lower() if scheme else "file"
    if kind == "file":
        yield from _beside(_local(_local_path(uri, scheme is not None), uri, config, out, passed), config, passed)
    elif scheme and kind == "s3":
        yield from _beside(bucket_listing.found(s3_objects, f"s3://{uri[scheme.end() :]}", config, out, passed), config, passed)
    elif remote_objects.scheme_of(uri):
        place, uri = remote_objects.REMOTE, remote_objects.canonical(uri)
        yield from _beside(bucket_listing.found(place, uri, config, out, passed), config, passed)
    else:
        raise UsageError(f"source {redacted(uri)!r} has the unknown scheme {kind!r}; give {_PLACES}")


def _beside(found: Iterable[tuple[str, Listed]], config: SourceConfig, passed: PassedOver) -> Iterator[Listed]:
    """The sources among (rule, object): a sidecar is one where no data lies in its folder or below."""
    sidecars: list[Listed] = []
    folders: set[str] = set()
    for rule, listed in found:
        if rule == SIDECAR:
            sidecars.append(listed)
            continue
        if is_data(listed.item.key):
            folders.add(listed.item.key.rpartition("/")[0])
        yield listed
    above: set[str] = set()
    for folder in folders if sidecars else ():
        while folder and folder not in above:
            above.add(folder)
            folder = folder.rpartition("/")[0]
    for listed in sidecars:
        folder = listed.item.key.rpartition("/")[0]
        if rule := SIDECAR if folder in above else rule_of_rest(listed.item.uri, config):
            passed.add(rule, listed.item.uri)
        else:
            yield listed


def _local_path(uri: str, is_uri: bool) -> str:
    if not is_uri:
        return uri
    parts = urlsplit(uri.replace("?", "%3F").replace("#", "%23"))
    if parts.netloc not in ("", "localhost"):
        said = redacted(uri)
        raise UsageError(f"source {said!r} names the host {parts.hostname!r}; a file URI has three slashes: file:///path")
    return unquote(parts.path)


def _local(path: str, uri: str, config: SourceConfig, out: str, passed: PassedOver) -> Iterator[tuple[str, Listed]]:
    is_uri = _SCHEME.match(out) is not None
    output = os.path.realpath(_local_path(out, is_uri)) if out and (not is_uri or out.startswith("file:")) else ""
    walker = _Walker(uri, config, output, passed)
    if os.path.isdir(path):
        yield from walker.walk(os.path.normpath(path))
    elif os.path.lexists(path):
        if walker.in_corpus(path):
            passed.add(CORPUS, path)
        elif not format_of(path, config):
            passed.add(UNSUPPORTED, path)
        else:
            yield "", _local_listed(os.path.normpath(path))
    elif MAGIC.search(path):
        yield from walker.glob(path)
    else:
        raise UsageError(f"source {uri!r} does not exist; give {_PLACES}")


class _Walker:
    """Walks folders of a local disk under the rules."""

    def __init__(self, uri: str, config: SourceConfig, output: str, passed: PassedOver) -> None:
        self.uri, self.config, self.output, self.passed = uri, config, output, passed
        self.follow = config.follow_symlinks
        self._seen: set[str] = set()

    def walk(self, folder: str, asked: str = "") -> Iterator[tuple[str, Listed]]:
        """(rule, object) for the sources and sidecars below a folder.

        Args:
            asked: the glob that matched the folder.

        Raises:
            UsageError: a folder cannot be listed.
        """
        if self.in_corpus(folder):
            self.passed.add(CORPUS, folder)
            return
        skip = "" if asked else folder
        for place, folders, names in os.walk(folder, followlinks=self.follow, onerror=self._refuse):
            if self._is_output(place, names):
                self.passed.add(CORPUS, place)
                folders.clear()
                continue
            if self.follow and not self._is_new(place):
                folders.clear()
                continue
            folders[:] = [name for name in sorted(folders) if self._enters(os.path.join(place, name), skip, asked)]
            for name in names:
                yield from self._file(os.path.join(place, name), skip, asked)

    def glob(self, pattern: str) -> Iterator[tuple[str, Listed]]:
        """(rule, object) for what a glob matches; folders are walked."""
        walked: set[str] = set()
        matches = glob.iglob(pattern, recursive=True)
        for match in sorted(matches) if self.follow else matches:  # of two names for a folder, always the same one is walked
            path = os.path.normpath(match)
            if walked and any(above in walked for above in _ancestors(path)):
                continue
            if os.path.isdir(path):
                if self._enters(path, "", pattern):
                    walked.add(path)
                    yield from self.walk(path, pattern)
            elif self.in_corpus(path):
                self.passed.add(CORPUS, path)
            else:
                yield from self._file(path, "", pattern)

    def in_corpus(self, path: str) -> bool:
        """Whether a path is the output or a corpus, or lies in one."""
        real = os.path.realpath(path)
        if self.output and (real == self.output or real.startswith(self.output + os.sep)):
            return True
        return any(_holds_corpus(above) for above in (real, *_ancestors(real)))

    def _enters(self, path: str, skip: str, asked: str) -> bool:
        below = path[len(skip) :]
        if is_hidden(below + "/x", asked):
            self.passed.add(HIDDEN, path)
            return False
        if not self.follow and os.path.islink(path):
            self.passed.add(LINK, path)
            return False
        return True

    def _file(self, path: str, skip: str, asked: str) -> Iterator[tuple[str, Listed]]:
        rule = rule_of(path[len(skip) :], asked, self.config)
        if rule != HIDDEN and not self.follow and os.path.islink(path):
            rule = LINK
        if rule in ("", SIDECAR):
            yield rule, _local_listed(path)
        else:
            self.passed.add(rule, path)

    def _is_output(self, place: str, names: list[str]) -> bool:
        if self.output and os.path.realpath(place) == self.output:
            return True
        return any(marker in names for marker in MARKERS) and _holds_corpus(place)

    def _is_new(self, place: str) -> bool:
        """Whether a folder was not walked yet under another name: links end in a loop otherwise."""
        identity = os.path.realpath(place)
        known = identity in self._seen
        self._seen.add(identity)
        return not known

    def _refuse(self, error: OSError) -> None:
        said = f"the folder {error.filename!r} cannot be listed: {error.strerror}"
        raise UsageError(f"source {self.uri!r}: {said}") from error


def _ancestors(path: str) -> Iterator[str]:
    while (above := os.path.dirname(path)) != path and above:
        yield above
        path = above


def _holds_corpus(folder: str) -> bool:
    for marker in MARKERS:
        try:
            with open(os.path.join(folder, marker), "rb") as file:
                if is_marker(file.read(MARKER_BYTES)):
                    return True
        except OSError:
            continue
    return False


def _local_listed(path: str) -> Listed:
    try:
        status = os.stat(path)
        size, modified = status.st_size, status.st_mtime
        said = f"{size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_dev} {status.st_ino}"
    except OSError:
        size, modified, said = 0, 0.0, "unread"
    item = SourceObject(uri=path, key=os.path.abspath(path), size=size, version="")
    return Listed(name=record_name(path), item=item, status=said, modified=modified)
