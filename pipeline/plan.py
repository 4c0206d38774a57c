"""The plan of a run: which units the sources hold, which of them are new, and which unit stores a document that several hold.

The plan is a function of the sources, the configuration and the store, never of the clock, so a rerun after a crash makes the same
one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass

from pipeline.sources.config import SourceConfig
from pipeline.sources.documents import Document
from pipeline.sources.listing import expand
from pipeline.sources.objects import SourceObject
from pipeline.sources.tables import plan_units, read_unit
from pipeline.sources.units import Unit
from pipeline.store.duplicates import later_copies, stored_documents
from pipeline.store.object_store import ObjectStore
from pipeline.store.snapshots import Snapshot
from pipeline.store.units import CommitRecord, is_committed, read_unit as read_record, unit_id


@dataclass(frozen=True, kw_only=True)
class PlannedUnit:
    """A unit with the id that the store knows it by.

    Attributes:
        left_out: ids of its documents that an earlier unit of the plan stores.
        defers_to: ids of those units.
    """

    unit: Unit
    unit_id: str
    left_out: tuple[str, ...] = ()
    defers_to: tuple[str, ...] = ()

    @property
    def slice(self) -> str:
        return slice_name(self.unit)

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=True)

    @classmethod
    def from_json(cls, text: str) -> PlannedUnit:
        fields = json.loads(text)
        span = fields["unit"]["span"]
        unit = Unit(object=SourceObject(**fields["unit"]["object"]), span=None if span is None else tuple(span))
        return cls(
            unit=unit, unit_id=fields["unit_id"], left_out=tuple(fields["left_out"]), defers_to=tuple(fields["defers_to"])
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run has to do.

    Attributes:
        todo: units to process, in plan order.
        done: commit records of the units that are processed already.
        bytes: stored bytes of the sources of `todo`.
    """

    todo: tuple[PlannedUnit, ...]
    done: tuple[CommitRecord, ...]
    bytes: int


def slice_name(unit: Unit) -> str:
    return "" if unit.span is None else f"{unit.span[0]}-{unit.span[1]}"


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
    plan; otherwise the documents of the new ones are indexed, to see which they share.

    Raises:
        ValueError: for sources that do not exist or hold nothing.
    """
    units = [unit for item in expand(uris, config) for unit in plan_units(item, config)]
    published = {(r.source_version, r.slice, r.fingerprint, r.source_uri): r for r in (snapshot.units if snapshot else ())}
    known = [published.get((u.object.version, slice_name(u), fingerprint, u.object.uri)) for u in units]
    if all(known):
        return Plan(todo=(), done=tuple(record for record in known if record), bytes=0)
    fresh = index([unit for unit, record in zip(units, known, strict=True) if record is None])
    documents = (next(fresh) if record is None else sorted(stored_documents(store, record)) for record in known)
    copies = later_copies(enumerate(documents))
    todo: list[PlannedUnit] = []
    done: list[CommitRecord] = []
    ids: list[str] = []
    for place, (unit, record) in enumerate(zip(units, known, strict=True)):
        left_out = copies.get(place, {}) if record is None else {}
        name = record.unit_id if record else unit_id(unit.object.key, unit.object.version, slice_name(unit), fingerprint, left_out)
        ids.append(name)
        if record is None and is_committed(store, name):
            record = read_record(store, name)
        if record is None:
            owners = tuple(sorted({ids[owner] for owner in left_out.values()}))
            todo.append(PlannedUnit(unit=unit, unit_id=name, left_out=tuple(sorted(left_out)), defers_to=owners))
        else:
            done.append(record)
    return Plan(todo=tuple(todo), done=tuple(done), bytes=sum(_bytes(planned.unit) for planned in todo))


def _bytes(unit: Unit) -> int:
    return unit.object.size
