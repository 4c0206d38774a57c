"""`palimpsest conversations`: chat JSON lines in, a published set of memory samples out.

One process, unit by unit (a file, or a slice of a big one), sample by sample: no more than one conversation is held, and of its
pages only where their tokens stand. Several processes may work on the same place with different sources, or with the same ones.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from pipeline.config import ConfigError
from pipeline.conversations import records
from pipeline.conversations.bank import Bank, Studio
from pipeline.conversations.compose import Candidate, Composition, compose, is_pinned
from pipeline.conversations.settings import MemoryConfig, latest_date, with_clock
from pipeline.conversations.transcript import transcribe
from pipeline.conversations.turns import ChatReason, Conversation, Refused, read_conversations
from pipeline.conversations.units import MemoryUnit, commit, committed, create_set, newest_set, publish
from pipeline.conversations.writer import UnitWriter
from pipeline.pages.pagination import layout_fingerprint
from pipeline.run import Prepared, RunFailed, located, prepare
from pipeline.run_record import new_run_id
from pipeline.sources.documents import QUARANTINE_BYTES, Reason, excerpt
from pipeline.sources.formats import format_of
from pipeline.sources.jsonl import JsonlSource
from pipeline.sources.listing import expand
from pipeline.sources.objects import UNREAD
from pipeline.sources.units import Unit
from pipeline.store.object_store import ObjectStore, open_store, probe
from pipeline.store.units import unit_id
from pipeline.tiers.ladder import TEXT
from pipeline.tiers.policy import PageFacts

SAMPLE_VERSION = "m1"
_STORAGE = {str(Reason.VANISHED), str(Reason.CHANGED), str(Reason.UNREADABLE)}
Watch = Callable[[Counter[str]], None]


@dataclass(frozen=True, kw_only=True)
class MemoryResult:
    """What was made.

    Attributes:
        number: of the newest published set.
        units_new, units_done: made now, and found committed.
        counts, reasons: of all units of these sources; see `MemoryUnit`.
        unread: sources that could not be read as they were listed; the next call tries them again.
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

    @property
    def findings(self) -> bool:
        return bool(self.unread)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class _Unread(Exception):
    """The source could not be read as it was listed; its unit is not committed."""


def build(config: MemoryConfig, watch: Watch = lambda counts: None) -> MemoryResult:
    """Make samples of the conversations in `config.sources`, and publish them at `config.out`.

    A rerun skips what is committed; an interrupted one goes on from there.

    Raises:
        ValueError: for settings, sources or an output that cannot be used.
        RunFailed: when more than `limits.quarantine_share` of the conversations and targets was quarantined.
        StoreError.
    """
    began = time.monotonic()
    config = located(with_clock(config))
    items = expand(config.sources, config.source)
    other = [item.uri for item in items if not isinstance(format_of(item, config.source), JsonlSource)]
    if other:
        raise ConfigError(f"source {other[0]!r} is not JSON lines; conversations are read from .jsonl or .ndjson files")
    prepared = prepare(config)
    store = open_store(config.out)
    create_set(store)
    probe(store)
    run_id = new_run_id()
    print_ = sample_fingerprint(config, prepared)
    studio: Studio | None = None
    units: list[MemoryUnit] = []
    unread: list[str] = []
    total: Counter[str] = Counter()
    new = 0
    for item in items:
        whole: list[MemoryUnit] = []
        for piece in JsonlSource().plan(item, config.source):
            name = unit_id(item.key, item.version, piece.slice, print_)
            done = committed(store, name)
            if done is None:
                try:
                    studio = studio or Studio(prepared.config, prepared.fingerprint, prepared.grid, prepared.policy)
                    done = _make_unit(config, prepared, studio, store, piece, name, run_id, print_, total, watch)
                except _Unread as problem:
                    unread.append(str(problem))
                    break
                new += 1
            whole.append(done)
        else:
            units += whole
    counts, reasons = Counter[str](), Counter[str]()
    for unit in units:
        counts.update(unit.counts)
        reasons.update(unit.reasons)
    _refuse_quarantine(counts, reasons, len(unread), config.limits.quarantine_share)
    published = publish(store, run_id, units) if units else newest_set(store)
    return MemoryResult(
        out=config.out,
        number=published.number if published else 0,
        units_new=new,
        units_done=len(units) - new,
        policy="+".join(prepared.policy.names),
        budget=config.conversations.budget,
        counts=dict(counts),
        reasons=dict(reasons),
        unread=tuple(unread),
        seconds=round(time.monotonic() - began, 3),
    )


def sample_fingerprint(config: MemoryConfig, prepared: Prepared) -> str:
    """16 hexadecimal digits over what changes a sample: the fingerprint of its pages, and the settings of conversations."""
    settings = {**asdict(config.conversations), "block": 0}
    what = (SAMPLE_VERSION, prepared.fingerprint, *(f"{name}={value}" for name, value in sorted(settings.items())))
    return hashlib.sha256("\0".join(what).encode()).hexdigest()[:16]


