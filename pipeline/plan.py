"""The plan of a run: which units the sources hold, which of them are new, and which unit stores a document that several hold.

The plan is a function of the sources, the configuration and the store, never of the clock, so a rerun after a crash makes the
same one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain

from pipeline.sources.config import SourceConfig
from pipeline.sources.documents import Document
from pipeline.sources.listing import expand
from pipeline.sources.objects import SourceObject
from pipeline.sources.tables import plan_units, read_unit
from pipeline.sources.units import Unit
from pipeline.store.duplicates import later_copies, stored_documents
from pipeline.store.object_store import ObjectStore
from pipeline.store.snapshots import Snapshot
from pipeline.store.units import CommitRecord, is_committed, unit_id
from pipeline.store.units import read_unit as read_record


@dataclass(frozen=True, kw_only=True)
class PlannedUnit:
    """A unit with the id that the store knows it by.

    Attributes:
        left_out: ids of its documents that other units store.
        defers_to: ids of those units.
        bytes: stored bytes; of a slice, an equal part of its object's.
    """

    unit: Unit
    unit_id: str
    left_out: tuple[str, ...] = ()
    defers_to: tuple[str, ...] = ()
    bytes: int = 0

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=True)

    @classmethod
    def from_json(cls, text: str) -> PlannedUnit:
        fields = json.loads(text)
        span = fields["unit"]["span"]
        unit = Unit(object=SourceObject(**fields["unit"]["object"]), span=None if span is None else tuple(span))
        return cls(**{**fields, "unit": unit, "left_out": tuple(fields["left_out"]), "defers_to": tuple(fields["defers_to"])})


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run has to do.

    Attributes:
        todo: units to process, in plan order.
        done: commit records of the units that are processed already.
    """

    todo: tuple[PlannedUnit, ...]
    done: tuple[CommitRecord, ...]

    @property
    def bytes(self) -> int:
        return sum(planned.bytes for planned in self.todo)


def source_uri(unit: Unit) -> str:
    """The URI of a unit's source as rows and records have it: a file name need not be UTF-8."""
    return unit.object.uri.encode("utf-8", "backslashreplace").decode()


def document_ids(unit: Unit, config: SourceConfig) -> list[str]:
    """Ids of the documents of a unit, in order, read from the source."""
    return [record.doc_id for record in read_unit(unit, config) if isinstance(record, Document)]


IndexUnits = Callable[[list[Unit]], Iterator[list[str]]]
"""Document ids of each unit, in order; how the work is spread is the caller's business."""


def make_plan(
    store: ObjectStore, snapshot: Snapshot | None, uris: Iterable[str], config: SourceConfig, fingerprint: str, index: IndexUnits
) -> Plan:
    """Plan a run over `uris`.

    Units that the snapshot holds in the same version, slice and fingerprint cost no read. If all are there, that is the whole
    plan; otherwise the documents of the new ones are indexed. A document is stored by the unit that is published with it, or else
    by the first new unit that holds it; the others leave it out. What a unit leaves out, and to whom, is part of its id.

    Raises:
        ValueError: for sources that do not exist or hold nothing, or that units of other sources rely on.
    """
    units = [unit for item in expand(uris, config) for unit in plan_units(item, config)]
    known, others = _published(units, snapshot, fingerprint)
    if all(known):
        return Plan(todo=(), done=tuple(record for record in known if record))
    fresh = [place for place, record in enumerate(known) if record is None]
    held = ((record.unit_id, stored_documents(store, record)) for record in (*others, *known) if record)
    indexed = zip(fresh, index([units[place] for place in fresh]), strict=True)
    holders: Iterator[tuple[int | str, Iterable[str]]] = chain(held, indexed)  # places of new units, ids of published ones
    copies = later_copies(holders)
    slices = Counter(unit.object.key for unit in units)
    ids: dict[int, str] = {}
    todo: list[PlannedUnit] = []
    done = [record for record in known if record]
    for place in fresh:
        unit, item = units[place], units[place].object
        owners = {doc_id: ids[owner] if isinstance(owner, int) else owner for doc_id, owner in copies.get(place, {}).items()}
        left_out = tuple(f"{doc_id} {owner}" for doc_id, owner in sorted(owners.items()))
        ids[place] = unit_id(item.key, item.version, unit.slice, fingerprint, left_out)
        if is_committed(store, ids[place]):
            done.append(read_record(store, ids[place]))
            continue
        todo.append(
            PlannedUnit(
                unit=unit,
                unit_id=ids[place],
                left_out=tuple(sorted(owners)),
                defers_to=tuple(sorted(set(owners.values()))),
                bytes=item.size // slices[item.key],
            )
        )
    return Plan(todo=tuple(todo), done=tuple(done))


def _published(
    units: Sequence[Unit], snapshot: Snapshot | None, fingerprint: str
) -> tuple[list[CommitRecord | None], list[CommitRecord]]:
    """The record under which each unit is published and may stay, and the records of all other sources.

    A unit that left documents to one that this run replaces cannot stay: nobody may hold them any more.

    Raises:
        ValueError: for such a unit of another source, which this run does not read.
    """
    published = snapshot.units if snapshot else ()
    same = {(record.source_uri, record.source_version, record.slice, record.fingerprint): record for record in published}
    known = [same.get((source_uri(unit), unit.object.version, unit.slice, fingerprint)) for unit in units]
    sources = {source_uri(unit) for unit in units}
    others = [record for record in published if record.source_uri not in sources]
    while True:
        staying = {record.unit_id for record in (*others, *known) if record}
        stale = [place for place, record in enumerate(known) if record and not staying.issuperset(record.defers_to)]
        if not stale:
            break
        for place in stale:
            known[place] = None
    bereft = sorted({record.source_uri for record in others if not staying.issuperset(record.defers_to)})
    if bereft:
        raise ValueError(
            f"sources: {', '.join(bereft[:3])}{' and others' if len(bereft) > 3 else ''} left out documents that a source of "
            f"this run held in its last version; name {'it' if len(bereft) == 1 else 'them'} among the sources too"
        )
    return known, others


def publishable(
    store: ObjectStore, base: Snapshot | None, records: Sequence[CommitRecord], unread: Collection[str]
) -> list[CommitRecord]:
    """The records that can be published although the sources `unread` could not be read.

    Such a source stays published as it was. What relies on its new version waits, and so does what stores a document that its old
    version stores; and where one slice of a source waits, all do. They are committed: the next run only has to publish them.
    """
    published = base.units if base else ()
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
            if not present.issuperset(record.defers_to) or (stored and stored & stored_documents(store, record))
        }
        if not more:
            return ready
        waiting |= more
