"""The plan of a run: the units of the sources, which of them are new, and which unit stores a document that several contain.

The plan depends on the sources, the configuration and the store, never on the clock. A rerun after a crash makes the same plan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import pyarrow as pa

from palimpsest.config import SourceConfig
from palimpsest.corpus.duplicates import later_copies, stored_documents
from palimpsest.corpus.repair import committed
from palimpsest.corpus.snapshots import Snapshot, document_owners
from palimpsest.corpus.units import CommitRecord, unit_id
from palimpsest.errors import UsageError
from palimpsest.schemas import UNITS, conform
from palimpsest.sources.documents import Document
from palimpsest.sources.listing import expand
from palimpsest.sources.objects import SourceObject
from palimpsest.sources.tables import plan_units, read_unit
from palimpsest.sources.units import Unit
from palimpsest.storage.object_store import ObjectStore


@dataclass(frozen=True, kw_only=True)
class PlannedUnit:
    """A unit with its id in the store.

    Attributes:
        left_out: ids of its documents that other units store.
        defers_to: ids of those units.
        bytes: stored bytes; for a slice, an equal part of its object's bytes.
        corpus: where a worker checks, before it starts, whether another run has committed the unit; "" for no check.
    """

    unit: Unit
    unit_id: str
    left_out: tuple[str, ...] = ()
    defers_to: tuple[str, ...] = ()
    bytes: int = 0
    corpus: str = ""


def units_table(units: Iterable[PlannedUnit]) -> pa.Table:
    """Planned units as a table of UNITS."""
    rows = [
        {
            **{name: getattr(planned, name) for name in ("unit_id", "left_out", "defers_to", "bytes", "corpus")},
            "uri": planned.unit.object.uri.encode("utf-8", "surrogatepass"),
            "key": planned.unit.object.key.encode("utf-8", "surrogatepass"),
            "size": planned.unit.object.size,
            "version": planned.unit.object.version,
            "span": planned.unit.span,
        }
        for planned in units
    ]
    return conform(pa.Table.from_pylist(rows, UNITS), UNITS, "plan")


def planned_units(table: pa.Table) -> Iterator[PlannedUnit]:
    """The units of a table of UNITS, in order."""
    for row in table.to_pylist():
        uri, key = (row.pop(name).decode("utf-8", "surrogatepass") for name in ("uri", "key"))
        item = SourceObject(uri=uri, key=key, size=row.pop("size"), version=row.pop("version"))
        span = row.pop("span")
        unit = Unit(object=item, span=None if span is None else (span[0], span[1]))
        left_out, defers_to = tuple(row.pop("left_out")), tuple(row.pop("defers_to"))
        yield PlannedUnit(unit=unit, left_out=left_out, defers_to=defers_to, **row)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The work of a run.

    Attributes:
        todo: units to process, in plan order.
        done: commit records of units that are already processed.
    """

    todo: tuple[PlannedUnit, ...]
    done: tuple[CommitRecord, ...]

    @property
    def bytes(self) -> int:
        return sum(planned.bytes for planned in self.todo)


def source_uri(unit: Unit) -> str:
    """The URI of a unit's source as stored in rows and records. Bytes of a file name that are not UTF-8 are escaped."""
    return unit.object.uri.encode("utf-8", "backslashreplace").decode()


def document_ids(unit: Unit, config: SourceConfig) -> list[str]:
    """Ids of the documents of a unit, in order, read from the source."""
    return [record.doc_id for record in read_unit(unit, config) if isinstance(record, Document)]


IndexUnits = Callable[[list[Unit], SourceConfig], Iterator[list[str]]]
"""Document ids of each unit, in order (`Executor.index_units`)."""


def make_plan(
    store: ObjectStore,
    snapshot: Snapshot | None,
    found: Iterable[str] | Iterable[SourceObject],
    config: SourceConfig,
    fingerprint: str,
    index: IndexUnits,
    lost: Collection[str] = (),
) -> Plan:
    """Plan a run over the objects `found`, or over URIs.

    Units that the snapshot has in the same version, slice and fingerprint need no read. If it has all units, the plan is empty;
    otherwise the documents of the new units are indexed. A document is stored by the published unit that contains it, or else by
    the first new unit that does; the others omit it. The omitted documents and their owners are part of a unit's id.

    Args:
        lost: ids of published units that must be rebuilt (corpus/repair.py).

    Raises:
        ValueError: sources do not exist or are empty, or units of other sources rely on them.
    """
    units = _units(found, config)
    known, others = _published(units, snapshot, fingerprint, lost)
    if all(known):
        return Plan(todo=(), done=tuple(record for record in known if record))
    fresh = [units[position] for position, record in enumerate(known) if record is None]
    indexed = list(index(fresh, config))
    staying = {record.unit_id for record in (*others, *known) if record}
    leaving = {record.unit_id for record in snapshot.units if record.unit_id not in staying} if snapshot else set()
    held = held_documents(store, snapshot, leaving, indexed)
    todo, done = assign(store, fresh, indexed, held, fingerprint, slices=Counter(unit.object.key for unit in units))
    return Plan(todo=tuple(todo), done=(*(record for record in known if record), *done))


def settled(
    snapshot: Snapshot | None,
    found: Iterable[SourceObject],
    config: SourceConfig,
    fingerprint: str,
    lost: Collection[str] = (),
) -> tuple[CommitRecord, ...] | None:
    """The published records of these objects, or None if there is work to do.

    There is no work if all their units are published unchanged, none is `lost`, and nothing else of these sources is published.
    """
    if snapshot is None:
        return None
    units = _units(found, config)
    known, _ = _published(units, snapshot, fingerprint, lost)
    ids = {record.unit_id for record in known if record}
    sources = {source_uri(unit) for unit in units}
    rest = any(record.source_uri in sources and record.unit_id not in ids for record in snapshot.units)
    return None if rest or not all(known) else tuple(record for record in known if record)


