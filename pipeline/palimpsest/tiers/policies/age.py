"""The age policy: the older a page, the blurrier its mode.

The default steps are DeepSeek-OCR's (arXiv 2510.18234, figure 13): text at first, gundam after an hour, large after a day, base
after a week, small after a month, tiny after a year. A mode of the figure that the codec lacks becomes the nearest sharper one. A
mode that was measured to read no better than a cheaper one becomes that one (`measured.py`). A mode that `tiers.ages` names must
exist. A page without a timestamp has no age and gets `tiers.undated`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from palimpsest.config import ConfigError, TierConfig
from palimpsest.tiers.clock import parse_duration
from palimpsest.tiers.ladder import FIGURE, TEXT, Ladder
from palimpsest.tiers.policies.protocol import PageFacts


@dataclass(frozen=True)
class Age:
    """`steps`: (from this age on, tier), the oldest first."""

    steps: tuple[tuple[timedelta, str], ...]
    undated: str

    def tier(self, page: PageFacts, proposed: str | None) -> str:
        if page.age is None:
            return self.undated
        return next((tier for since, tier in self.steps if page.age >= since), TEXT)


def build(config: TierConfig, ladder: Ladder) -> Age:
    steps = []
    for step in config.ages or FIGURE:
        duration, _, name = step.partition(" ")
        since = parse_duration(duration, "tiers.ages")
        name = name.strip()
        steps.append((since, ladder.tier(name, "tiers.ages") if config.ages else ladder.at_least(name)))
    steps.sort(key=lambda step: step[0])
    for (earlier, sharp), (later, blurred) in zip(steps, steps[1:], strict=False):
        if earlier == later or ladder.sharpness(blurred) > ladder.sharpness(sharp):
            raise ConfigError(
                f"tiers.ages = {list(config.ages)}: {blurred!r} comes after {sharp!r}; memory only fades, at one age once"
            )
    return Age(tuple(reversed(steps)), ladder.tier(config.undated, "tiers.undated"))
