"""The check of a corpus against every promise of its format.

An *error* is a broken promise that can hurt a reader of a snapshot or a rerun. A *warning* breaks no promise: objects that a
crash left behind, or tokens of several codecs in one corpus. Rows are streamed; the commit records of two snapshots and the keys
of all shards are in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pyarrow.compute as pc

from palimpsest.corpus.codebooks import PREFIX as CODEBOOKS
from palimpsest.corpus.codebooks import needed_codebooks
from palimpsest.corpus.document_index import PREFIX as DOCUMENTS
from palimpsest.corpus.duplicates import PageCensus
from palimpsest.corpus.format import KEY as CORPUS_KEY
from palimpsest.corpus.format import NotACorpus, open_corpus
from palimpsest.corpus.manifest import PREFIX as MANIFESTS
from palimpsest.corpus.manifest_check import check_index, check_manifest
from palimpsest.corpus.matching import present
from palimpsest.corpus.row_filter import Where, condition
from palimpsest.corpus.sample_sets import PREFIX as SAMPLES
from palimpsest.corpus.shard_check import CodecRegister, check_samples, check_shard
from palimpsest.corpus.snapshots import Snapshot, all_units, read_snapshot, snapshot_key, snapshot_numbers
from palimpsest.corpus.units import PREFIX as UNITS
from palimpsest.corpus.units import CommitRecord, NotReconciled, committed_units, read_unit, unit_key
from palimpsest.schemas import SHARD
from palimpsest.storage.object_store import ObjectInfo, ObjectStore, StoreError, Unavailable

DATA_PREFIXES = ("data/", SAMPLES, "quarantine/", "_probe/", MANIFESTS, DOCUMENTS, CODEBOOKS)


@dataclass(frozen=True, order=True)
class Finding:
    """One fault: its object and its description."""

    severity: Literal["error", "warning"]
    key: str
    what: str


def fsck(store: ObjectStore, absent: Where | None = None) -> list[Finding]:
    """All findings, errors first; an empty list means a corpus without a fault.

    Args:
        absent: a condition on the columns of the row contract. Every object with a page, a sample or a quarantined record that
            matches is an error, whether or not a snapshot refers to it.

    Raises:
        UsageError: the condition is invalid.
        Unavailable: the storage no longer answers, so the state of the corpus is unknown.
    """
    forbidden = condition(absent, SHARD)
    return sorted({*findings(store), *(_reported("--absent", _present(store, forbidden)) if forbidden is not None else ())})


def _present(store: ObjectStore, forbidden: pc.Expression) -> Iterator[Finding]:
    for key, rows in present(store, forbidden):
        yield Finding("error", key, f"{rows} rows match what must be absent")


def findings(store: ObjectStore) -> Iterator[Finding]:
    """`fsck` as a stream, for large corpora."""
    try:
        open_corpus(store)
    except NotACorpus as error:
        yield Finding("error", CORPUS_KEY, str(error))
        return
    codecs = CodecRegister()
    checked: set[str] = set()
    keys: set[str] = set()
    records: dict[str, int] = {}
    newest: Snapshot | None = None
    for item in _snapshots(store):
        if isinstance(item, Finding):
            yield item
            continue
        keys.update(item.keys)
        if newest is None:
            newest = item
            yield from (Finding("error", key, what) for key, what in check_index(store, newest))
            yield from _check_rows(store, newest, codecs)
            checked.update(unit.unit_id for unit in newest.units)
            keys.update(shard.key for unit in newest.units for shard in unit.objects)
        else:  # older versions stay readable until gc: their units must keep the same promises, and each is checked once
            for unit in item.units:
                if unit.unit_id not in checked:
                    checked.add(unit.unit_id)
                    keys.update(shard.key for shard in unit.objects)
                    yield from _check_unit(store, unit, CodecRegister())
        yield from _check_records(store, item, records)
    yield from _reported(UNITS, _unpublished(store, checked, keys))
    yield from _reported(CODEBOOKS, _codebooks(store, keys))
    for prefix in DATA_PREFIXES:
        yield from _reported(prefix, _orphans(store, prefix, keys))
    yield from _reported("unfinished writes", _unfinished(store))


def _reported(key: str, found: Iterator[Finding]) -> Iterator[Finding]:
    """Yield `found`; a store error about the corpus becomes the last finding."""
    try:
        yield from found
    except Unavailable:
        raise
    except StoreError as error:
        yield Finding("error", key, str(error))


def _unpublished(store: ObjectStore, checked: set[str], keys: set[str]) -> Iterator[Finding]:
    """Committed units that are not in `checked`; the keys of their objects are added to `keys`."""
    for unit_id in committed_units(store):
        if unit_id not in checked:
            try:
                unit = read_unit(store, unit_id)
            except Unavailable:
                raise
            except StoreError as error:
                yield Finding("error", unit_key(unit_id), str(error))
                continue
            keys.update(shard.key for shard in unit.objects)
            yield from _check_unit(store, unit, CodecRegister())


def _snapshots(store: ObjectStore) -> Iterator[Snapshot | Finding]:
    """All snapshots, newest first, and the faults of the chain. The oldest one may have lost its parent to gc."""
    try:
        numbers = snapshot_numbers(store)
    except Unavailable:
        raise
    except StoreError as error:
        yield Finding("error", "_snapshots/", str(error))
        return
    for previous, number in zip([None, *numbers], numbers, strict=False):
        if previous is not None and number != previous + 1:
            yield Finding("error", snapshot_key(number), f"follows snapshot {previous}: the chain has a gap")
    sound: set[str] = set()
    for number in reversed(numbers):
        try:
            snapshot = read_snapshot(store, number)
        except Unavailable:
            raise
        except StoreError as error:
            yield Finding("error", snapshot_key(number), str(error))
            continue
        if snapshot.parent != (number - 1 or None):
            yield Finding("error", snapshot_key(number), f"has parent {snapshot.parent}, not {number - 1 or None}")
        broken = [Finding("error", key, what) for key, what in check_manifest(store, snapshot, sound)]
        yield from broken
        if not broken:
            yield snapshot


def _check_records(store: ObjectStore, snapshot: Snapshot, seen: dict[str, int]) -> Iterator[Finding]:
    """Check that each unit of a snapshot has the commit record that the snapshot repeats, and the units that it relies on.

    `seen` maps ids of units whose record was read to its hash: a record is read once, however many snapshots repeat it.
    """
    key = snapshot_key(snapshot.number)
    present = {unit.unit_id for unit in snapshot.units}
    if len(present) != len(snapshot.units):
        yield Finding("error", key, f"lists {len(snapshot.units)} units, of which only {len(present)} are different ones")
    for unit in snapshot.units:
        try:
            if unit.unit_id not in seen:
                seen[unit.unit_id] = hash(read_unit(store, unit.unit_id))
        except Unavailable:
            raise
        except StoreError as error:
            yield Finding("error", unit_key(unit.unit_id), f"snapshot {snapshot.number} has this unit: {error}")
            continue
        if seen[unit.unit_id] != hash(unit):
            yield Finding("error", unit_key(unit.unit_id), f"is not what snapshot {snapshot.number} says of this unit")
        for name in unit.defers_to:
            if name not in present:
                yield Finding("error", key, f"unit {unit.unit_id} left out documents that unit {name} holds, which is not there")


def _check_rows(store: ObjectStore, snapshot: Snapshot, codecs: CodecRegister) -> Iterator[Finding]:
    """Check every shard of a snapshot, and that no page appears in it twice."""
    with PageCensus() as census:
        first_number = 0
        names: list[str] = []
        for unit in snapshot.units:
            yield from _check_unit(store, unit, codecs, census, first_number)
            names += [shard.key for shard in unit.shards]
            first_number = len(names)
        for (shard_a, row_a), (shard_b, row_b) in census.repeats():
            yield Finding("error", names[shard_b], f"row {row_b} is the same page as row {row_a} of {names[shard_a]}")
    kinds = set(codecs.of_fingerprint.values())
    if len(kinds) > 1:
        what = "; ".join(sorted(f"{codec} at {revision}" for codec, revision in kinds))
        yield Finding(
            "warning", snapshot_key(snapshot.number), f"has tokens of {len(kinds)} codecs, and no decoder reads them all: {what}"
        )


def _check_unit(
    store: ObjectStore, unit: CommitRecord, codecs: CodecRegister, census: PageCensus | None = None, first_number: int = 0
) -> Iterator[Finding]:
    try:
        unit.reconcile()
    except NotReconciled as error:
        yield Finding("error", unit_key(unit.unit_id), str(error))
    if unit.holds == "samples":
        census = None  # a page appears once in each mode
    for number, shard in enumerate(unit.shards, first_number):
        for what in check_shard(store, unit, shard, codecs, census, number):
            yield Finding("error", shard.key, what)
    if unit.samples is not None:
        for what in check_samples(store, unit, unit.samples):
            yield Finding("error", unit.samples.key, what)
    if unit.quarantine is not None:
        for what in check_shard(store, unit, unit.quarantine, codecs):
            yield Finding("error", unit.quarantine.key, what)


def _codebooks(store: ObjectStore, keys: set[str]) -> Iterator[Finding]:
    """Add the keys of the codebooks that units need to `keys`; that they are sound is checked with the rows."""
    keys.update(needed_codebooks(store, all_units(store)))
    yield from ()


def _orphans(store: ObjectStore, prefix: str, known: set[str]) -> Iterator[Finding]:
    for info in store.list(prefix):
        if info.key not in known:
            yield Finding("warning", info.key, f"orphan of {info.size} bytes, {_touched(info)}: in no commit record")


def _unfinished(store: ObjectStore) -> Iterator[Finding]:
    for info in store.unfinished():
        size = f" of {info.size} bytes" if info.size else ""
        yield Finding("warning", info.key, f"unfinished write{size}, {_touched(info)}")


def _touched(info: ObjectInfo) -> str:
    return f"last touched {info.modified:%Y-%m-%d %H:%M} UTC"
