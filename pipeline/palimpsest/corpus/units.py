"""The commit record of one unit: the single write that makes its pages part of the corpus's history.

A unit's id is a hash of what decides its bytes: the source object and its version, the slice of it, the fingerprint of the
configuration, and the documents left out as duplicates. A rerun finds the record and skips the unit; of two writers the
first wins.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, astuple, dataclass, field
from typing import ClassVar, Literal

from pydantic import ConfigDict

from palimpsest.corpus.shards import ShardRecord
from palimpsest.storage.object_store import ObjectStore, StoreError, check_key
from palimpsest.storage.stable_json import Damaged, decoded, read_json, to_bytes

PREFIX = "_units/"
Holds = Literal["pages", "samples"]


class NotReconciled(StoreError):
    """The input and output counts of a unit differ; the message shows the sums."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """The input and output counts of a unit. Pages are counted after the layout of their document, so a duplicate has none.

    `context_tokens` counts a page kept as text by its text tokens; `tokens_as_text` are the tokens of such pages alone.

    Memory samples: a document is a conversation, and a page is counted once in each mode. `samples_in` are the replies that could
    become a sample. The `sample_…_tokens` are sums over all samples: tokens before the target (text), those shown (context), and
    those left out (dropped). `media_gaps` are images and sounds that became a mark.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    documents_in: int = 0
    documents_committed: int = 0
    documents_quarantined: int = 0
    duplicates: int = 0
    pages_in: int = 0
    pages_committed: int = 0
    pages_quarantined: int = 0
    rows: int = 0
    bytes: int = 0
    text_tokens: int = 0
    context_tokens: int = 0
    tokens_as_text: int = 0
    samples_in: int = 0
    samples_committed: int = 0
    samples_quarantined: int = 0
    sample_text_tokens: int = 0
    sample_context_tokens: int = 0
    sample_dropped_tokens: int = 0
    media_gaps: int = 0

    @property
    def ratio(self) -> float | None:
        """Text tokens per context token of all pages; None without context tokens."""
        return self.text_tokens / self.context_tokens if self.context_tokens else None

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{name: value + getattr(other, name) for name, value in asdict(self).items()})


@dataclass(frozen=True, kw_only=True)
class CommitRecord:
    """`_units/<unit_id>.json`.

    Attributes:
        slice: the part of the source object, "" for all of it.
        holds: "pages" of documents, or memory "samples" with the pages that they show.
        shards: pages. A sample refers to a page by the index of its shard here, and its row there.
        defers_to: the units that store the documents which this one omitted as duplicates.

    Raises:
        BadKey: the id would lead out of the store.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    unit_id: str
    run_id: str
    attempt: str
    source_uri: str
    source_version: str
    slice: str
    fingerprint: str
    shards: tuple[ShardRecord, ...]
    holds: Holds = "pages"
    samples: ShardRecord | None = None
    quarantine: ShardRecord | None = None
    counts: Counts = field(default_factory=Counts)
    defers_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_key(unit_key(self.unit_id))

    def reconcile(self) -> None:
        """Check that every input document and page came out, and that every row and byte is in a shard.

        Raises:
            NotReconciled: sums differ; the message lists them.
        """
        c = self.counts
        documents_out = c.documents_committed + c.documents_quarantined + c.duplicates
        quarantined = self.quarantine.rows if self.quarantine else 0
        samples = self.samples.rows if self.samples else 0
        refused = c.documents_quarantined + c.pages_quarantined + c.samples_quarantined
        sums = [
            ("documents in", c.documents_in, "committed + quarantined + duplicates", documents_out),
            ("pages in", c.pages_in, "committed + quarantined", c.pages_committed + c.pages_quarantined),
            ("rows", c.rows, "pages committed", c.pages_committed),
            ("rows", c.rows, "rows of the shards", sum(shard.rows for shard in self.shards)),
            ("bytes", c.bytes, "bytes of the shards", sum(shard.bytes for shard in self.shards)),
            ("samples in", c.samples_in, "committed + quarantined", c.samples_committed + c.samples_quarantined),
            ("samples committed", c.samples_committed, "rows of the samples", samples),
            ("quarantined rows", quarantined, "documents + pages + samples quarantined", refused),
        ]
        wrong = [f"{left} {a} != {right} {b}" for left, a, right, b in sums if a != b]
        wrong += [f"count {number} is negative" for number in astuple(c) if number < 0]
        if wrong:
            raise NotReconciled(f"unit {self.unit_id} of {self.source_uri}: {'; '.join(wrong)}")

    @property
    def objects(self) -> tuple[ShardRecord, ...]:
        """Its shards and, if present, its samples and its quarantine."""
        return (*self.shards, *(part for part in (self.samples, self.quarantine) if part is not None))


def unit_id(source_key: str, version: str, slice: str, fingerprint: str, left_out: Iterable[str] = ()) -> str:
    """24 hex digits that name a unit. `left_out`: ids of the documents that the plan gives to an earlier unit."""
    parts = [source_key, version, slice, fingerprint, *sorted(left_out)]
    return hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()[:24]


def unit_key(unit_id: str) -> str:
    return f"{PREFIX}{unit_id}.json"


def commit_unit(store: ObjectStore, record: CommitRecord) -> CommitRecord:
    """Commit the unit, or accept an earlier commit. Returns the record in the store.

    Raises:
        NotReconciled: the counts differ; nothing is written.
    """
    record.reconcile()
    if store.create(unit_key(record.unit_id), to_bytes(asdict(record))):
        return record
    return read_unit(store, record.unit_id)


def read_unit(store: ObjectStore, unit_id: str) -> CommitRecord:
    """The commit record of a unit.

    Raises:
        NoSuchObject: the unit is not committed.
        Damaged: the record is unreadable, or of another unit.
    """
    key = unit_key(unit_id)
    record = decoded(CommitRecord, read_json(store, key), store.uri(key), "commit record")
    if record.unit_id != unit_id:
        raise Damaged(f"{store.uri(key)} is the record of unit {record.unit_id}")
    return record


def is_committed(store: ObjectStore, unit_id: str) -> bool:
    return store.exists(unit_key(unit_id))


def committed_units(store: ObjectStore) -> Iterator[str]:
    """The ids of all committed units, published or not, in no promised order."""
    for info in store.list(PREFIX):
        yield info.key.removeprefix(PREFIX).removesuffix(".json")
