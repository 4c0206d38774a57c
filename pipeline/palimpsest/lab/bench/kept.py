"""A conversation kept within a budget of context tokens, and what of it can still be read.

`Remembered` reads every page of a conversation once in every mode. `keep` applies a `Way` of keeping to it, as memory samples are
composed; `recall` reads a span of the transcript in the result: text as it is, a page by the codec's decoder from its stored
tokens, with its errata where the way has them. A dropped span reads as nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from rapidfuzz.distance import Levenshtein

from palimpsest.config import ConfigError, JobConfig
from palimpsest.flow.recipe import Recipe
from palimpsest.lab.bench.planting import Fact
from palimpsest.operations.conversations.bank import Bank, Studio
from palimpsest.operations.conversations.compose import Candidate, compose
from palimpsest.operations.conversations.transcript import Transcript, TranscriptPage
from palimpsest.operations.resolving import identify
from palimpsest.tiers.ladder import TEXT
from palimpsest.tiers.policies.protocol import PageFacts, Policy, Reading, find_policy
from palimpsest.verification.errata import Erratum, Exact, apply, cost_of, find_errata

TRUNCATION, ALL_TEXT = "truncation", "all text, no budget"
FADING, CONTROLLED = "fading", "fading, rate control"


@dataclass(frozen=True)
class Way:
    """A way of keeping.

    Attributes:
        policy: None keeps the newest text.
        fades: pages may become blurrier than the policy has them, where the budget asks for it.
        exact: misread words that are kept with their page.
    """

    name: str
    policy: Policy | None = None
    fades: bool = False
    exact: Exact = "none"


@dataclass
class Remembered:
    """One conversation before its last reply, and what the codec reads on each page in each mode."""

    transcript: Transcript
    readings: dict[tuple[int, str], Reading] = field(default_factory=dict)
    decoded: dict[tuple[int, str], str] = field(default_factory=dict)
    _exact: dict[tuple[int, str, Exact], tuple[str, int]] = field(default_factory=dict)
    _spans: dict[tuple[int, str, Exact, int, int], str] = field(default_factory=dict)

    @classmethod
    def of(cls, transcript: Transcript, prepared: Recipe, studio: Studio) -> Remembered:
        """Draw, encode and read every page in every mode of the ladder."""
        memory = cls(transcript)
        carried = {"unit_id": "bench", "source_uri": "bench", "source_version": "1"}
        bank = Bank(transcript, studio, memory._listen, carried)
        drawable = [page.number for page in memory.pages if not page.uncovered]
        bank.need((number, mode.name) for number in drawable for mode in prepared.policy.ladder.modes)
        return memory

    def _listen(self, table: pa.Table) -> list[tuple[int, int]]:
        columns = ("page_number", "mode", "text", "decoded_text", "precision", "status")
        for number, mode, text, decoded, precision, status in zip(*(table[name].to_pylist() for name in columns), strict=True):
            self.decoded[number, mode] = text if decoded is None else decoded
            self.readings[number, mode] = Reading(precision, status == "verified")
        return [(0, 0)] * table.num_rows

    @property
    def target(self) -> int:
        return self.transcript.conversation.targets[-1]

    @property
    def pages(self) -> tuple[TranscriptPage, ...]:
        return self.transcript.pages_before(self.target)

    @property
    def end(self) -> int:
        """Where the context ends: the last reply's text begins here."""
        return self.transcript.contents[self.target]

    @property
    def tail(self) -> int:
        """Where the text that fills no page begins."""
        return self.pages[-1].char_end if self.pages else 0

    @property
    def text_tokens(self) -> int:
        return count(self.transcript.text[: self.end])

    def age(self, turn: int) -> timedelta:
        return self.transcript.age(turn, self.target, timedelta(0))

    def page_text(self, page: TranscriptPage) -> str:
        return self.transcript.text[page.char_start : page.char_end]

    def read(self, number: int, mode: str, exact: Exact) -> tuple[str, int]:
        """A page as it is read with its errata, and the context tokens of these errata."""
        key = (number, mode, exact)
        if key not in self._exact:
            decoded = self.decoded[number, mode]
            errata: list[Erratum] = find_errata(self.page_text(self.pages[number]), decoded, exact)
            self._exact[key] = apply(decoded, errata), cost_of(errata)
        return self._exact[key]

    def read_span(self, page: TranscriptPage, mode: str, exact: Exact, start: int, stop: int) -> str:
        """The reading of characters `start` to `stop` of the transcript, which are on `page`."""
        key = (page.number, mode, exact, start, stop)
        if key not in self._spans:
            decoded, _ = self.read(page.number, mode, exact)
            self._spans[key] = read_at(self.page_text(page), decoded, start - page.char_start, stop - page.char_start)
        return self._spans[key]