def _make_unit(
    config: MemoryConfig,
    prepared: Prepared,
    studio: Studio,
    store: ObjectStore,
    piece: Unit,
    name: str,
    run_id: str,
    print_: str,
    total: Counter[str],
    watch: Watch,
) -> MemoryUnit:
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
            for sample in Samples(config, prepared, studio, writer, conversation, source, print_):
                writer.add_sample(sample)
                total["samples"] += 1
            watch(total)
        pages, samples, quarantine = writer.finish()
        return commit(
            store,
            MemoryUnit(
                unit_id=name,
                run_id=run_id,
                source_uri=item.uri,
                source_version=item.version,
                slice=piece.slice,
                fingerprint=print_,
                codec=prepared.codec,
                codec_revision=prepared.revision,
                pages=pages,
                samples=samples,
                quarantine=quarantine,
                counts=dict(writer.counts),
                reasons=dict(writer.quarantine.reasons),
            ),
        )


class Samples:
    """The samples of one conversation, made as they are asked for, a block at a time."""

    def __init__(
        self,
        config: MemoryConfig,
        prepared: Prepared,
        studio: Studio,
        writer: UnitWriter,
        conversation: Conversation,
        source: dict[str, str],
        fingerprint: str,
    ) -> None:
        self.config, self.prepared, self.writer = config, prepared, writer
        self.settings, self.policy = config.conversations, prepared.policy
        share = prepared.config.layout.max_escaped_share
        self.transcript = transcribe(conversation, prepared.grid, layout_fingerprint(prepared.grid), share)
        self.bank = Bank(self.transcript, studio, writer.keep_pages, {**source, "unit_id": writer.unit_id})
        self.source = {**source, "source_id": conversation.source_id}
        self.identity = {"unit_id": writer.unit_id, "conversation_id": self.transcript.doc_id, "fingerprint": fingerprint}
        self._tails: dict[int, tuple[int, int]] = {}
        self.features = [self.policy.features(self._text(page.char_start, page.char_end)) for page in self.transcript.pages]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        targets = self.transcript.conversation.targets
        targets = targets if self.settings.targets == "all" else targets[-1:]
        self.writer.counts["targets_in"] += len(targets)
        for start in range(0, len(targets), self.settings.block):
            block = targets[start : start + self.settings.block]
            self._tails.clear()
            for target, composition in zip(block, self._compose(block), strict=True):
                row = self._row(target, composition)
                if row is not None:
                    yield row

    def _compose(self, block: list[int]) -> list[Composition]:
        """Compose until nothing more has to be measured, then draw what is not drawn yet."""
        while True:
            found = [compose(self._candidates(target), self.policy, self._room(target)) for target in block]
            wanted = set().union(*(composition.wanted for composition in found))
            if not wanted:
                break
            self.bank.need(wanted)
        self.bank.need(
            (number, tier) for made in found for number, tier in enumerate(made.tiers) if tier is not None and tier != TEXT
        )
        return found

    def _candidates(self, target: int) -> list[Candidate]:
        modes = [mode.name for mode in self.policy.ladder.known] if self.policy.climbs else []
        found = []
        for page in self.transcript.pages_before(target):
            facts = PageFacts(
                age=self._age(page.last_turn, target),
                importance=page.importance,
                text_tokens=page.text_tokens,
                readings=self.bank.readings(page.number, modes),
                features=self.features[page.number],
            )
            pinned = is_pinned(self.policy, page.importance, self.config.tiers.pin_importance)
            found.append(Candidate(facts, drawable=not page.uncovered, pinned=pinned))
        return found

    def _age(self, last_turn: int, target: int) -> timedelta:
        return self.transcript.age(last_turn, target, self.settings.age_per_turn)

    def _room(self, target: int) -> int:
        """What the tail leaves of the budget for pages."""
        return max(0, self.settings.budget - self._tail(target)[1])

    def _tail(self, target: int) -> tuple[int, int]:
        """Where the tail begins, and its text tokens; cut at the beginning of a turn where it does not fit."""
        if target not in self._tails:
            self._tails[target] = self._cut_tail(target)
        return self._tails[target]

    def _cut_tail(self, target: int) -> tuple[int, int]:
        pages = self.transcript.pages_before(target)
        start = pages[-1].char_end if pages else 0
        end = self.transcript.contents[target]
        tokens = _count(self._text(start, end))
        first = self.transcript.turn_at(start)
        while tokens > self.settings.budget and first + 1 < target:
            first += 1
            start = self.transcript.starts[first]
            tokens = _count(self._text(start, end))
        return start, tokens

    def _row(self, target: int, composition: Composition) -> dict[str, Any] | None:
        """The row of a sample, or None where it went to the quarantine."""
        turn = self.transcript.conversation.turns[target]
        pages = self.transcript.pages_before(target)
        start, tail_tokens = self._tail(target)
        reply_tokens = _count(turn.text)
        if problem := self._too_long(target, composition, start, tail_tokens, reply_tokens):
            record = excerpt(self._text(self.transcript.starts[target - 1], self.transcript.contents[target]).encode())
            source_id = f"{self.source['source_id'] or self.transcript.doc_id}#{target}"
            self.writer.refuse(
                str(ChatReason.TURN_TOO_LONG),
                problem,
                source={**self.source, "source_id": source_id},
                record=record[:QUARANTINE_BYTES],
                doc_id=self.transcript.doc_id,
            )
            return None
        segments = [self._page_segment(number, tier, target) for number, tier in enumerate(composition.tiers) if tier is not None]
        if tail_tokens:
            segments.append(self._text_segment(start, self.transcript.contents[target], tail_tokens, target))
        before = sum(page.text_tokens for page in pages) + _count(
            self._text(pages[-1].char_end if pages else 0, self.transcript.contents[target])
        )
        kept = sum(segment["num_text_tokens"] for segment in segments)
        sample = f"{self.identity['conversation_id']} {target} {self.identity['fingerprint']}"
        return {
            "sample_id": hashlib.sha256(sample.encode()).hexdigest()[:24],
            **self.identity,
            **self.source,
            "codec": self.prepared.codec,
            "codec_revision": self.prepared.revision,
            "target_turn": target,
            "target_text": turn.text,
            "num_target_tokens": reply_tokens,
            "timestamp": turn.timestamp,
            "aged_by": "time" if self.transcript.conversation.dated else "turns",
            "budget": self.settings.budget,
            "num_context_tokens": sum(segment["num_context_tokens"] for segment in segments),
            "num_text_tokens": before,
            "dropped_text_tokens": max(0, before - kept),
            "segments": segments,
        }

    def _too_long(self, target: int, composition: Composition, start: int, tail_tokens: int, reply_tokens: int) -> str:
        """Why there is no sample; empty where there is one."""
        budget = self.settings.budget
        if reply_tokens > budget:
            return f"turn {target}, the reply, has {reply_tokens} text tokens; conversations.budget = {budget}"
        asked = self.transcript.starts[target - 1]
        dropped = [
            page
            for page, tier in zip(self.transcript.pages_before(target), composition.tiers, strict=True)
            if tier is None and page.char_end > asked
        ]
        if tail_tokens > budget or dropped:
            tokens = _count(self._text(asked, self.transcript.contents[target]))
            return (
                f"turn {target - 1}, which is to be answered, has {tokens} text tokens, and does not fit "
                f"conversations.budget = {budget} even where its full pages are as blurred as they may be"
            )
        return ""

    def _page_segment(self, number: int, tier: str, target: int) -> dict[str, Any]:
        page = self.transcript.pages[number]
        if tier == TEXT:
            return self._text_segment(page.char_start, page.char_end, page.text_tokens, target, page_id=page.page_id)
        place = self.bank.places[number, tier]
        return {
            "kind": records.VISUAL,
            "tier": tier,
            "page_id": page.page_id,
            "tokens_sha256": place.tokens_sha256,
            "page_shard": place.shard,
            "page_row": place.row,
            "text": None,
            **self._span(page.char_start, page.char_end, target),
            "num_text_tokens": page.text_tokens,
            "num_context_tokens": self.policy.ladder.mode(tier, "tier").num_context_tokens,
            "precision": place.reading.precision if place.reading else None,
        }

    def _text_segment(self, start: int, end: int, tokens: int, target: int, page_id: str | None = None) -> dict[str, Any]:
        return {
            "kind": records.TEXT,
            "tier": TEXT,
            "page_id": page_id,
            "text": self._text(start, end),
            **self._span(start, end, target),
            "num_text_tokens": tokens,
            "num_context_tokens": tokens,
        }

    def _span(self, start: int, end: int, target: int) -> dict[str, Any]:
        last = min(self.transcript.turn_at(end - 1), target)
        return {
            "char_start": start,
            "char_end": end,
            "first_turn": self.transcript.turn_at(start),
            "last_turn": last,
            "age_seconds": self._age(last, target).total_seconds(),
        }

    def _text(self, start: int, end: int) -> str:
        return self.transcript.text[start:end]


def _count(text: str) -> int:
    from pipeline.codecs.text_tokens import count_tokens

    return count_tokens([text])[0]


def _refuse_quarantine(counts: Counter[str], reasons: Counter[str], unread: int, limit: float) -> None:
    whole = counts["conversations_in"] + unread
    lost = counts["conversations_in"] - counts["conversations"] + unread
    targets = counts["targets_in"] - counts["samples"]
    for what, part, of in (("conversations", lost, whole), ("replies", targets, counts["targets_in"])):
        if part > limit * max(1, of):
            named = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common()) or f"{unread} unread sources"
            raise RunFailed(
                f"{part} of {of} {what} are quarantined, more than limits.quarantine_share = {limit:.1%}: {named}. Nothing was "
                f"published; the work is kept. Mend the sources, or raise the limit and run again"
            )
