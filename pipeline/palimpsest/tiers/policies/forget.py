"""The forget policy: drops the text, tokens and decoded text of pages older than `tiers.forget_after`; ids, spans and dates stay.

Nothing restores a text once the snapshots that have it are deleted. The policy works only on a published corpus (`palimpsest
retier`), and only if `tiers.policy` names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from palimpsest.config import TierConfig
from palimpsest.tiers.clock import parse_duration
from palimpsest.tiers.ladder import FORGOTTEN, Ladder
from palimpsest.tiers.policies.protocol import PageFacts


@dataclass(frozen=True)
class Forget:
    after: timedelta

    def tier(self, page: PageFacts, proposed: str | None) -> str:
        assert proposed is not None
        return FORGOTTEN if page.age is not None and page.age >= self.after else proposed


def build(config: TierConfig, ladder: Ladder) -> Forget:
    return Forget(parse_duration(config.forget_after, "tiers.forget_after"))