def _units(found: Iterable[str] | Iterable[SourceObject], config: SourceConfig) -> list[Unit]:
    items = list(found)
    objects = [item for item in items if isinstance(item, SourceObject)]
    return [unit for item in objects or expand([str(uri) for uri in items], config) for unit in plan_units(item, config)]


def held_documents(
    store: ObjectStore, snapshot: Snapshot | None, leaving: Collection[str], indexed: Iterable[Iterable[str]]
) -> dict[str, list[str]]:
    """The documents of new units that published units store, by unit id, from the snapshot's document index.

    Units in `leaving` do not count.
    """
    if snapshot is None:
        return {}
    held: dict[str, list[str]] = {}
    for doc_id, owner in document_owners(store, snapshot, chain.from_iterable(indexed)).items():
        if owner not in leaving:
            held.setdefault(owner, []).append(doc_id)
    return held


def assign(
    store: ObjectStore,
    units: Sequence[Unit],
    indexed: Sequence[Iterable[str]],
    held: Mapping[str, Iterable[str]],
    fingerprint: str,
    *,
    slices: Mapping[str, int],
    corpus: str = "",
) -> tuple[list[PlannedUnit], list[CommitRecord]]:
    """Assign every document to one unit; returns the units to process and the records of those already committed.

    Args:
        indexed: the documents of each unit, in order.
        held: documents that published units store, by unit id.
        slices: number of units by the key of their object.
    """
    holders: Iterator[tuple[int | str, Iterable[str]]] = chain(held.items(), enumerate(indexed))
    copies = later_copies(holders)  # new units by position, published ones by id
    ids: dict[int, str] = {}
    todo: list[PlannedUnit] = []
    done: list[CommitRecord] = []
    for position, unit in enumerate(units):
        item = unit.object
        owners = {doc_id: ids[owner] if isinstance(owner, int) else owner for doc_id, owner in copies.get(position, {}).items()}
        left_out = tuple(f"{doc_id} {owner}" for doc_id, owner in sorted(owners.items()))
        ids[position], record = committed(store, unit_id(item.key, item.version, unit.slice, fingerprint, left_out))
        if record:
            done.append(record)
            continue
        todo.append(
            PlannedUnit(
                unit=unit,
                unit_id=ids[position],
                left_out=tuple(sorted(owners)),
                defers_to=tuple(sorted(set(owners.values()))),
                bytes=item.size // slices[item.key],
                corpus=corpus,
            )
        )
    return todo, done


def _published(
    units: Sequence[Unit], snapshot: Snapshot | None, fingerprint: str, lost: Collection[str] = ()
) -> tuple[list[CommitRecord | None], list[CommitRecord]]:
    """The record under which each unit is published and may stay, and the records of all other sources.

    A unit cannot stay if it left documents to a unit that this run replaces: those documents might be lost.

    Raises:
        ValueError: such a unit belongs to another source, which this run does not read.
    """
    published = tuple(snapshot.units) if snapshot else ()
    sound = (record for record in published if record.unit_id not in lost)
    same = {(record.source_uri, record.source_version, record.slice, record.fingerprint): record for record in sound}
    known = [same.get((source_uri(unit), unit.object.version, unit.slice, fingerprint)) for unit in units]
    sources = {source_uri(unit) for unit in units}
    others = [record for record in published if record.source_uri not in sources]
    while True:
        staying = {record.unit_id for record in (*others, *known) if record}
        stale = [position for position, record in enumerate(known) if record and not staying.issuperset(record.defers_to)]
        if not stale:
            break
        for position in stale:
            known[position] = None
    bereft = sorted({record.source_uri for record in others if not staying.issuperset(record.defers_to)})
    if bereft:
        raise UsageError(
            f"sources: {', '.join(bereft[:3])}{' and others' if len(bereft) > 3 else ''} left out documents that a source of "
            f"this run held in its last version; name {'it' if len(bereft) == 1 else 'them'} among the sources too"
        )
    return known, others


def publishable(
    store: ObjectStore,
    published: Sequence[CommitRecord],
    records: Sequence[CommitRecord],
    unread: Collection[str],
    elsewhere: Collection[str] = (),
) -> list[CommitRecord]:
    """The records that can be published although the sources `unread` could not be read.

    Such a source keeps its published version. A unit waits if it relies on the new version, or stores a document that the old
    version stores. If one slice of a source waits, all its slices wait. They are committed: the next run only has to publish
    them.

    Args:
        published: the published records, at least those of the sources of `records` and `unread`.
        elsewhere: ids of published units of other sources that `published` omits.
    """
    waiting = set(unread)
    while True:
        ready = [record for record in records if record.source_uri not in waiting]
        replaced = {record.source_uri for record in ready}
        staying = [record for record in published if record.source_uri not in replaced]
        present = {record.unit_id for record in (*staying, *ready)}
        kept = (stored_documents(store, record) for record in staying if record.source_uri in waiting)
        stored = set().union(*kept) if waiting else set()
        more = {
            record.source_uri
            for record in ready
            if not all(name in present or name in elsewhere for name in record.defers_to)
            or (stored and stored & stored_documents(store, record))
        }
        ids = {record.unit_id for record in ready}
        gone = {record.unit_id: record.source_uri for record in published if record.source_uri in replaced}
        relied_on = (name for record in staying if record.source_uri in waiting for name in record.defers_to)
        more |= {gone[name] for name in relied_on if name in gone and name not in ids}
        if not more:
            return ready
        waiting |= more