@dataclass(frozen=True)
class Kept:
    """The result: spans of the transcript as text, and pages by number with their mode."""

    text: tuple[tuple[int, int], ...]
    pages: dict[int, str]
    cost: int
    exact: Exact = "none"


def ways_of(asked: JobConfig, prepared: Recipe, exact: Sequence[Exact] = ("none",)) -> list[Way]:
    """Truncation, each mode alone, fading by age, and fading with rate control; each of the visual ones with each of `exact`."""
    tiers = asked.tiers
    ladder = prepared.policy.ladder
    visual = [
        Way(f"uniform {mode.name}", find_policy(tiers.replace(policy="fixed", mode=mode.name), ladder))
        for mode in reversed(ladder.modes)
    ]
    visual.append(Way(FADING, identify(asked.replace(tiers=tiers.replace(policy="age"))).policy, fades=True))
    visual.append(Way(CONTROLLED, prepared.policy, fades=True))
    named = [
        Way(way.name if kind == "none" else f"{way.name}, exact {kind}", way.policy, way.fades, kind)
        for way in visual
        for kind in exact
    ]
    return [Way(TRUNCATION), *named]


def keep(memory: Remembered, way: Way, budget: int | None) -> Kept:
    """The conversation within `budget` context tokens; None keeps all of it as text."""
    if way.policy is None or budget is None:
        return truncate(memory, budget)
    tail_tokens = count(memory.transcript.text[memory.tail : memory.end])
    if tail_tokens > budget:
        return truncate(memory, budget)
    seen: dict[int, set[str]] = {page.number: set() for page in memory.pages}
    while True:
        candidates = [_candidate(memory, way.policy, page, way.exact, seen[page.number]) for page in memory.pages]
        made = compose(candidates, way.policy, budget - tail_tokens, fade=way.fades)
        if not made.needed:
            break
        for number, mode in made.needed:
            seen[number].add(mode)
    spans = [(page.char_start, page.char_end) for page, tier in zip(memory.pages, made.tiers, strict=True) if tier == TEXT]
    drawn = {page.number: tier for page, tier in zip(memory.pages, made.tiers, strict=True) if tier is not None and tier != TEXT}
    return Kept((*spans, (memory.tail, memory.end)), drawn, made.cost + tail_tokens, way.exact)


def _candidate(memory: Remembered, policy: Policy, page: TranscriptPage, exact: Exact, seen: set[str]) -> Candidate:
    """A page as memory samples see it: with the verdicts that were asked for, and the costs with errata where they are kept."""
    tokens = {mode.name: mode.num_context_tokens for mode in policy.ladder.known}
    costs = {mode: tokens[mode] + memory.read(page.number, mode, exact)[1] for mode in seen}
    facts = PageFacts(
        age=memory.age(page.last_turn),
        text_tokens=page.text_tokens,
        readings={mode: memory.readings[page.number, mode] for mode in tokens if mode in seen and policy.climbs},
        features=policy.features(memory.page_text(page)),
    )
    return Candidate(facts, drawable=not page.uncovered, costs=costs if exact != "none" else None)


