"""`palimpsest conversations`: chat JSON lines in, a published set of memory samples out.

One process, unit by unit (a file, or a slice of a big one), sample by sample: memory holds at most one conversation, and of its
pages only where their tokens are stored. Several processes may write to the same corpus, with different or the same sources.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from palimpsest.config import ConfigError
from palimpsest.corpus.format import create_corpus
from palimpsest.corpus.repair import committed
from palimpsest.corpus.run_records import PUBLISHED, new_run_id, record_configuration, record_stats
from palimpsest.corpus.running import at_work
from palimpsest.corpus.sample_sets import counters_of, counts_of, reasons_of
from palimpsest.corpus.snapshots import latest, publish, superseded
from palimpsest.corpus.units import CommitRecord, commit_unit, unit_id
from palimpsest.flow.ledger import refuse_quarantine
from palimpsest.flow.recipe import Recipe
from palimpsest.operations.conversations.bank import Studio
from palimpsest.operations.conversations.samples import Samples
from palimpsest.operations.conversations.settings import MemoryConfig, latest_date, with_clock
from palimpsest.operations.conversations.turns import Refused, check_messages, read_conversations
from palimpsest.operations.conversations.writer import UnitWriter
from palimpsest.operations.findings import Metadata, SetAside, absent_fields, judge
from palimpsest.operations.resolving import located, prepare
from palimpsest.operations.run import Work, refuse_absent
from palimpsest.sources.documents import Reason
from palimpsest.sources.formats import format_of
from palimpsest.sources.jsonl import JsonlSource
from palimpsest.sources.listing import Listing, list_sources
from palimpsest.sources.objects import UNREAD
from palimpsest.sources.units import Unit
from palimpsest.storage.object_store import ObjectStore
from palimpsest.storage.opening import open_store
from palimpsest.storage.probe import probe

SAMPLE_VERSION = "m1"
_STORAGE = {str(Reason.VANISHED), str(Reason.CHANGED), str(Reason.UNREADABLE)}
Watch = Callable[[Counter[str]], None]


@dataclass(frozen=True, kw_only=True)
class MemoryResult:
    """The outcome of a build.

    Attributes:
        number: of the newest snapshot.
        units_new, units_done: made now, and found committed.
        counts, reasons: of all units of these sources; see `sample_sets.COUNTED`.
        passed_over: names that are no sources, by rule (sources/names.py).
        unread: sources that could not be read as they were listed; the next call tries them again.
        set_aside: objects that are mostly bad.
        absent_fields: messages about fields that were set and occur in no conversation.
    """

    out: str
    number: int
    units_new: int
    units_done: int
    policy: str
    budget: int
    counts: dict[str, int]
    reasons: dict[str, int]
    unread: tuple[str, ...]
    seconds: float
    passed_over: dict[str, Any] = field(default_factory=dict)
    set_aside: tuple[SetAside, ...] = ()
    absent_fields: tuple[str, ...] = ()

    @property
    def findings(self) -> bool:
        return bool(self.unread or self.set_aside or self.absent_fields)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class _Unread(Exception):
    """The source could not be read as it was listed; its unit is not committed."""


def build(config: MemoryConfig, watch: Watch = lambda counts: None) -> MemoryResult:
    """Make samples of the conversations in `config.sources`, and publish them at `config.out`.

    A rerun skips what is committed; an interrupted one goes on from there.

    Raises:
        ValueError: for settings, sources or an output that cannot be used.
        AlreadyRunning: a run with other settings is at work on the set.
        RunFailed: when more than `limits.quarantine_share` of the conversations and targets was quarantined.
        StoreError.
    """
    began = time.monotonic()
    config = located(with_clock(config))
    listing = list_sources(config.sources, config.source, config.out)
    items = listing.objects
    other = [item.uri for item in items if not isinstance(format_of(item.uri, config.source), JsonlSource)]
    if other:
        raise ConfigError(f"source {other[0]!r} is not JSON lines; conversations are read from .jsonl or .ndjson files")
    check_messages(items, config)
    if config.storage.tokens == "pq":
        raise ConfigError(
            "storage.tokens = 'pq': a codebook is fitted to documents; for conversations choose int8, int4, bf16 or none"
        )
    prepared = prepare(config)
    store = open_store(config.out)
    create_corpus(store, "samples")
    probe(store)
    run_id = new_run_id()
    print_ = sample_fingerprint(config, prepared)
    with at_work(store, run_id, print_, "conversations"):
        return _build(config, prepared, store, run_id, listing, began, watch)


def _build(
    config: MemoryConfig,
    prepared: Recipe,
    store: ObjectStore,
    run_id: str,
    listing: Listing,
    began: float,
    watch: Watch,
) -> MemoryResult:
    print_, items = sample_fingerprint(config, prepared), listing.objects
    studio: Studio | None = None
    units: list[CommitRecord] = []
    unread: list[str] = []
    total: Counter[str] = Counter()
    metadata = Metadata()
    new = 0
    for item in items:
        whole: list[CommitRecord] = []
        for piece in JsonlSource().plan(item, config.source):
            name, done = committed(store, unit_id(item.key, item.version, piece.slice, print_))
            if done is None:
                try:
                    studio = studio or Studio(prepared.config, prepared.fingerprint, prepared.layout, prepared.policy)
                    done = _make_unit(config, prepared, studio, store, piece, name, run_id, print_, total, metadata, watch)
                except _Unread as problem:
                    unread.append(str(problem))
                    break
                new += 1
            whole.append(done)
        else:
            units += whole
    counts, reasons = Counter[str](), reasons_of(store, units)
    for unit in units:
        counts.update(counters_of(unit.counts))
    judged, set_aside = judge(units)
    _check(counters_of(judged), reasons, len(unread), config.limits.quarantine_share)
    refuse_absent(config, Work(metadata=metadata))
    snapshot = latest(store)
    if units:
        record_configuration(store, config, run_id)
        snapshot = publish(store, run_id, units, drop=superseded(snapshot, units))
    result = MemoryResult(
        out=config.out,
        number=snapshot.number if snapshot else 0,
        units_new=new,
        units_done=len(units) - new,
        policy="+".join(prepared.policy.names),
        budget=config.conversations.budget,
        counts=dict(counts),
        reasons=dict(reasons),
        unread=tuple(unread),
        passed_over=listing.passed_over.to_json(),
        set_aside=set_aside,
        absent_fields=absent_fields(config.source, metadata),
        seconds=round(time.monotonic() - began, 3),
    )
    if snapshot is not None and snapshot.run_id == run_id:
        named = {"command": "conversations", "outcome": PUBLISHED, "snapshot": snapshot.number}
        record_stats(store, run_id, {**result.to_json(), **named})
    return result


def sample_fingerprint(config: MemoryConfig, prepared: Recipe) -> str:
    """16 hexadecimal digits over what changes a sample: the fingerprint of its pages, and the settings of conversations."""
    settings = {**config.conversations.model_dump(), "block": 0}
    what = (SAMPLE_VERSION, prepared.fingerprint, *(f"{name}={value}" for name, value in sorted(settings.items())))
    return hashlib.sha256("\0".join(what).encode()).hexdigest()[:16]


def _make_unit(
    config: MemoryConfig,
    prepared: Recipe,
    studio: Studio,
    store: ObjectStore,
    piece: Unit,
    name: str,
    run_id: str,
    print_: str,
    total: Counter[str],
    metadata: Metadata,
    watch: Watch,
) -> CommitRecord:
    item = piece.object
    if item.version == UNREAD:
        raise _Unread(f"{item.uri}: it could not be read when it was listed")
    with UnitWriter(store, name) as writer:
        source = {"source_uri": item.uri, "source_version": item.version}
        found = read_conversations(piece, config.source, config.conversations, latest_date(config))
        for conversation in found:
            writer.counts["conversations_in"] += 1
            total["conversations_in"] += 1
            if isinstance(conversation, Refused):
                if conversation.reason in _STORAGE:
                    raise _Unread(f"{item.uri}: {conversation.reason}: {conversation.detail}")
                row = {**source, "source_id": conversation.source_id}
                writer.refuse(conversation.reason, conversation.detail, source=row, record=conversation.record)
                continue
            writer.counts["conversations"] += 1
            metadata.documents += 1
            metadata.present.update(conversation.present)
            writer.counts["media_gaps"] += conversation.gaps
            for sample in Samples(config, prepared, studio, writer, conversation, source, print_):
                writer.add_sample(sample)
                total["samples"] += 1
            watch(total)
        pages, samples, quarantine = writer.finish()
        record = CommitRecord(
            unit_id=name,
            run_id=run_id,
            attempt=writer.attempt,
            source_uri=item.uri,
            source_version=item.version,
            slice=piece.slice,
            fingerprint=print_,
            holds="samples",
            shards=pages,
            samples=samples,
            quarantine=quarantine,
            counts=counts_of(writer.counts, pages),
        )
        return commit_unit(store, record)


def _check(counts: Counter[str], reasons: Counter[str], unread: int, share: float) -> None:
    """Raise RunFailed where too many conversations or replies are quarantined; an unread source, and an object that is mostly
    bad, count as one conversation."""
    lost = {
        "conversations": (counts["conversations_in"] - counts["conversations"] + unread, counts["conversations_in"] + unread),
        "replies": (counts["targets_in"] - counts["samples"], counts["targets_in"]),
    }
    named = reasons + Counter({"sources that could not be read": unread})
    for what, (part, whole) in lost.items():
        refuse_quarantine(part, whole, named, share=share, what=what, then="Nothing was published; the work is kept.")
