"""Rate control, pages to verdicts: render, encode, read back, and again in another mode until the policy settles on a tier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from palimpsest.config import JobConfig
from palimpsest.flow.stages.encode import Encode
from palimpsest.flow.stages.exact import cheaper_as_text
from palimpsest.flow.stages.render import Render
from palimpsest.flow.stages.tables import TEXT_TIER, with_columns
from palimpsest.flow.stages.verify import Verify
from palimpsest.pages.layouts.protocol import Layout
from palimpsest.schemas import TRIALS, VERDICTS, RowKind, conform
from palimpsest.tiers.policies.protocol import PageFacts, Policy, Reading

_LOOKED_AT = ["timestamp", "importance", "num_text_tokens", "text", "stored_tier", "tried"]


class RateControl:
    """PAGES -> VERDICTS, with both halves of the codec in one worker.

    Pages that have a tier are encoded and verified in it. The others get the tier that the policy settles on: each round renders,
    encodes and reads back the pages that need a trial in another mode. The stage renders them itself: rendering costs a hundredth
    of encoding, and the cells of a page take a twentieth of the space of its image.
    """

    def __init__(self, config: JobConfig, fingerprint: str, layout: Layout, policy: Policy) -> None:
        self.policy, self.render = policy, Render(layout)
        self.encode, self.verify = Encode(config, fingerprint), Verify(config, fingerprint)
        self.verify.settles = False

    def __call__(self, table: pa.Table) -> pa.Table:
        done: list[pa.Table | None] = [None] * table.num_rows
        kinds, tiers = table["kind"].to_pylist(), table["tier"].to_pylist()
        settled = [index for index in range(table.num_rows) if kinds[index] != RowKind.PAGE or tiers[index] is not None]
        judged = self._judge(table.take(pa.array(settled, pa.int64())))
        for row, index in enumerate(settled):
            done[index] = judged.slice(row, 1)
        facts = {index: self._facts(table, index) for index in range(table.num_rows) if done[index] is None}
        tried: dict[int, dict[str, pa.Table]] = {index: {} for index in facts}
        while facts:
            requested = {index: self._next_tier(known, tried[index]) for index, known in facts.items()}
            for index, tier in requested.items():
                if tier in tried[index]:
                    done[index] = cheaper_as_text(_stored(tried[index][tier], facts.pop(index)))
            indices = list(facts)
            pages = table.take(pa.array(indices, pa.int64()))
            judged = self._judge(self._in_tiers(pages, [requested[index] for index in indices], list(facts.values())))
            for row, index in enumerate(indices):
                verdict, tier = judged.slice(row, 1), requested[index]
                if tier == TEXT_TIER:
                    done[index] = verdict
                    del facts[index]
                    continue
                tried[index][tier] = verdict
                reading = Reading(verdict["precision"][0].as_py(), verdict["status"][0].as_py() == "verified")
                facts[index] = replace(facts[index], readings={**facts[index].readings, tier: reading})
        return conform(pa.concat_tables([self._nothing(), *filter(None, done)]), VERDICTS, "rate control")

    def _next_tier(self, page: PageFacts, tried: Mapping[str, pa.Table]) -> str:
        """The tier of a page's next trial, or its final tier if it was tried already.

        The policy's own, unless its errata make a sharper mode cheaper: the cheapest of all that meet the target is chosen.
        """
        tier = self.policy.tier(page)
        if tier not in tried or tried[tier]["errata"][0].as_py() is None:
            return tier
        costs = {
            mode: row["num_context_tokens"][0].as_py() for mode, row in tried.items() if page.readings[mode].met or mode == tier
        }
        cheapest = min(costs, key=lambda mode: (costs[mode], mode != tier))
        most = min(costs[cheapest], page.text_tokens or costs[cheapest])
        sharper = self.policy.ladder.sharpness(tier)
        for mode in reversed(self.policy.ladder.modes):
            untried = mode.name not in tried and self.policy.ladder.sharpness(mode.name) > sharper
            if untried and mode.num_context_tokens < most:
                return mode.name
        return cheapest

    def _judge(self, pages: pa.Table) -> pa.Table:
        return self.verify(self.encode(self.render(pages)))

    def _nothing(self) -> pa.Table:
        return pa.table([pa.array([], field.type) for field in VERDICTS], schema=VERDICTS)

    def _facts(self, table: pa.Table, index: int) -> PageFacts:
        row = table.slice(index, 1).select(_LOOKED_AT).to_pylist()[0]
        return PageFacts(
            age=self.policy.age(row["timestamp"]),
            importance=row["importance"],
            text_tokens=row["num_text_tokens"],
            features=self.policy.features(row["text"]),
            tier=row["stored_tier"],
            readings=readings(row["tried"]),
        )

    def _in_tiers(self, pages: pa.Table, tiers: Sequence[str], facts: Sequence[PageFacts]) -> pa.Table:
        modes = [None if tier == TEXT_TIER else tier for tier in tiers]
        sizes = [None if mode is None else self.policy.ladder.mode(mode, "tier").px for mode in modes]
        reasons = [self.policy.why_text(fact) if mode is None else None for mode, fact in zip(modes, facts, strict=True)]
        columns = {
            "tier": pa.array(tiers, pa.string()),
            "mode": pa.array(modes, pa.string()),
            "image_px": pa.array(sizes, pa.int32()),
            "reason": pa.array(reasons, pa.string()),
            "tried": pa.array([trials(fact.readings) for fact in facts], TRIALS),
        }
        return with_columns(pages, columns)


def trials(readings: Mapping[str, Reading]) -> list[dict[str, Any]]:
    """Readings as the column `tried` has them."""
    return [{"mode": mode, **reading._asdict()} for mode, reading in readings.items()]


def readings(tried: Sequence[Mapping[str, Any]] | None) -> dict[str, Reading]:
    """The column `tried` of one row as readings by mode, in the order of the trials."""
    return {trial["mode"]: Reading(trial["precision"], trial["met"]) for trial in tried or ()}


def _stored(verdict: pa.Table, facts: PageFacts) -> pa.Table:
    """The row of a page in the mode that it is stored in, with all modes that were tried."""
    return with_columns(verdict, {"tried": pa.array([trials(facts.readings)], TRIALS)})
