"""The importance policy: important pages fade later, or never.

An importance of at least `tiers.hold_importance` keeps a page sharper by `tiers.hold_steps` tiers; one of at least
`tiers.pin_importance` keeps it as text. A document without an importance fades as usual.
"""

from __future__ import annotations

from dataclasses import dataclass

from palimpsest.config import ConfigError, TierConfig
from palimpsest.tiers.ladder import TEXT, Ladder
from palimpsest.tiers.policies.protocol import PageFacts


@dataclass(frozen=True)
class Importance:
    ladder: Ladder
    hold: float
    steps: int
    pin: float

    def tier(self, page: PageFacts, proposed: str | None) -> str:
        assert proposed is not None
        if page.importance is None:
            return proposed
        if page.importance >= self.pin:  # false for NaN
            return TEXT
        return self.ladder.sharper(proposed, self.steps) if page.importance >= self.hold else proposed


def build(config: TierConfig, ladder: Ladder) -> Importance:
    if config.hold_importance > config.pin_importance:
        raise ConfigError(
            f"tiers.hold_importance = {config.hold_importance}: at most tiers.pin_importance = {config.pin_importance}"
        )
    if config.hold_steps < 0:
        raise ConfigError(f"tiers.hold_steps = {config.hold_steps}: at least 0")
    return Importance(ladder, config.hold_importance, config.hold_steps, config.pin_importance)
