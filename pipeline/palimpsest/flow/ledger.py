"""The ledger of units in flight: it decides when a unit is complete, and checks that nothing was lost.

Rows arrive in any order, and a unit has many. The reader's last row gives the number of records of the unit; the first page of
each document gives its number of pages. A unit is complete when all of them were written, and only then is it committed.

    ledger = Ledger(units, [metrics, progress, EventLog()])
    ledger.settle(executor.run_units(..., ledger.pending), store, run_id)

Metrics, progress, the log and the operation's account of its work are all subscribers of this one ledger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from palimpsest import telemetry
from palimpsest.corpus.quarantine_rows import QuarantineRows
from palimpsest.corpus.shards import ShardRecord, new_attempt
from palimpsest.corpus.units import CommitRecord, Counts, commit_unit, read_unit
from palimpsest.errors import PalimpsestError, RunFailed
from palimpsest.flow.plan import PlannedUnit, source_uri
from palimpsest.schemas import PAGE_COUNTS, QUARANTINE, RowKind
from palimpsest.sources.documents import Reason
from palimpsest.sources.objects import UNREAD
from palimpsest.storage.object_store import ObjectStore, StoreError
from palimpsest.telemetry import Precision

STORAGE_REASONS = (Reason.VANISHED, Reason.CHANGED, Reason.UNREADABLE)


class WorkerFailed(PalimpsestError, RuntimeError):
    """A worker died or met a bug; committed units are kept."""


class WorkersLost(WorkerFailed):
    """Workers died more often than Ray retries, or their output was lost with them; no bug is known."""


@dataclass(frozen=True, kw_only=True)
class UnreadSource:
    """A source that could not be read in its listed version. It is not committed, so the next run tries again."""

    source_uri: str
    reason: str
    detail: str


@dataclass
class InFlight:
    """The arrived rows of one unit of any kind."""

    counts: Counter[str] = field(default_factory=Counter)
    shards: list[ShardRecord] = field(default_factory=list)
    pages: Counter[tuple[str, str]] = field(default_factory=Counter)  # by tier and status
    precision: Precision = field(default_factory=Precision)

    def add_pages(self, row: Mapping[str, Any]) -> None:
        """Add a row of the kind "written"."""
        self.counts.update({name: row["counts"][name] for name in PAGE_COUNTS})
        self.shards += [ShardRecord(**shard) for shard in row["shards"]]
        self.pages.update({(group["tier"], group["status"]): group["pages"] for group in row["statuses"]})
        self.precision.total += row["precision"]["total"]
        self.precision.pages += row["precision"]["pages"]


class UnitInFlight(Protocol):
    """A unit that the ledger waits for: of sources (`SourceUnit`), or of a re-tiering."""

    @property
    def unit_id(self) -> str: ...
    @property
    def arrived(self) -> InFlight: ...
    @property
    def bytes(self) -> int:
        """Stored bytes of its source."""
        ...

    @property
    def complete(self) -> bool: ...
    @property
    def missing(self) -> str:
        """A description of the incomplete unit, for an error message."""
        ...

    def take(self, row: Mapping[str, Any]) -> None:
        """Add a row of a kind that belongs to the unit."""
        ...

    def restarted(self) -> UnitInFlight:
        """The same unit, without its arrived rows."""
        ...

    @property
    def unread(self) -> UnreadSource | None:
        """The source that could not be read, if that forbids the commit."""
        ...

    @property
    def reasons(self) -> Mapping[str, int]:
        """Quarantined documents by reason."""
        ...

    def commit(self, store: ObjectStore, run_id: str) -> CommitRecord:
        """Write the commit record; returns the record in the store, which may be another run's."""
        ...


U = TypeVar("U", bound=UnitInFlight)


class Subscriber:
    """Follows a ledger; each method is called after the ledger has changed."""

    def arrived(self, row: Mapping[str, Any]) -> None:
        """A row of the WRITTEN schema arrived."""

    def again(self, unit: UnitInFlight) -> None:
        """A unit is processed again; `unit` has the arrived rows, which no longer count."""

    def committed(self, unit: UnitInFlight, record: CommitRecord) -> None:
        """A unit was committed."""

    def unread(self, unit: UnitInFlight, source: UnreadSource) -> None:
        """A unit's source could not be read; the next run tries again."""


