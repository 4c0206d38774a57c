"""What a snapshot's units could not process: how much of it for which reason, and a few of the records."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from palimpsest.corpus.shards import open_shard
from palimpsest.corpus.snapshots import Snapshot
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


@dataclass(frozen=True, kw_only=True)
class Quarantine:
    """`reasons` in falling order of their counts; `samples` holds the first SAMPLES records of each, in the same order."""

    reasons: dict[str, int]
    samples: tuple[QuarantinedRecord, ...]


def read_quarantine(store: ObjectStore, snapshot: Snapshot) -> Quarantine:
    """Stream the quarantine of every unit of a snapshot.

    Raises:
        NoSuchObject, Damaged.
    """
    counts: Counter[str] = Counter()
    samples: dict[str, list[QuarantinedRecord]] = defaultdict(list)
    columns = ["source_uri", "source_id", "reason", "detail", "record"]
    for unit in snapshot.units:
        if unit.quarantine is None:
            continue
        with open_shard(store, unit.quarantine) as stream:
            try:
                for batch in pq.ParquetFile(stream).iter_batches(1024, columns=columns, use_threads=False):
                    reasons = batch.column("reason").to_pylist()
                    counts.update(reasons)
                    for place, reason in enumerate(reasons):
                        if len(samples[reason]) < SAMPLES:
                            samples[reason].append(QuarantinedRecord(**batch.slice(place, 1).to_pylist()[0]))
            except (pa.ArrowException, OSError) as error:
                raise Damaged(f"{store.uri(unit.quarantine.key)} is not readable as Parquet: {error}") from error
    ordered = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    return Quarantine(reasons=ordered, samples=tuple(record for reason in ordered for record in samples[reason]))
