"""Drops what is older than `tiers.forget_after`: text, tokens and what was read; ids, spans and dates stay.

Nothing else in Palimpsest drops a text, and nothing brings it back once the snapshots that have it are gone. It works on a
published corpus only (`palimpsest retier`), and only when `tiers.policy` names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from palimpsest.config import TierConfig
from palimpsest.tiers.clock import parse_duration
from palimpsest.tiers.ladder import FORGOTTEN, Ladder
from palimpsest.tiers.policy import PageFacts


@dataclass(frozen=True)
class Forget:
    after: timedelta

    def tier(self, page: PageFacts, proposed: str | None) -> str:
        assert proposed is not None
        return FORGOTTEN if page.age is not None and page.age >= self.after else proposed


def build(config: TierConfig, ladder: Ladder) -> Forget:
    return Forget(parse_duration(config.forget_after, "tiers.forget_after"))