class Ledger(Generic[U]):
    """All units in flight.

    Args:
        subscribers: called in this order.
    """

    def __init__(self, units: Iterable[U], subscribers: Sequence[Subscriber] = ()) -> None:
        self._units = {unit.unit_id: unit for unit in units}
        self._subscribers = subscribers

    def __len__(self) -> int:
        return len(self._units)

    def settle(self, rows: Iterable[Mapping[str, Any]], store: ObjectStore, run_id: str) -> None:
        """Take all rows, and commit each unit when it is complete.

        Raises:
            StoreError: a worker or this process could not write.
            AssertionError: the rows ended, but units are incomplete.
        """
        for row in rows:
            unit = self.take(row)
            if unit is None:
                continue
            if source := unit.unread:
                for subscriber in self._subscribers:
                    subscriber.unread(unit, source)
            else:
                record = unit.commit(store, run_id)
                for subscriber in self._subscribers:
                    subscriber.committed(unit, record)
        if self._units:
            missing = "; ".join(f"unit {name}: {unit.missing}" for name, unit in self._units.items())
            raise AssertionError(f"the flow ended, but units are incomplete: {missing}")

    def take(self, row: Mapping[str, Any]) -> U | None:
        """Take one row of the WRITTEN schema; returns the unit and forgets it if it is complete.

        Raises:
            StoreError: a worker could not write its rows.
        """
        unit = self._units[row["unit_id"]]
        if row["kind"] == RowKind.FAILED:
            raise StoreError(row["detail"])
        if row["kind"] == RowKind.AGAIN:  # a worker was lost with some rows of the unit: all of them will arrive again
            self._units[row["unit_id"]] = unit.restarted()  # type: ignore[assignment]
            for subscriber in self._subscribers:
                subscriber.again(unit)
            return None
        unit.take(row)
        for subscriber in self._subscribers:
            subscriber.arrived(row)
        return self._units.pop(row["unit_id"]) if unit.complete else None

    def incomplete(self) -> Iterator[U]:
        """The incomplete units, in their original order."""
        yield from self._units.values()


