"""The published versions of a corpus, and how to read one.

`_snapshots/00000007.json` lists all units of version 7 with their commit records, so that a reader opens one object and then only
shards, and never lists `data/`. A snapshot is created only if absent: of two publishers one gets the number, and the other puts
its units on top of what won.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from pipeline.records import SHARD
from pipeline.store.object_store import NoSuchObject, ObjectStore, StoreError
from pipeline.store.shards import open_shard
from pipeline.store.stable_json import Damaged, read_json, to_bytes
from pipeline.store.units import CommitRecord, Counts

PREFIX = "_snapshots/"
PUBLISH_TRIES = 32  # every lost race is somebody else's published snapshot


class PublishConflict(StoreError):
    """Units that cannot stand in one snapshot; the message names them."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One version: `units` are sorted by id; `parent` is the number of the version that it was built on, None for the first."""

    number: int
    parent: int | None
    run_id: str
    units: tuple[CommitRecord, ...]

    @property
    def totals(self) -> Counts:
        return sum((unit.counts for unit in self.units), Counts())

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "totals": asdict(self.totals)}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Snapshot:
        """The inverse of `to_json`. Raises TypeError or KeyError for another format, ValueError for totals that are no sums."""
        totals = Counts(**record["totals"])
        units = tuple(CommitRecord.from_json(unit) for unit in record["units"])
        snapshot = cls(**{**{name: value for name, value in record.items() if name != "totals"}, "units": units})
        if snapshot.totals != totals:
            raise ValueError(f"its totals {totals} are not the sum of its units {snapshot.totals}")
        return snapshot


def publish(store: ObjectStore, run_id: str, records: Iterable[CommitRecord], drop: Collection[str] = ()) -> Snapshot:
    """Publish committed units on top of the newest snapshot, and leave out those whose ids are in `drop`.

    Where that changes nothing, the newest snapshot is returned and nothing is written; an empty corpus gets an empty first one.

    Raises:
        PublishConflict: two units claim the same slice or different versions of one source, a unit relies on one that is not
            there, or PUBLISH_TRIES races were lost in a row.
    """
    ours = {record.unit_id: record for record in records}
    for _ in range(PUBLISH_TRIES):
        base = latest(store)
        theirs = {} if base is None else {unit.unit_id: unit for unit in base.units}
        merged = {name: unit for name, unit in {**theirs, **ours}.items() if name not in drop}
        if base is not None and merged == theirs:
            return base
        _refuse_conflicts(theirs, ours, merged)
        snapshot = Snapshot(
            number=base.number + 1 if base else 1,
            parent=base.number if base else None,
            run_id=run_id,
            units=tuple(merged[name] for name in sorted(merged)),
        )
        if store.create(snapshot_key(snapshot.number), to_bytes(snapshot.to_json())):
            return snapshot
    raise PublishConflict(f"run {run_id}: other publishers were faster {PUBLISH_TRIES} times in a row; publish again")


def superseded(snapshot: Snapshot | None, records: Iterable[CommitRecord]) -> set[str]:
    """What `publish` has to drop for `records` to take the place of older versions of the same sources.

    These are the units of the snapshot whose source is among the new ones in another version or under another fingerprint, or
    whose slice is among them under another id.
    """
    if snapshot is None:
        return set()
    sources: dict[str, set[tuple[str, str]]] = {}
    slices: dict[tuple[str, str], str] = {}
    for record in records:
        sources.setdefault(record.source_uri, set()).add((record.source_version, record.fingerprint))
        slices[record.source_uri, record.slice] = record.unit_id
    return {
        unit.unit_id
        for unit in snapshot.units
        if (unit.source_uri in sources and (unit.source_version, unit.fingerprint) not in sources[unit.source_uri])
        or slices.get((unit.source_uri, unit.slice), unit.unit_id) != unit.unit_id
    }