def truncate(memory: Remembered, budget: int | None) -> Kept:
    """The newest text, as much as `budget` tokens are."""
    from palimpsest.codecs.text_tokens import tokenizer

    text = memory.transcript.text[: memory.end]
    ends = tokenizer().encode(text, add_special_tokens=False).offsets
    kept = len(ends) if budget is None else min(budget, len(ends))
    return Kept(((ends[-kept][0], memory.end),), {}, kept)


def count(text: str) -> int:
    """Text tokens by the tokenizer of the corpus."""
    from palimpsest.codecs.text_tokens import count_tokens

    return count_tokens([text])[0]


def recall(memory: Remembered, kept: Kept, fact: Fact) -> str:
    """The text that is read where the transcript has a fact; "" where nothing is kept."""
    start, stop = fact.start, fact.start + len(fact.value)
    pieces: list[tuple[int, str]] = []
    for left, right in kept.text:
        a, b = max(start, left), min(stop, right)
        if a < b:
            pieces.append((a, memory.transcript.text[a:b]))
    for page in memory.pages:
        a, b = max(start, page.char_start), min(stop, page.char_end)
        if a < b and page.number in kept.pages:
            pieces.append((a, memory.read_span(page, kept.pages[page.number], kept.exact, a, b)))
    return "".join(piece for _, piece in sorted(pieces))


def read_at(reference: str, decoded: str, start: int, stop: int) -> str:
    """The part of `decoded` that is aligned with `reference[start:stop]`, by an alignment with the fewest edits.

    A span that occurs once in both is read exactly: among equal alignments one may cut through it.
    """
    span = reference[start:stop]
    if reference.count(span) == decoded.count(span) == 1:
        return span
    read = []
    for step in Levenshtein.opcodes(reference, decoded):
        tag, (a, b, c, d) = step.tag, (step.src_start, step.src_end, step.dest_start, step.dest_end)
        if tag == "insert":
            read.append(decoded[c:d] if start < a < stop else "")
        elif tag != "delete" and a < stop and b > start:
            read.append(decoded[c + max(start - a, 0) : d - max(b - stop, 0)])
    return "".join(read)


def band_of(age: timedelta, edges: Sequence[float], bands: Sequence[str]) -> str:
    """The band of an age; `edges` are its lower bounds in seconds."""
    return bands[min(max(bisect_left(edges, age.total_seconds()) - 1, 0), len(bands) - 1)]


def mode_table(prepared: Recipe, memories: Iterable[Remembered]) -> list[dict[str, Any]]:
    """Ratio and precision of all pages in each mode, the cheapest first.

    Raises:
        ConfigError: the codec can read no page.
    """
    memories = list(memories)
    rows: list[dict[str, Any]] = []
    for mode in reversed(prepared.policy.ladder.modes):
        seen = [(memory, number) for memory in memories for number, name in memory.readings if name == mode.name]
        if not seen:
            raise ConfigError(f"layout.grid = {str(prepared.layout)!r}: no page of this text can be read by {prepared.codec!r}")
        readings = [memory.readings[number, mode.name] for memory, number in seen]
        tokens = sum(memory.pages[number].text_tokens for memory, number in seen) / len(seen)
        errata = sum(memory.read(number, mode.name, "all")[1] for memory, number in seen) / len(seen)
        rows.append(
            {
                "mode": mode.name,
                "context_tokens": mode.num_context_tokens,
                "ratio": round(tokens / mode.num_context_tokens, 2),
                "precision": round(sum(reading.precision for reading in readings) / len(seen), 4),
                "pages_at_target": round(sum(reading.met for reading in readings) / len(seen), 4),
                "errata_tokens": round(errata, 1),
                "ratio_with_errata": round(tokens / (mode.num_context_tokens + errata), 2),
            }
        )
    return rows


def wilson(hits: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share at 95 %."""
    if not count:
        return 0.0, 1.0
    share = hits / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def mean(values: Sequence[float]) -> float | None:
    """None without values."""
    return round(sum(values) / len(values), 4) if values else None
