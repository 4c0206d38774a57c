"""The quarantine of a snapshot's units: counts by reason and source, and the records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from palimpsest.corpus.shards import open_shard
from palimpsest.corpus.snapshots import Snapshot
from palimpsest.corpus.units import CommitRecord
from palimpsest.storage.object_store import ObjectStore
from palimpsest.storage.stable_json import Damaged

SAMPLES = 5  # records kept for each reason


@dataclass(frozen=True, kw_only=True)
class QuarantinedRecord:
    """One record: `record` is the beginning of its bytes."""

    source_uri: str | None
    source_id: str | None
    reason: str
    detail: str | None
    record: bytes | None


@dataclass(kw_only=True)
class QuarantinedSource:
    """Records of one source that share a reason: how many, and the first one's detail."""

    source_uri: str
    count: int = 0
    detail: str = ""


@dataclass(kw_only=True)
class Reason:
    """All records that were quarantined for one reason.

    Attributes:
        sources: every source that has one, by name.
        samples: the first SAMPLES records.
    """

    name: str
    count: int = 0
    sources: dict[str, QuarantinedSource] = field(default_factory=dict)
    samples: list[QuarantinedRecord] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Quarantine:
    """The quarantine by reason, the most frequent one first."""

    by_reason: tuple[Reason, ...]

    @property
    def reasons(self) -> dict[str, int]:
        return {reason.name: reason.count for reason in self.by_reason}


def read_quarantine(store: ObjectStore, snapshot: Snapshot) -> Quarantine:
    """Stream the quarantine of every unit of a snapshot. Memory: the names of the sources that are in it.

    Raises:
        NoSuchObject, Damaged.
    """
    found: dict[str, Reason] = {}
    for record in records(store, snapshot.units):
        reason = found.setdefault(record.reason, Reason(name=record.reason))
        reason.count += 1
        name = record.source_uri or ""
        source = reason.sources.setdefault(name, QuarantinedSource(source_uri=name, detail=record.detail or ""))
        source.count += 1
        if len(reason.samples) < SAMPLES:
            reason.samples.append(record)
    return Quarantine(by_reason=tuple(sorted(found.values(), key=lambda reason: (-reason.count, reason.name))))


def records(store: ObjectStore, units: Iterable[CommitRecord], reason: str = "", source: str = "") -> Iterator[QuarantinedRecord]:
    """Quarantined records in the order of the units.

    Args:
        reason: only those with this reason.
        source: only those whose source URI contains this.

    Raises:
        NoSuchObject, Damaged.
    """
    columns = ["source_uri", "source_id", "reason", "detail", "record"]
    for unit in units:
        if unit.quarantine is None:
            continue
        with open_shard(store, unit.quarantine) as stream:
            try:
                for batch in pq.ParquetFile(stream).iter_batches(1024, columns=columns, use_threads=False):
                    for row in batch.to_pylist():
                        if reason in ("", row["reason"]) and source in (row["source_uri"] or ""):
                            yield QuarantinedRecord(**row)
            except (pa.ArrowException, OSError) as error:
                raise Damaged(f"{store.uri(unit.quarantine.key)} is not readable as Parquet: {error}") from error