def _refuse_conflicts(theirs: dict[str, CommitRecord], ours: dict[str, CommitRecord], merged: dict[str, CommitRecord]) -> None:
    for name in theirs.keys() & ours.keys():
        if theirs[name] != ours[name]:
            raise PublishConflict(f"unit {name} is published with other shards than those of the commit record given")
    holder: dict[tuple[str, str], CommitRecord] = {}
    version: dict[str, CommitRecord] = {}
    for unit in merged.values():
        same_slice = holder.setdefault((unit.source_uri, unit.slice), unit)
        same_source = version.setdefault(unit.source_uri, unit)
        if same_slice is not unit:
            pair = f"{same_slice.unit_id} and {unit.unit_id}"
            raise PublishConflict(f"units {pair} hold the same slice {unit.slice!r} of {unit.source_uri}: drop one")
        if same_source.source_version != unit.source_version:
            pair = f"{same_source.unit_id} (version {same_source.source_version!r}) and {unit.unit_id} ({unit.source_version!r})"
            raise PublishConflict(f"units {pair} hold two versions of {unit.source_uri}: drop the older")
        missing = [name for name in unit.defers_to if name not in merged]
        if missing:
            raise PublishConflict(f"unit {unit.unit_id} left out documents of units {missing}, which are not there: plan again")


def snapshot_key(number: int) -> str:
    return f"{PREFIX}{number:08d}.json"


def snapshot_numbers(store: ObjectStore) -> list[int]:
    """The numbers of all snapshots, ascending. Raises Damaged for a name that is none."""
    numbers = []
    for info in store.list(PREFIX):
        name = info.key.removeprefix(PREFIX).removesuffix(".json")
        if not name.isdecimal() or info.key != snapshot_key(int(name)):
            raise Damaged(f"{store.uri(info.key)} is not named like a snapshot ({snapshot_key(7)})")
        numbers.append(int(name))
    return sorted(numbers)


def latest(store: ObjectStore) -> Snapshot | None:
    """The newest snapshot, or None where nothing was published."""
    numbers = snapshot_numbers(store)
    return read_snapshot(store, numbers[-1]) if numbers else None


def read_snapshot(store: ObjectStore, number: int) -> Snapshot:
    """One version.

    Raises:
        NoSuchObject: with the numbers that there are.
        Damaged: the object is unreadable or contradicts itself.
    """
    key = snapshot_key(number)
    try:
        snapshot = Snapshot.from_json(read_json(store, key))
    except NoSuchObject:
        raise NoSuchObject(f"there is no snapshot {number}; the corpus has {snapshot_numbers(store)}") from None
    except (TypeError, KeyError, ValueError) as error:
        raise Damaged(f"{store.uri(key)} is no snapshot of this format: {error}") from error
    if snapshot.number != number:
        raise Damaged(f"{store.uri(key)} is snapshot {snapshot.number}")
    return snapshot


def shard_uris(store: ObjectStore, snapshot: Snapshot) -> list[str]:
    """What any Parquet reader (DuckDB, pyarrow, …) opens to read this version."""
    return [store.uri(shard.key) for unit in snapshot.units for shard in unit.shards]


def iter_tables(
    store: ObjectStore,
    snapshot: Snapshot,
    columns: Sequence[str] | None = None,
    filter: pc.Expression | None = None,
    *,
    verify: bool = False,
    batch_rows: int = 1024,
) -> Iterator[pa.Table]:
    """The rows of a version in tables of at most `batch_rows`, shard by shard, in the same order every time.

    Args:
        columns: all where None.
        filter: e.g. `pc.field("tier") == "base"`; row groups that cannot match are not read.
        verify: read each shard's bytes once more before, and compare their hash.

    Raises:
        NoSuchObject, Damaged.
    """
    for unit in snapshot.units:
        for shard in unit.shards:
            with open_shard(store, shard, verify=verify) as stream:
                try:
                    fragment = pads.ParquetFileFormat().make_fragment(stream)
                    batches = fragment.to_batches(
                        schema=SHARD,
                        columns=None if columns is None else list(columns),
                        filter=filter,
                        batch_size=batch_rows,
                        batch_readahead=0,
                        use_threads=False,
                    )
                    for batch in batches:
                        if batch.num_rows:
                            yield pa.Table.from_batches([batch])
                except (pa.ArrowException, OSError) as error:
                    raise Damaged(f"{store.uri(shard.key)} is not readable as Parquet: {error}") from error


def iter_rows(
    store: ObjectStore, snapshot: Snapshot, columns: Sequence[str] | None = None, filter: pc.Expression | None = None
) -> Iterator[dict[str, Any]]:
    """`iter_tables`, one dict a row."""
    for table in iter_tables(store, snapshot, columns, filter):
        yield from table.to_pylist()
