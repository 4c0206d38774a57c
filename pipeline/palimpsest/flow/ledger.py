"""Bookkeeping of units in flight: when is a unit complete, and does everything that went in come out?

Blocks arrive in any order and a unit's rows in many of them. The reader's last row says how many records the unit held; the first
page of each document says how many pages it has. A unit is complete when all of them were written, and only then is it committed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from palimpsest.corpus.quarantine_rows import QuarantineRows
from palimpsest.corpus.shards import ShardRecord, new_attempt
from palimpsest.corpus.units import CommitRecord, Counts, commit_unit, read_unit
from palimpsest.flow.plan import PlannedUnit, source_uri
from palimpsest.sources.documents import Reason
from palimpsest.sources.objects import UNREAD
from palimpsest.storage.object_store import ObjectStore, StoreError
from palimpsest.telemetry import Precision

STORAGE_REASONS = (Reason.VANISHED, Reason.CHANGED, Reason.UNREADABLE)
PAGE_COUNTS = ("first_pages", "pages_expected", "pages", "text_tokens", "context_tokens", "tokens_as_text")


class WorkerFailed(RuntimeError):
    """A worker died or met a bug; what was committed is kept."""


class WorkersLost(WorkerFailed):
    """Workers died more often than Ray tries again, or what they had made was lost with them; no bug is known."""


@dataclass(frozen=True, kw_only=True)
class UnreadSource:
    """A source that could not be read in the version that was listed. It is not committed, so that the next run tries again."""

    source_uri: str
    reason: str
    detail: str


@dataclass
class UnitTally:
    """What arrived of one unit."""

    planned: PlannedUnit
    read: dict[str, int] | None = None
    counts: Counter[str] = field(default_factory=Counter)
    shards: list[ShardRecord] = field(default_factory=list)
    quarantine: QuarantineRows = field(default_factory=QuarantineRows)
    pages: Counter[tuple[str, str]] = field(default_factory=Counter)  # by tier and status
    precision: Precision = field(default_factory=Precision)

    @property
    def complete(self) -> bool:
        """Whether every record that the reader counted has arrived, with all its pages."""
        if self.read is None:
            return False
        if "committed_elsewhere" in self.read:  # by another run, before a worker of this one began with it
            return True
        late = len(self.quarantine) - self.read["quarantined"]  # readable, but nothing could be laid out
        documents = self.counts["first_pages"] + late
        return (
            late >= 0
            and documents == self.read["documents"]
            and self.counts["duplicates"] == self.read["duplicates"]
            and self.counts["pages"] == self.counts["pages_expected"]
        )

    @property
    def unread(self) -> UnreadSource | None:
        """What the storage did wrong, if it did; the rest of the unit is then not to be trusted."""
        uri = source_uri(self.planned.unit)
        if row := self.quarantine.first(STORAGE_REASONS):
            return UnreadSource(source_uri=uri, reason=row["reason"], detail=row["detail"] or "")
        if self.planned.unit.object.version == UNREAD:
            return UnreadSource(source_uri=uri, reason=str(Reason.UNREADABLE), detail="it could not be read when it was listed")
        return None

    def commit(self, store: ObjectStore, run_id: str, fingerprint: str) -> CommitRecord:
        """Write the quarantine and the commit record; returns the record that stands."""
        assert self.read is not None
        if "committed_elsewhere" in self.read:
            return read_unit(store, self.planned.unit_id)
        attempt, planned = new_attempt(), self.planned
        quarantine = self.quarantine.write(store, unit_id=planned.unit_id, attempt=attempt)
        shards = tuple(sorted(self.shards, key=lambda shard: (shard.tier, shard.key)))
        counts = Counts(
            documents_in=self.read["documents_in"],
            documents_committed=self.counts["first_pages"],
            documents_quarantined=len(self.quarantine),
            duplicates=self.counts["duplicates"],
            pages_in=self.counts["pages_expected"],
            pages_committed=self.counts["pages"],
            rows=sum(shard.rows for shard in shards),
            bytes=sum(shard.bytes for shard in shards),
            text_tokens=self.counts["text_tokens"],
            context_tokens=self.counts["context_tokens"],
            tokens_as_text=self.counts["tokens_as_text"],
        )
        item = planned.unit.object
        record = CommitRecord(
            unit_id=planned.unit_id,
            run_id=run_id,
            attempt=attempt,
            source_uri=source_uri(planned.unit),
            source_version=item.version,
            slice=planned.unit.slice,
            fingerprint=fingerprint,
            shards=shards,
            quarantine=quarantine,
            counts=counts,
            defers_to=planned.defers_to,
        )
        return commit_unit(store, record)


class Tally:
    """All units in flight.

    Args:
        units: the plan's units, by id.
    """

    def __init__(self, units: tuple[PlannedUnit, ...]) -> None:
        self._units = {planned.unit_id: UnitTally(planned) for planned in units}

    def __len__(self) -> int:
        return len(self._units)

    def add(self, row: dict[str, Any]) -> UnitTally | None:
        """Take one row of the WRITTEN schema in; returns the unit when it is complete, and forgets it.

        Raises:
            StoreError: when a worker could not write what it had.
        """
        unit = self._units[row["unit_id"]]
        kind, payload = row["kind"], row["payload"]
        if kind == "written":
            unit.counts.update({name: payload[name] for name in PAGE_COUNTS})
            unit.shards += [ShardRecord.from_json(shard) for shard in payload["shards"]]
            unit.pages.update({(tier, status): number for tier, status, number in payload.get("statuses", ())})
            total, decoded = payload.get("precision", (0.0, 0))
            unit.precision.total += total
            unit.precision.pages += decoded
        elif kind == "quarantined":
            unit.quarantine.append({**payload, "record": row["record"]})
        elif kind == "duplicate":
            unit.counts["duplicates"] += payload["rows"]
        elif kind == "unit_end":
            unit.read = payload
        elif kind == "again":  # a worker was lost with some of its rows: all of them come once more, the shards become orphans
            self._units[row["unit_id"]] = UnitTally(unit.planned)
            return None
        elif kind == "failed":
            raise StoreError(payload["error"])
        else:
            raise AssertionError(f"unknown kind {kind!r}")
        if not unit.complete:
            return None
        return self._units.pop(row["unit_id"])

    def pending(self) -> tuple[PlannedUnit, ...]:
        """The units that are not complete, in plan order."""
        return tuple(unit.planned for unit in self._units.values())

    def unfinished(self) -> list[str]:
        """What is missing of each unit that never became complete."""
        return [
            f"unit {name} of {unit.planned.unit.object.uri}: read {unit.read}, arrived {dict(unit.counts)}, "
            f"{len(unit.quarantine)} quarantined"
            for name, unit in self._units.items()
        ]
