"""The differences between an inventory and a snapshot: a merge of two sorted streams."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import IO

from palimpsest.corpus.manifest import read_columns, read_segment
from palimpsest.corpus.snapshots import Snapshot
from palimpsest.corpus.units import CommitRecord
from palimpsest.sources.bucket_listing import from_line, to_line
from palimpsest.sources.inventory import covers
from palimpsest.sources.objects import Listed
from palimpsest.storage.object_store import ObjectStore

_COLUMNS = ["source_uri", "source_version", "fingerprint"]
State = frozenset[tuple[str, str]]
"""The published state of a source: version and fingerprint of its units; empty if it is not published."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """One source of a snapshot."""

    name: str
    state: State


@dataclass(frozen=True, kw_only=True)
class Change:
    """One object of either side.

    Attributes:
        kind: "unchanged", "other_settings", "new", "rewritten", "given_up", "vanished", or "elsewhere": published, but outside
            the listed URIs.
        listed, published: the object on that side, or None.
        settled: whether the version of a local file can be remembered under its status.
    """

    kind: str
    name: str
    listed: Listed | None = None
    published: Published | None = None
    settled: bool = False


class Spill:
    """Listed objects in a temporary file, for any number of them; it allows any number of iterations, one at a time."""

    def __init__(self) -> None:
        self._file: IO[str] = tempfile.TemporaryFile("w+", encoding="ascii")  # noqa: SIM115
        self.count = self.bytes = 0

    def __len__(self) -> int:
        return self.count

    def add(self, listed: Listed, seen: State) -> None:
        """Add an object; `seen` is its published state."""
        self._file.write(json.dumps([to_line(listed), sorted(seen)]) + "\n")
        self.count += 1
        self.bytes += listed.item.size

    def __iter__(self) -> Iterator[tuple[Listed, State]]:
        self._file.seek(0)
        for line in self._file:
            text, seen = json.loads(line)
            yield from_line(text), frozenset((version, fingerprint) for version, fingerprint in seen)

    def close(self) -> None:
        self._file.close()


def published_sources(store: ObjectStore, snapshot: Snapshot | None) -> Iterator[Published]:
    """The sources of a snapshot by name; a manifest segment is in memory at a time."""
    for name, rows in groupby(_source_rows(store, snapshot), key=lambda row: row[0]):
        yield Published(name=name, state=frozenset((version, fingerprint) for _, version, fingerprint in rows))


def _source_rows(store: ObjectStore, snapshot: Snapshot | None) -> Iterator[tuple[str, str, str]]:
    if snapshot is None:
        return
    for segment in snapshot.segments:
        table = read_columns(store, segment, _COLUMNS)
        yield from zip(*(table[name].to_pylist() for name in _COLUMNS), strict=True)


def compare(
    listing: Iterable[tuple[Listed, bool]],
    published: Iterable[Published],
    *,
    uris: Sequence[str],
    fingerprint: str,
    replace_settings: bool,
    given_up: Callable[[Listed], bool],
) -> Iterator[Change]:
    """Every object of both sides, by name.

    Args:
        listing: by name, with versions, and whether they are settled.
        uris: the listed URIs; a published object that none of them covers is "elsewhere".
        replace_settings: treat objects that are published under another fingerprint as rewritten.
        given_up: returns whether this version of an object was tried often enough. It is called for published objects only: an
            unpublished one still needs its quarantine unit, because its last pass stopped before publishing that.
    """
    theirs = iter(published)
    other = next(theirs, None)
    for listed, settled in listing:
        while other is not None and other.name < listed.name:
            yield _absent(other, uris)
            other = next(theirs, None)
        before = None
        if other is not None and other.name == listed.name:
            before, other = other, next(theirs, None)
        if before and {version for version, _ in before.state} == {listed.item.version}:
            same = before.state == {(listed.item.version, fingerprint)}
            kind = "unchanged" if same else "rewritten" if replace_settings else "other_settings"
        else:
            kind = "rewritten" if before else "new"
        if kind == "rewritten" and given_up(listed):
            kind = "given_up"
        yield Change(kind=kind, name=listed.name, listed=listed, published=before, settled=settled)
    while other is not None:
        yield _absent(other, uris)
        other = next(theirs, None)


def _absent(published: Published, uris: Sequence[str]) -> Change:
    kind = "vanished" if any(covers(uri, published.name) for uri in uris) else "elsewhere"
    return Change(kind=kind, name=published.name, published=published)


def units_of_sources(store: ObjectStore, snapshot: Snapshot | None, names: Iterable[str]) -> list[CommitRecord]:
    """The published units of some sources. Only the manifest segments that may contain one are read."""
    requested = set(names)
    if snapshot is None or not requested:
        return []
    found: list[CommitRecord] = []
    for segment in snapshot.segments:
        if any(segment.first <= name <= segment.last for name in requested):
            present = set(read_columns(store, segment, ["source_uri"])["source_uri"].to_pylist())
            if not present.isdisjoint(requested):
                found += [unit for unit in read_segment(store, segment) if unit.source_uri in requested]
    return found


def dependents(store: ObjectStore, snapshot: Snapshot | None, gone: Iterable[str]) -> dict[str, set[str]]:
    """The published units that rely on one of the units `gone`: {source: the units that it relied on}.

    Only segments with units that rely on others are read.
    """
    gone = set(gone)
    found: dict[str, set[str]] = {}
    if snapshot is None or not gone:
        return found
    for name, relied_on in _reliances(store, snapshot):
        if not gone.isdisjoint(relied_on):
            found.setdefault(name, set()).update(gone.intersection(relied_on))
    return found


def _reliances(store: ObjectStore, snapshot: Snapshot) -> Iterator[tuple[str, list[str]]]:
    for segment in snapshot.segments:
        if segment.defers:
            table = read_columns(store, segment, ["source_uri", "defers_to"])
            yield from zip(table["source_uri"].to_pylist(), table["defers_to"].to_pylist(), strict=True)
