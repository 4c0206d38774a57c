"""Recall of facts planted in long conversations, by age and budget, for each way of keeping a conversation.

Facts (names, numbers, codes, sentences) are planted in invented conversations that reach back two years. Each way of keeping
gets the same budgets of context tokens. That measures what the memory contains, not what a model makes of it. Fading uses the
rungs that were measured for the codec and grid before, on other texts (`tiers/measured.py`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rapidfuzz.distance import Levenshtein

from palimpsest import config as configs
from palimpsest.config import ConfigError, JobConfig
from palimpsest.flow.recipe import Recipe
from palimpsest.lab.bench.kept import ALL_TEXT, Kept, Remembered, Way, band_of, keep, mean, mode_table, recall, ways_of, wilson
from palimpsest.lab.bench.machine import machine
from palimpsest.lab.bench.memory_findings import BANDS, RULES, findings
from palimpsest.lab.bench.planting import Fact, plant_facts
from palimpsest.lab.bench.texts import bench_text
from palimpsest.operations.conversations.bank import Studio
from palimpsest.operations.conversations.transcript import transcribe
from palimpsest.operations.conversations.turns import Conversation, Turn
from palimpsest.operations.resolving import prepare
from palimpsest.pages.normalise import normalise

AS_OF = datetime(2026, 1, 1, tzinfo=UTC)
_EDGES = tuple(timedelta(minutes=minutes).total_seconds() for minutes in (1, 60, 1440, 10_080, 43_200, 525_600, 1_051_200))
SHARES = (0.05, 0.1, 0.3)  # default budgets, of what the conversation costs as text


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
        ConfigError: for settings that cannot be used; for conversations too short to have an old page.
    """
    began = time.monotonic()
    if conversations < 1 or pages < len(BANDS) or facts_per_page <= 0:
        raise ConfigError(
            f"--conversations {conversations} --pages {pages} --facts-per-page {facts_per_page}: "
            f"at least 1, {len(BANDS)}, above 0"
        )
    check_budgets(budgets)
    asked, prepared, studio = prepare_memory(config, AS_OF)
    planted = [_plant(prepared, studio, pages, facts_per_page, text, f"{seed} {number}") for number in range(conversations)]
    whole = sum(memory.text_tokens for memory, _ in planted) / len(planted)
    budgets = tuple(budgets) or tuple(max(100, round(share * whole / 100) * 100) for share in SHARES)
    ways = ways_of(asked, prepared)
    rows, ages, kinds, approximate = [], [], [], []
    for budget in (*budgets, None):
        for way in ways if budget is not None else [Way(ALL_TEXT)]:
            kept = [keep(memory, way, budget) for memory, _ in planted]
            scores = [score for one, left in zip(planted, kept, strict=True) for score in _scores(*one, left)]
            cost = sum(left.cost for left in kept) / len(kept)
            at = {"way": way.name, "budget": budget}
            rows.append({**at, "context_tokens": round(cost), **_summary(scores)})
            ages.append({**at, **{band: mean([s.exact for s in scores if s.band == band]) for band in BANDS}})
            names = sorted({score.kind for score in scores})
            kinds.append({**at, **{kind: mean([s.exact for s in scores if s.kind == kind]) for kind in names}})
            if budget is not None:
                approximate.append({**at, **{band: mean([s.similarity for s in scores if s.band == band]) for band in BANDS}})
    return {
        "codec": f"{prepared.codec} {prepared.revision}",
        "grid": str(prepared.layout),
        "reader": config.verification.reader,
        "storage": config.storage.tokens,
        "target_precision": config.verification.target_precision,
        "conversations": len(planted),
        "turns": sum(len(memory.transcript.starts) for memory, _ in planted),
        "pages": sum(len(memory.pages) for memory, _ in planted),
        "facts": sum(len(facts) for _, facts in planted),
        "text_tokens_per_conversation": round(whole),
        "filler": str(text) if text else "invented prose",
        "seconds": round(time.monotonic() - began, 1),
        "modes": mode_table(prepared, [memory for memory, _ in planted]),
        "rows": rows,
        "exact_recall_by_age": ages,
        "exact_recall_by_kind": kinds,
        "approximate_recall_by_age": approximate,
        "notes": [*findings(rows, ages), *RULES],
        "config": configs.to_json(prepared.config),
        "machine": machine(),
    }


def check_budgets(budgets: Sequence[int]) -> None:
    """Refuse budgets below 1.

    Raises:
        ConfigError: naming the lowest.
    """
    if any(budget < 1 for budget in budgets):
        raise ConfigError(f"--budget {min(budgets)}: at least 1")


def prepare_memory(config: JobConfig, as_of: datetime) -> tuple[JobConfig, Recipe, Studio]:
    """The settings with fading and rate control and every page verified; prepared; and a studio for them."""
    tiers = config.tiers.replace(policy="age+fidelity", as_of=f"{as_of:%Y-%m-%d}", exact="none")
    asked = config.replace(tiers=tiers, verification=config.verification.replace(share=1.0, control_share=0.0))
    prepared = prepare(asked)
    return asked, prepared, Studio(prepared.config, prepared.fingerprint, prepared.layout, prepared.policy)


def _plant(
    prepared: Recipe, studio: Studio, pages: int, facts_per_page: float, text: Path | None, seed: str
) -> tuple[Remembered, list[Fact]]:
    """A conversation with facts, and all of its pages read in every mode."""
    draw = random.Random(seed)
    size = (pages + 1) * prepared.layout.capacity
    filler = normalise(bench_text(size + 4000, text, seed=draw.randrange(1 << 30)))
    turns, planted = plant_facts(filler, size, round(pages * facts_per_page), draw)
    dated = [
        Turn(role="assistant" if at % 2 else "user", text=turn, timestamp=AS_OF - _age(at / max(1, len(turns) - 1)))
        for at, turn in enumerate(turns)
    ]
    if dated[-1].role == "user":
        dated.append(Turn(role="assistant", text="Yes.", timestamp=AS_OF))
    conversation = Conversation(source_id=None, turns=tuple(dated))
    memory = Remembered.of(transcribe(conversation, prepared.layout, prepared.config.layout.max_escaped_share), prepared, studio)
    contents = memory.transcript.contents
    facts = [replace(fact, start=contents[fact.turn] + fact.start) for fact in planted if fact.turn < memory.target]
    return memory, facts


def _age(share: float) -> timedelta:
    """The age of a turn at `share` of the conversation: every band of BANDS has as much of it."""
    at = (1 - share) * len(BANDS)
    band = min(int(at), len(BANDS) - 1)
    low, high = _EDGES[band], _EDGES[band + 1]
    return timedelta(seconds=low * (high / low) ** (at - band))


@dataclass(frozen=True)
class _Score:
    kind: str
    band: str
    exact: float
    similarity: float


def _scores(memory: Remembered, facts: Sequence[Fact], kept: Kept) -> list[_Score]:
    scores = []
    for fact in facts:
        read = recall(memory, kept, fact)
        band = band_of(memory.age(fact.turn), _EDGES, BANDS)
        scores.append(_Score(fact.kind, band, float(read == fact.value), Levenshtein.normalized_similarity(fact.value, read)))
    return scores


def _summary(scores: Sequence[_Score]) -> dict[str, Any]:
    exact = sum(score.exact for score in scores)
    low, high = wilson(exact, len(scores))
    similarity = sum(score.similarity for score in scores) / len(scores)
    return {
        "exact_recall": round(exact / len(scores), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "approximate_recall": round(similarity, 4),
        "facts": len(scores),
    }
