"""Removal of objects that were not needed for a given time.

An object is needed if the newest snapshot lists it, if an older one lists it that was replaced less than `unused_for` ago, or if
it belongs to a committed unit that was in no snapshot yet. All else is removed after `unused_for`: expired snapshots with the
units that only they have, data of tries that were never committed, and unfinished writes. `unused_for` must be longer than any
unit takes from its first shard to its commit. gc must not overlap a run that restores a superseded version of a source.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from palimpsest.corpus.codebooks import PREFIX as CODEBOOKS
from palimpsest.corpus.codebooks import needed_codebooks
from palimpsest.corpus.format import open_corpus
from palimpsest.corpus.fsck import DATA_PREFIXES
from palimpsest.corpus.running import PREFIX as RUNNING
from palimpsest.corpus.shards import ShardRecord
from palimpsest.corpus.snapshots import PREFIX as SNAPSHOTS
from palimpsest.corpus.snapshots import all_units, read_snapshot, snapshot_key, snapshot_numbers, units_of
from palimpsest.corpus.units import CommitRecord, committed_units, read_unit, unit_key
from palimpsest.storage.object_store import ObjectInfo, ObjectStore

UNUSED_FOR = timedelta(days=7)


@dataclass(frozen=True)
class Removal:
    """One object that is not needed; `size` is in bytes for data, and 0 for a record."""

    key: str
    size: int
    why: str
    unfinished: bool = False


def gc(
    store: ObjectStore, *, unused_for: timedelta = UNUSED_FOR, now: datetime | None = None, delete: bool = False
) -> list[Removal]:
    """The objects that are not needed, in the order of removal; with `delete`, they are deleted.

    The list is complete before the first deletion. If a gc is interrupted, the next one finishes it.

    Raises:
        NotACorpus: this is no corpus.
        StoreError: a snapshot or commit record is damaged, so the objects that it needs are unknown; nothing was deleted.
    """
    open_corpus(store)
    before = (now or datetime.now(UTC)) - unused_for
    removals = list(_expired(store, before))
    removals += _orphans(store, before, {removal.key for removal in removals})
    if delete:
        for removal in removals:
            (store.discard if removal.unfinished else store.delete)(removal.key)
    return removals


def _expired(store: ObjectStore, before: datetime) -> Iterator[Removal]:
    """Snapshots replaced before `before`, oldest first, each after the units that no later one has: the chain never has a gap."""
    published = {info.key: info.modified for info in store.list(SNAPSHOTS)}
    numbers = snapshot_numbers(store)
    expired = [
        number for number, successor in zip(numbers, numbers[1:], strict=False) if published[snapshot_key(successor)] < before
    ]
    seen: set[str] = set()
    only: dict[int, list[tuple[CommitRecord, list[ShardRecord]]]] = {number: [] for number in expired}  # by the last one
    for number, unit in units_of(store, reversed(numbers) if expired else ()):
        if unit.unit_id not in seen:
            seen.add(unit.unit_id)
            data = [shard for shard in unit.objects if shard.key not in seen]  # a re-tiered unit shares shards with the old one
            seen.update(shard.key for shard in data)
            if number in only:
                only[number].append((unit, data))
    waiting = {
        shard.key
        for unit_id in (committed_units(store) if expired else ())
        if unit_id not in seen
        for shard in read_unit(store, unit_id).objects
    }
    needed = {key for number in numbers if number not in only for key in read_snapshot(store, number).keys}
    for number in expired:
        for unit, data in only[number]:
            why = f"unit {unit.unit_id} is only in snapshots up to {number}"
            yield Removal(unit_key(unit.unit_id), 0, why)
            yield from (Removal(shard.key, shard.bytes, why) for shard in data if shard.key not in waiting)
        sizes = {segment.key: segment.bytes for segment in read_snapshot(store, number).pieces if segment.key not in needed}
        yield Removal(snapshot_key(number), 0, f"replaced before {before:%Y-%m-%d %H:%M} UTC")
        # after the snapshot: while it exists, the gc that follows an interrupted one must be able to read it
        yield from (Removal(key, size, f"only in snapshots up to {number}") for key, size in sizes.items())
        needed.update(sizes)


def _orphans(store: ObjectStore, before: datetime, expired: set[str]) -> Iterator[Removal]:
    """Data of no unit, codebooks that no unit needs which stays, and unfinished writes, all last touched before `before`."""
    known = {shard.key for unit in all_units(store) for shard in unit.objects}
    known.update(key for number in snapshot_numbers(store) for key in read_snapshot(store, number).keys)
    known |= needed_codebooks(store, (unit for unit in all_units(store) if unit_key(unit.unit_id) not in expired))
    for prefix in DATA_PREFIXES:
        for info in store.list(prefix) if prefix != CODEBOOKS else _purposes_first(store):
            if info.key not in known and info.modified < before:
                yield Removal(info.key, info.size, "in no commit record")
    for info in store.list(RUNNING):
        if info.modified < before:
            yield Removal(info.key, 0, "of a run that was killed")
    for info in store.unfinished():
        if info.modified < before:
            yield Removal(info.key, info.size, "unfinished write", unfinished=True)


def _purposes_first(store: ObjectStore) -> list[ObjectInfo]:
    """The objects of codebooks: what names one goes before it, so that no run finds the name of one that is gone."""
    return sorted(store.list(CODEBOOKS), key=lambda info: (not info.key.endswith(".json"), info.key))
