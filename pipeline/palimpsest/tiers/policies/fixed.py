"""Every page in the mode `tiers.mode`."""

from __future__ import annotations

from dataclasses import dataclass

from palimpsest.config import TierConfig
from palimpsest.tiers.ladder import Ladder
from palimpsest.tiers.policies.protocol import PageFacts


@dataclass(frozen=True)
class Fixed:
    mode: str

    def tier(self, page: PageFacts, proposed: str | None) -> str:
        return self.mode


def build(config: TierConfig, ladder: Ladder) -> Fixed:
    return Fixed(ladder.tier(config.mode, "tiers.mode"))
