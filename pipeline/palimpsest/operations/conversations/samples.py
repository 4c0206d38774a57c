"""The samples of one conversation: for every reply, the earlier turns and the tier of each in the context, as a row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from palimpsest import schemas as records
from palimpsest.flow.recipe import Recipe
from palimpsest.operations.conversations.bank import Bank, Studio
from palimpsest.operations.conversations.compose import Candidate, Composition, compose, is_pinned
from palimpsest.operations.conversations.refusals import ChatReason
from palimpsest.operations.conversations.settings import MemoryConfig
from palimpsest.operations.conversations.transcript import transcribe
from palimpsest.operations.conversations.turns import Conversation
from palimpsest.operations.conversations.writer import UnitWriter
from palimpsest.sources.documents import QUARANTINE_BYTES, excerpt
from palimpsest.tiers.ladder import TEXT
from palimpsest.tiers.policies.protocol import PageFacts
from palimpsest.verification.errata import as_text, of_row


class Samples:
    """The samples of one conversation, made as they are asked for, a block at a time."""

    def __init__(
        self,
        config: MemoryConfig,
        prepared: Recipe,
        studio: Studio,
        writer: UnitWriter,
        conversation: Conversation,
        source: dict[str, str],
        fingerprint: str,
    ) -> None:
        self.config, self.prepared, self.writer = config, prepared, writer
        self.settings, self.policy = config.conversations, prepared.policy
        share = prepared.config.layout.max_escaped_share
        self.transcript = transcribe(conversation, prepared.layout, share)
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
            needed = set().union(*(composition.needed for composition in found))
            if not needed:
                break
            self.bank.need(needed)
        self.bank.need(
            (number, tier) for made in found for number, tier in enumerate(made.tiers) if tier is not None and tier != TEXT
        )
        return found

    def _candidates(self, target: int) -> list[Candidate]:
        every = [mode.name for mode in self.policy.ladder.known]
        modes = every if self.policy.climbs else []
        exact = self.config.tiers.exact != "none"
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
            costs = self.bank.costs(page.number, every) if exact else None
            found.append(Candidate(facts, drawable=not page.uncovered, pinned=pinned, costs=costs))
        return found

    def _age(self, last_turn: int, target: int) -> timedelta:
        return self.transcript.age(last_turn, target, self.settings.age_per_turn)

    def _room(self, target: int) -> int:
        """The budget for pages, after the tail."""
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
        stored = self.bank.stored[number, tier]
        return {
            "kind": records.VISUAL,
            "tier": tier,
            "page_id": page.page_id,
            "tokens_sha256": stored.tokens_sha256,
            "page_shard": stored.shard,
            "page_row": stored.row,
            "text": as_text(of_row(stored.errata)) or None,
            **self._span(page.char_start, page.char_end, target),
            "num_text_tokens": page.text_tokens,
            "num_context_tokens": stored.cost,
            "precision": stored.reading.precision if stored.reading else None,
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
    from palimpsest.codecs.text_tokens import count_tokens

    return count_tokens([text])[0]