@dataclass
class SourceUnit:
    """A unit of sources."""

    planned: PlannedUnit
    fingerprint: str
    arrived: InFlight = field(default_factory=InFlight)
    read: Mapping[str, Any] | None = None
    quarantine: QuarantineRows = field(default_factory=QuarantineRows)

    @property
    def unit_id(self) -> str:
        return self.planned.unit_id

    @property
    def bytes(self) -> int:
        return self.planned.bytes

    @property
    def reasons(self) -> Mapping[str, int]:
        return self.quarantine.reasons

    def restarted(self) -> SourceUnit:
        return SourceUnit(self.planned, self.fingerprint)

    def take(self, row: Mapping[str, Any]) -> None:
        if row["kind"] == RowKind.WRITTEN:
            self.arrived.add_pages(row)
        elif row["kind"] == RowKind.QUARANTINED:
            self.quarantine.append({name: row[name] for name in QUARANTINE.names})
        elif row["kind"] == RowKind.DUPLICATE:
            self.arrived.counts["duplicates"] += row["rows"]
        elif row["kind"] == RowKind.UNIT_END:
            self.read = row["control"]
        else:
            raise AssertionError(f"a row of kind {row['kind']!r} in unit {self.unit_id}")

    @property
    def complete(self) -> bool:
        """True once every record that the reader counted has arrived with all its pages."""
        if self.read is None:
            return False
        if self.read["committed_elsewhere"]:  # by another run, before a worker of this one started it
            return True
        counts = self.arrived.counts
        late = len(self.quarantine) - self.read["quarantined"]  # readable documents that could not be laid out
        return (
            late >= 0
            and counts["first_pages"] + late == self.read["documents"]
            and counts["duplicates"] == self.read["duplicates"]
            and counts["pages"] == counts["pages_expected"]
        )

    @property
    def missing(self) -> str:
        return (
            f"of {self.planned.unit.object.uri}: read {self.read}, arrived {dict(self.arrived.counts)}, "
            f"{len(self.quarantine)} quarantined"
        )

    @property
    def unread(self) -> UnreadSource | None:
        uri = source_uri(self.planned.unit)
        if row := self.quarantine.first(STORAGE_REASONS):
            return UnreadSource(source_uri=uri, reason=row["reason"], detail=row["detail"] or "")
        if self.planned.unit.object.version == UNREAD:
            return UnreadSource(source_uri=uri, reason=str(Reason.UNREADABLE), detail="it could not be read when it was listed")
        return None

    def commit(self, store: ObjectStore, run_id: str) -> CommitRecord:
        """Write the quarantine and the commit record."""
        assert self.read is not None
        if self.read["committed_elsewhere"]:
            return read_unit(store, self.unit_id)
        attempt, planned, arrived = new_attempt(), self.planned, self.arrived.counts
        shards = tuple(sorted(self.arrived.shards, key=lambda shard: (shard.tier, shard.key)))
        counts = Counts(
            documents_in=self.read["documents_in"],
            documents_committed=arrived["first_pages"],
            documents_quarantined=len(self.quarantine),
            duplicates=arrived["duplicates"],
            pages_in=arrived["pages_expected"],
            pages_committed=arrived["pages"],
            rows=sum(shard.rows for shard in shards),
            bytes=sum(shard.bytes for shard in shards),
            text_tokens=arrived["text_tokens"],
            context_tokens=arrived["context_tokens"],
            tokens_as_text=arrived["tokens_as_text"],
        )
        record = CommitRecord(
            unit_id=planned.unit_id,
            run_id=run_id,
            attempt=attempt,
            source_uri=source_uri(planned.unit),
            source_version=planned.unit.object.version,
            slice=planned.unit.slice,
            fingerprint=self.fingerprint,
            shards=shards,
            quarantine=self.quarantine.write(store, unit_id=planned.unit_id, attempt=attempt),
            counts=counts,
            defers_to=planned.defers_to,
        )
        return commit_unit(store, record)


class Metering(Subscriber):
    """Records the metrics of a run."""

    def __init__(self, metrics: telemetry.RunMetrics) -> None:
        self.metrics = metrics

    def committed(self, unit: UnitInFlight, record: CommitRecord) -> None:
        arrived = unit.arrived
        self.metrics.committed(asdict(record.counts), unit.reasons, arrived.pages, arrived.precision, unit.bytes)

    def unread(self, unit: UnitInFlight, source: UnreadSource) -> None:
        self.metrics.unread()


class EventLog(Subscriber):
    """Logs every committed unit."""

    def committed(self, unit: UnitInFlight, record: CommitRecord) -> None:
        counts = asdict(record.counts)
        telemetry.log_event("unit_committed", routine=True, unit_id=record.unit_id, source=record.source_uri, **counts)


def refuse_quarantine(
    lost: int, of: int, reasons: Mapping[str, int], *, share: float, slack: int = 0, what: str = "documents", then: str
) -> None:
    """The one limit on what may be quarantined.

    Args:
        lost, of: number quarantined, and total number; a source that could not be read counts as one.
        share: `limits.quarantine_share`.
        slack: number that may be quarantined whatever the share (`ingest.quarantine_documents`).
        then: what happens to the work, for the message.

    Raises:
        RunFailed: the limit is exceeded; the message names the reasons, the settings and the remedy.
    """
    if lost <= slack or lost <= share * of:
        return
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    named = ", ".join(f"{reason} {count}" for reason, count in ordered) or "see the quarantine"
    limits = f"limits.quarantine_share = {share:.1%}" + (f" and ingest.quarantine_documents = {slack}" if slack else "")
    raise RunFailed(
        f"{lost} of {of} {what} ({lost / max(1, of):.1%}) are quarantined, more than {limits}: {named}. {then} Fix the sources, "
        f"or raise the limit and run again"
    )
