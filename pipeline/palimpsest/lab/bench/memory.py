"""What is still known of facts that were told long ago, by the way in which a conversation is kept within a budget.

Facts (names, numbers, codes, sentences) are planted in long invented conversations that reach back two years. Each way of keeping
gets the same budgets of context tokens. A fact is recalled as far as it can be read at its place in what is kept: text is read as
it is, a page by the codec's own decoder from its stored tokens, as `run` and `verify` read it. What is dropped reads as nothing.
That measures what the memory holds, not what a model makes of it. Fading goes by the rungs that were measured for the codec and
the grid before, on other texts (`tiers/measured.py`).
"""

from __future__ import annotations

import random
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rapidfuzz.distance import Levenshtein

from palimpsest import config as configs
from palimpsest.config import ConfigError, JobConfig
from palimpsest.flow.recipe import Recipe
from palimpsest.lab.bench.machine import machine
from palimpsest.lab.bench.memory_findings import ALL_TEXT, BANDS, CONTROLLED, FADING, RULES, TRUNCATION, findings
from palimpsest.lab.bench.planting import Fact, plant_facts
from palimpsest.lab.bench.texts import bench_text
from palimpsest.operations.conversations.bank import Bank, Studio
from palimpsest.operations.conversations.compose import Candidate, compose
from palimpsest.operations.conversations.transcript import Transcript, TranscriptPage, transcribe
from palimpsest.operations.conversations.turns import Conversation, Turn
from palimpsest.operations.run import identify, prepare
from palimpsest.pages.normalise import normalise
from palimpsest.tiers.ladder import TEXT
from palimpsest.tiers.policy import PageFacts, Policy, Reading, find_policy

AS_OF = datetime(2026, 1, 1, tzinfo=UTC)
_EDGES = tuple(timedelta(minutes=minutes).total_seconds() for minutes in (1, 60, 1440, 10_080, 43_200, 525_600, 1_051_200))
SHARES = (0.05, 0.1, 0.3)  # default budgets, of what the conversation costs as text


@dataclass
class Told:
    """One conversation: its transcript, the facts in it, and what the codec reads on each page in each mode."""

    transcript: Transcript
    facts: list[Fact]
    readings: dict[tuple[int, str], Reading]
    read: dict[tuple[int, str], str]

    @property
    def target(self) -> int:
        return self.transcript.conversation.targets[-1]

    @property
    def pages(self) -> tuple[TranscriptPage, ...]:
        return self.transcript.pages_before(self.target)

    @property
    def end(self) -> int:
        return self.transcript.contents[self.target]

    @property
    def tail(self) -> int:
        return self.pages[-1].char_end if self.pages else 0

    def age(self, turn: int) -> timedelta:
        return self.transcript.age(turn, self.target, timedelta(0))


@dataclass(frozen=True)
class Kept:
    """What a way of keeping leaves: spans of the transcript that are there as text, and pages by number with their mode."""

    text: tuple[tuple[int, int], ...]
    pages: dict[int, str]
    cost: int


