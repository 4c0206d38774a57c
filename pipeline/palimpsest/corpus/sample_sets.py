"""Corpora of memory samples: the commit protocol of every corpus, with one more object for each unit.

samples/<unit_id>-<attempt>.parquet            rows of SAMPLES; a sample refers to pages by shard and row of its unit
data/<tier>/<unit_id>-<attempt>-<n>.parquet    these pages, each once in each mode that a sample shows it in
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from palimpsest.corpus.format import open_corpus
from palimpsest.corpus.shards import ShardRecord, read_shard
from palimpsest.corpus.snapshots import Snapshot, latest, read_snapshot
from palimpsest.corpus.units import CommitRecord, Counts
from palimpsest.errors import UsageError
from palimpsest.schemas import SAMPLES
from palimpsest.storage.object_store import ObjectStore

PREFIX = "samples/"
TIER = "samples"
GROUP_ROWS = 64  # of samples in a row group
COUNTED = {
    "conversations_in": "documents_in",
    "conversations": "documents_committed",
    "targets_in": "samples_in",
    "samples": "samples_committed",
    "page_rows": "pages_committed",
    "page_text_tokens": "text_tokens",
    "page_context_tokens": "context_tokens",
    "text_tokens": "sample_text_tokens",
    "context_tokens": "sample_context_tokens",
    "dropped_text_tokens": "sample_dropped_tokens",
    "media_gaps": "media_gaps",
}
"""Counters of conversations, and the counts of a commit record that they become."""


def published_samples(store: ObjectStore, number: int | None = None) -> Snapshot:
    """A snapshot of a corpus of memory samples, the newest where no number is given.

    Raises:
        UsageError: there is no such corpus, or nothing is published in it.
        NoSuchObject, Damaged.
    """
    open_corpus(store, "samples")
    snapshot = latest(store) if number is None else read_snapshot(store, number)
    if snapshot is None:
        uri = store.uri("corpus.json").removesuffix("/corpus.json")
        raise UsageError(f"{uri!r} has no snapshot yet: run `palimpsest conversations … --out {uri}` to its end")
    return snapshot


def write_samples(store: ObjectStore, rows: Sequence[Mapping[str, Any]], *, unit_id: str, attempt: str) -> ShardRecord | None:
    """Rows of SAMPLES as the samples of a unit; None where there is none."""
    if not rows:
        return None
    sink = pa.BufferOutputStream()
    options = {"version": "2.6", "compression": "zstd", "compression_level": 3, "write_page_checksum": True}
    with pq.ParquetWriter(sink, SAMPLES, **options) as writer:
        for start in range(0, len(rows), GROUP_ROWS):
            writer.write_table(pa.Table.from_pylist(list(rows[start : start + GROUP_ROWS]), SAMPLES))
    body = memoryview(sink.getvalue())
    key = f"{PREFIX}{unit_id}-{attempt}.parquet"
    store.put(key, body)
    return ShardRecord(key=key, tier=TIER, rows=len(rows), bytes=len(body), sha256=hashlib.sha256(body).hexdigest())


def counts_of(counters: Mapping[str, int], shards: Iterable[ShardRecord]) -> Counts:
    """The counts of a unit of samples from its counters (the keys of COUNTED)."""
    known = {name: counters.get(counter, 0) for counter, name in COUNTED.items()}
    known |= {
        "pages_in": known["pages_committed"],
        "rows": known["pages_committed"],
        "bytes": sum(shard.bytes for shard in shards),
    }
    known["documents_quarantined"] = known["documents_in"] - known["documents_committed"]
    known["samples_quarantined"] = known["samples_in"] - known["samples_committed"]
    return Counts(**known)


def counters_of(counts: Counts) -> Counter[str]:
    """The inverse of `counts_of`."""
    return Counter({counter: value for counter, name in COUNTED.items() if (value := getattr(counts, name))})


def reasons_of(store: ObjectStore, units: Iterable[CommitRecord]) -> Counter[str]:
    """Quarantined rows of units by reason. Raises NoSuchObject, Damaged."""
    found: Counter[str] = Counter()
    for unit in units:
        if unit.quarantine is not None:
            found.update(read_shard(store, unit.quarantine, ["reason"])["reason"].to_pylist())
    return found
