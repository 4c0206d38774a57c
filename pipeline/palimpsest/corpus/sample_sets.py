"""What one slice of a source became, and the published set of samples.

    memory.json                                    this place is a set of memory samples, in this format; created once
    _sets/00000003.json                            a published version: the ids of its units; created only if absent
    _units/<unit_id>.json                          what one slice of a source became; created only if absent
    data/<tier>/<unit_id>-<attempt>-<n>.parquet    pages, with the row contract of every corpus
    samples/<unit_id>-<attempt>.parquet            rows of SAMPLES
    quarantine/<unit_id>-<attempt>.parquet         what could not become samples, with its reason

As in a corpus: an object is written whole before anything names it, of two writers the first wins, a rerun skips what is
committed, and a crash leaves orphans behind that nothing names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from palimpsest.corpus.format import NotACorpus
from palimpsest.corpus.shards import ShardRecord
from palimpsest.corpus.units import NotReconciled
from palimpsest.storage.object_store import NoSuchObject, ObjectStore, StoreError
from palimpsest.storage.stable_json import Damaged, read_json, to_bytes

KEY, FORMAT, VERSION = "memory.json", "palimpsest memory samples", 1
SETS, UNITS = "_sets/", "_units/"
PUBLISH_TRIES = 32


@dataclass(frozen=True, kw_only=True)
class MemoryUnit:
    """`_units/<unit_id>.json`.

    Attributes:
        pages: page shards, by their number.
        counts: conversations_in, conversations, targets_in, samples, quarantined, page_rows, context_tokens, text_tokens,
            dropped_text_tokens. A quarantined row is a conversation, or a target of one that is not.
        reasons: quarantined rows by reason.
    """

    unit_id: str
    run_id: str
    source_uri: str
    source_version: str
    slice: str
    fingerprint: str
    codec: str
    codec_revision: str
    pages: tuple[ShardRecord, ...]
    samples: ShardRecord | None
    quarantine: ShardRecord | None
    counts: Mapping[str, int]
    reasons: Mapping[str, int] = field(default_factory=dict)

    def reconcile(self) -> None:
        """Every conversation and every target that went in came out.

        Raises:
            NotReconciled: with the sums that differ.
        """
        c = Counter(self.counts)
        refused = c["conversations_in"] - c["conversations"] + c["targets_in"] - c["samples"]
        rows = {
            "quarantined": (c["quarantined"], refused),
            "rows of the quarantine": (self.quarantine.rows if self.quarantine else 0, refused),
            "samples": (self.samples.rows if self.samples else 0, c["samples"]),
            "page rows": (sum(shard.rows for shard in self.pages), c["page_rows"]),
            "reasons": (sum(self.reasons.values()), refused),
        }
        wrong = [f"{name}: {found} != {promised}" for name, (found, promised) in rows.items() if found != promised]
        wrong += [f"{name} is negative" for name, value in c.items() if value < 0]
        if wrong:
            raise NotReconciled(f"unit {self.unit_id} of {self.source_uri}: {'; '.join(wrong)}")

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> MemoryUnit:
        def shard(value: dict[str, Any] | None) -> ShardRecord | None:
            return None if value is None else ShardRecord.from_json(value)

        pages = tuple(ShardRecord.from_json(page) for page in record["pages"])
        named = {"pages": pages, "samples": shard(record["samples"]), "quarantine": shard(record["quarantine"])}
        return cls(**{**record, **named})


@dataclass(frozen=True, kw_only=True)
class PublishedSet:
    """`_sets/<number>.json`."""

    number: int
    run_id: str
    units: tuple[str, ...]


def create_set(store: ObjectStore) -> None:
    """Make the place a set of samples, or open the one that is there.

    Raises:
        NotACorpus: the place holds something else.
    """
    if not store.exists(KEY):
        other = next((info.key for info in store.list() if info.key != KEY and not info.key.startswith("_probe/")), None)
        if other is not None and not store.exists(KEY):
            raise NotACorpus(f"{store.uri(other)} is in the way: the output must be empty or a set of memory samples ({KEY})")
        store.create(KEY, to_bytes({"format": FORMAT, "version": VERSION}))
    open_set(store)


def open_set(store: ObjectStore) -> None:
    """Check that samples stand here.

    Raises:
        NotACorpus: there are none, or of a format that this version does not read.
    """
    try:
        record = read_json(store, KEY)
    except NoSuchObject:
        raise NotACorpus(f"{store.uri(KEY)} does not exist: this place is no set of memory samples") from None
    if record.get("format") != FORMAT or record.get("version") != VERSION:
        raise NotACorpus(f"{store.uri(KEY)} says {record}; this program reads format {FORMAT!r}, version {VERSION}")


def commit(store: ObjectStore, unit: MemoryUnit) -> MemoryUnit:
    """Commit the unit, or accept the commit of whoever was first; returns the one that stands. Raises NotReconciled."""
    unit.reconcile()
    if store.create(f"{UNITS}{unit.unit_id}.json", to_bytes(asdict(unit))):
        return unit
    return read_unit(store, unit.unit_id)


def read_unit(store: ObjectStore, unit_id: str) -> MemoryUnit:
    """Raises NoSuchObject where it is not committed, Damaged for another record."""
    key = f"{UNITS}{unit_id}.json"
    try:
        unit = MemoryUnit.from_json(read_json(store, key))
    except (TypeError, KeyError) as error:
        raise Damaged(f"{store.uri(key)} is no record of memory samples: {error}") from error
    if unit.unit_id != unit_id:
        raise Damaged(f"{store.uri(key)} is the record of unit {unit.unit_id}")
    return unit


def committed(store: ObjectStore, unit_id: str) -> MemoryUnit | None:
    return read_unit(store, unit_id) if store.exists(f"{UNITS}{unit_id}.json") else None


def newest_set(store: ObjectStore) -> PublishedSet | None:
    """The newest published version, or None."""
    numbers = [int(info.key.removeprefix(SETS).removesuffix(".json")) for info in store.list(SETS)]
    return read_set(store, max(numbers)) if numbers else None


def read_set(store: ObjectStore, number: int) -> PublishedSet:
    """Raises NoSuchObject, Damaged."""
    key = f"{SETS}{number:08d}.json"
    try:
        record = read_json(store, key)
        return PublishedSet(number=record["number"], run_id=record["run_id"], units=tuple(record["units"]))
    except (TypeError, KeyError) as error:
        raise Damaged(f"{store.uri(key)} is no published set: {error}") from error


def publish(store: ObjectStore, run_id: str, units: Iterable[MemoryUnit]) -> PublishedSet:
    """Publish units in place of what the newest set holds of their sources. Nothing is written where that changes nothing.

    Raises:
        StoreError: when PUBLISH_TRIES races were lost.
    """
    ours = {unit.unit_id: unit for unit in units}
    sources = {unit.source_uri for unit in ours.values()}
    known: dict[str, str] = {}
    for _ in range(PUBLISH_TRIES):
        base = newest_set(store)
        kept = []
        for name in base.units if base else ():
            if name not in ours:
                known[name] = known.get(name) or read_unit(store, name).source_uri
                kept += [name] if known[name] not in sources else []
        names = tuple(sorted([*kept, *ours]))
        if base and names == base.units:
            return base
        published = PublishedSet(number=base.number + 1 if base else 1, run_id=run_id, units=names)
        if store.create(f"{SETS}{published.number:08d}.json", to_bytes(asdict(published))):
            return published
    raise StoreError(f"{store.uri(SETS)}: {PUBLISH_TRIES} other publishers were faster; run again")