def bench_memory(
    config: JobConfig,
    *,
    budgets: Sequence[int] = (),
    conversations: int = 2,
    pages: int = 24,
    facts_per_page: float = 4.0,
    text: Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Recall by age and budget for each way of keeping a conversation.

    Args:
        config: codec, grid, storage, reader and target of rate control; `tiers.modes` and `tiers.ages` where they are set.
        budgets: context tokens; SHARES of the conversations' text tokens where none is named.
        pages: length of a conversation.
        text: a file of filler; invented prose where none is named.

    Raises:
        ValueError: for settings that cannot be used; for conversations too short to have an old page.
    """
    began = time.monotonic()
    if conversations < 1 or pages < len(BANDS) or facts_per_page <= 0:
        raise ValueError(
            f"--conversations {conversations} --pages {pages} --facts-per-page {facts_per_page}: "
            f"at least 1, {len(BANDS)}, above 0"
        )
    if any(budget < 1 for budget in budgets):
        raise ValueError(f"--budget {min(budgets)}: at least 1")
    tiers = config.tiers.replace(policy="age+fidelity", as_of=f"{AS_OF:%Y-%m-%d}")
    asked = config.replace(tiers=tiers, verification=config.verification.replace(share=1.0, control_share=0.0))
    prepared = prepare(asked)
    studio = Studio(prepared.config, prepared.fingerprint, prepared.layout, prepared.policy)
    told = [_tell(prepared, studio, pages, facts_per_page, text, f"{seed} {number}") for number in range(conversations)]
    whole = sum(_text_tokens(conversation) for conversation in told) / len(told)
    budgets = tuple(budgets) or tuple(max(100, round(share * whole / 100) * 100) for share in SHARES)
    ways = _ways(asked, prepared)
    modes = _mode_table(prepared, told)
    rows, ages, kinds = [], [], []
    for budget in (*budgets, None):
        for name in ways if budget is not None else [ALL_TEXT]:
            kept = [_keep(conversation, name, ways.get(name), budget) for conversation in told]
            scores = [_Score(*found) for one, left in zip(told, kept, strict=True) for found in _recall(one, left)]
            cost = sum(left.cost for left in kept) / len(kept)
            at = {"way": name, "budget": budget}
            rows.append({**at, "context_tokens": round(cost), **_summary(scores)})
            ages.append({**at, **{band: _mean([s.exact for s in scores if s.band == band]) for band in BANDS}})
            names = sorted({score.kind for score in scores})
            kinds.append({**at, **{kind: _mean([s.exact for s in scores if s.kind == kind]) for kind in names}})
    return {
        "codec": f"{prepared.codec} {prepared.revision}",
        "grid": str(prepared.layout),
        "reader": config.verification.reader,
        "storage": config.storage.tokens,
        "target_precision": config.verification.target_precision,
        "conversations": len(told),
        "turns": sum(len(conversation.transcript.starts) for conversation in told),
        "pages": sum(len(conversation.pages) for conversation in told),
        "facts": sum(len(conversation.facts) for conversation in told),
        "text_tokens_per_conversation": round(whole),
        "filler": str(text) if text else "invented prose",
        "seconds": round(time.monotonic() - began, 1),
        "modes": modes,
        "rows": rows,
        "exact_recall_by_age": ages,
        "exact_recall_by_kind": kinds,
        "approximate_recall_by_age": _approximate(told, ways, budgets),
        "notes": [*findings(rows, ages), *RULES],
        "config": configs.to_json(prepared.config),
        "machine": machine(),
    }


def _tell(prepared: Recipe, studio: Studio, pages: int, facts_per_page: float, text: Path | None, seed: str) -> Told:
    """A conversation, and all of its pages read in every mode."""
    draw = random.Random(seed)
    size = (pages + 1) * prepared.layout.capacity
    filler = normalise(bench_text(size + 4000, text, seed=draw.randrange(1 << 30)))
    turns, planted = plant_facts(filler, size, round(pages * facts_per_page), draw)
    dated = [
        Turn(role="assistant" if place % 2 else "user", text=said, timestamp=AS_OF - _age(place / max(1, len(turns) - 1)))
        for place, said in enumerate(turns)
    ]
    if dated[-1].role == "user":
        dated.append(Turn(role="assistant", text="Yes.", timestamp=AS_OF))
    conversation = Conversation(source_id=None, turns=tuple(dated))
    share = prepared.config.layout.max_escaped_share
    transcript = transcribe(conversation, prepared.layout, share)
    facts = [
        replace(fact, start=transcript.contents[fact.turn] + fact.start)
        for fact in planted
        if fact.turn < conversation.targets[-1]
    ]
    told = Told(transcript, facts, {}, {})
    bank = Bank(
        transcript, studio, lambda table: _listen(told, table), {"unit_id": "bench", "source_uri": "bench", "source_version": "1"}
    )
    drawable = [page.number for page in told.pages if not page.uncovered]
    bank.need((number, mode.name) for number in drawable for mode in prepared.policy.ladder.modes)
    return told


def _age(share: float) -> timedelta:
    """The age of a turn at `share` of the conversation: every band of BANDS has as much of it."""
    at = (1 - share) * len(BANDS)
    band = min(int(at), len(BANDS) - 1)
    low, high = _EDGES[band], _EDGES[band + 1]
    return timedelta(seconds=low * (high / low) ** (at - band))


def _listen(told: Told, table: pa.Table) -> list[tuple[int, int]]:
    columns = ("page_number", "mode", "text", "decoded_text", "precision", "status")
    for number, mode, text, decoded, precision, status in zip(*(table[name].to_pylist() for name in columns), strict=True):
        told.read[number, mode] = text if decoded is None else decoded
        told.readings[number, mode] = Reading(precision, status == "verified")
    return [(0, 0)] * table.num_rows


def _mode_table(prepared: Recipe, told: Sequence[Told]) -> list[dict[str, Any]]:
    """Modes from the cheapest on."""
    rows: list[dict[str, Any]] = []
    for mode in reversed(prepared.policy.ladder.modes):
        seen = [(one, number) for one in told for number, name in one.readings if name == mode.name]
        if not seen:
            raise ConfigError(f"layout.grid = {str(prepared.layout)!r}: no page of this text can be read by {prepared.codec!r}")
        precision = sum(one.readings[number, mode.name].precision for one, number in seen) / len(seen)
        tokens = sum(one.pages[number].text_tokens for one, number in seen) / len(seen)
        rows.append(
            {
                "mode": mode.name,
                "context_tokens": mode.num_context_tokens,
                "ratio": round(tokens / mode.num_context_tokens, 2),
                "precision": round(precision, 4),
                "pages_at_target": round(sum(one.readings[number, mode.name].met for one, number in seen) / len(seen), 4),
            }
        )
    return rows


def _ways(asked: JobConfig, prepared: Recipe) -> dict[str, Policy | None]:
    tiers = asked.tiers
    ways: dict[str, Policy | None] = {TRUNCATION: None}
    for mode in reversed(prepared.policy.ladder.modes):
        ways[f"uniform {mode.name}"] = find_policy(tiers.replace(policy="fixed", mode=mode.name), prepared.policy.ladder)
    ways[FADING] = identify(asked.replace(tiers=tiers.replace(policy="age"))).policy
    ways[CONTROLLED] = prepared.policy
    return ways


def _keep(told: Told, way: str, policy: Policy | None, budget: int | None) -> Kept:
    if policy is None:
        return _truncate(told, budget)
    assert budget is not None
    tail_tokens = _count(told.transcript.text[told.tail : told.end])
    if tail_tokens > budget:
        return _truncate(told, budget)
    tried: dict[int, dict[str, Reading]] = {page.number: {} for page in told.pages}
    while True:
        pages = [
            Candidate(
                PageFacts(
                    age=told.age(page.last_turn),
                    text_tokens=page.text_tokens,
                    readings=tried[page.number],
                    features=policy.features(told.transcript.text[page.char_start : page.char_end]),
                ),
                drawable=not page.uncovered,
            )
            for page in told.pages
        ]
        made = compose(pages, policy, budget - tail_tokens, fade=way in (FADING, CONTROLLED))
        if not made.wanted:
            break
        for number, mode in made.wanted:
            tried[number] = {**tried[number], mode: told.readings[number, mode]}
    spans = [(page.char_start, page.char_end) for page, tier in zip(told.pages, made.tiers, strict=True) if tier == TEXT]
    drawn = {page.number: tier for page, tier in zip(told.pages, made.tiers, strict=True) if tier not in (None, TEXT)}
    return Kept((*spans, (told.tail, told.end)), drawn, made.cost + tail_tokens)  # type: ignore[arg-type]


def _truncate(told: Told, budget: int | None) -> Kept:
    """The newest text, as much as `budget` tokens are."""
    from palimpsest.codecs.text_tokens import tokenizer

    text = told.transcript.text[: told.end]
    ends = tokenizer().encode(text, add_special_tokens=False).offsets
    kept = len(ends) if budget is None else min(budget, len(ends))
    return Kept(((ends[-kept][0], told.end),), {}, kept)


def _count(text: str) -> int:
    from palimpsest.codecs.text_tokens import count_tokens

    return count_tokens([text])[0]


def _text_tokens(told: Told) -> int:
    return _count(told.transcript.text[: told.end])


@dataclass(frozen=True)
class _Score:
    kind: str
    band: str
    exact: float
    similarity: float


def _recall(told: Told, kept: Kept) -> list[tuple[str, str, float, float]]:
    """Of each fact its kind, the band of its age, whether it reads exactly, and how like."""
    found = []
    for fact in told.facts:
        said = "".join(_pieces(told, kept, fact))
        similarity = Levenshtein.normalized_similarity(fact.value, said)
        age = told.age(fact.turn).total_seconds()
        band = BANDS[min(max(bisect_left(_EDGES, age) - 1, 0), len(BANDS) - 1)]
        found.append((fact.kind, band, float(said == fact.value), similarity))
    return found


def _pieces(told: Told, kept: Kept, fact: Fact) -> list[str]:
    """What is read of a fact, in the order of the transcript."""
    start, stop = fact.start, fact.start + len(fact.value)
    found: list[tuple[int, str]] = []
    for left, right in kept.text:
        a, b = max(start, left), min(stop, right)
        if a < b:
            found.append((a, told.transcript.text[a:b]))
    for page in told.pages:
        a, b = max(start, page.char_start), min(stop, page.char_end)
        if a < b and page.number in kept.pages:
            reference = told.transcript.text[page.char_start : page.char_end]
            decoded = told.read[page.number, kept.pages[page.number]]
            found.append((a, read_at(reference, decoded, a - page.char_start, b - page.char_start)))
    return [said for _, said in sorted(found)]


def read_at(reference: str, decoded: str, start: int, stop: int) -> str:
    """What stands in `decoded` where `reference` has `[start:stop]`, by an alignment with the fewest edits.

    An exact reading that stands once in both is taken as it is: among equal alignments one may cut through it.
    """
    wanted = reference[start:stop]
    if reference.count(wanted) == decoded.count(wanted) == 1:
        return wanted
    said = []
    for step in Levenshtein.opcodes(reference, decoded):
        tag, (a, b, c, d) = step.tag, (step.src_start, step.src_end, step.dest_start, step.dest_end)
        if tag == "insert":
            said.append(decoded[c:d] if start < a < stop else "")
        elif tag != "delete" and a < stop and b > start:
            said.append(decoded[c + max(start - a, 0) : d - max(b - stop, 0)])
    return "".join(said)


def _summary(scores: Sequence[_Score]) -> dict[str, Any]:
    exact = sum(score.exact for score in scores)
    low, high = _wilson(exact, len(scores))
    similarity = sum(score.similarity for score in scores) / len(scores)
    return {
        "exact_recall": round(exact / len(scores), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "approximate_recall": round(similarity, 4),
        "facts": len(scores),
    }


def _wilson(hits: float, count: int, z: float = 1.96) -> tuple[float, float]:
    share = hits / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


def _approximate(told: Sequence[Told], ways: dict[str, Policy | None], budgets: Sequence[int]) -> list[dict[str, Any]]:
    rows = []
    for budget in budgets:
        for name, policy in ways.items():
            scores = [_Score(*found) for one in told for found in _recall(one, _keep(one, name, policy, budget))]
            means = {band: _mean([s.similarity for s in scores if s.band == band]) for band in BANDS}
            rows.append({"way": name, "budget": budget, **means})
    return rows
