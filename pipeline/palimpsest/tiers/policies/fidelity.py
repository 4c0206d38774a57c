"""Rate control: the cheapest mode whose verdict meets `verification.target_precision`, with few trials.

Without a predictor a page climbs rung by rung from the proposed mode, or from the blurriest one if fidelity is the only policy.
With one it begins on the cheapest rung that will probably suffice, or on the best one if none will. The result of a trial
corrects the prediction of the other rungs: unlikely ones are skipped on the way up, and a lower one is tried if it now looks
likely.

No page becomes text on a prediction: the sharpest rung is tried first. (Measured: texts of a kind that the predictor was not
fitted to can look hopeless and read well, and a page as text costs ten times its tokens.) Only a page whose text costs no more
than the next rung becomes text without a trial (`tiers.cheap_text`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from palimpsest.codecs.modes import Mode
from palimpsest.config import TierConfig
from palimpsest.tiers.ladder import FORGOTTEN, TEXT, Ladder
from palimpsest.tiers.policies.protocol import PageFacts
from palimpsest.tiers.predictor import Predictor

LIKELY = 0.5  # chance of meeting the target from which a rung is worth a trial


@dataclass(frozen=True)
class Fidelity:
    ladder: Ladder
    predictor: Predictor | None
    cheap_text: bool

    def tier(self, page: PageFacts, proposed: str | None) -> str:
        if proposed in (TEXT, FORGOTTEN):
            return proposed
        rungs = self._rungs(page, self.ladder.blurriest.name if proposed is None else proposed)
        met = [mode for mode in rungs if (seen := page.readings.get(mode.name)) and seen.met]
        failed = [mode for mode in rungs if (seen := page.readings.get(mode.name)) and not seen.met]
        floor = max(
            (mode.num_context_tokens for mode in failed if not met or mode.num_context_tokens < met[0].num_context_tokens),
            default=0,
        )
        open_rungs = [mode for mode in rungs if mode.name not in page.readings and mode.num_context_tokens > floor]
        if met:
            below = [mode for mode in open_rungs if mode.num_context_tokens < met[0].num_context_tokens]
            return self._likely(below, page) or met[0].name
        if self.predictor is None or page.features is None:
            return open_rungs[0].name if open_rungs else TEXT
        return self._likely(open_rungs, page) or self._best(open_rungs, page) or TEXT

    def _rungs(self, page: PageFacts, start: str) -> list[Mode]:
        """Modes from `start` up, blurriest first, as far as they cost less than the text."""
        least = self.ladder.sharpness(start)
        most = page.text_tokens if self.cheap_text and page.text_tokens is not None else math.inf
        return [mode for mode in reversed(self.ladder.modes) if least <= mode.num_context_tokens < most]

    def _chance(self, mode: Mode, page: PageFacts) -> float:
        if self.predictor is None or page.features is None:
            return 0.0
        seen = {name: reading.precision for name, reading in page.readings.items() if not math.isnan(reading.precision)}
        return self.predictor.chance(mode.name, page.features, seen)

    def _likely(self, rungs: list[Mode], page: PageFacts) -> str | None:
        return next((mode.name for mode in rungs if self._chance(mode, page) >= LIKELY), None)

    def _best(self, rungs: list[Mode], page: PageFacts) -> str | None:
        """The rung with the best chance, the sharper of equals; None if none is left."""
        return max(((self._chance(mode, page), mode.num_context_tokens, mode.name) for mode in rungs), default=(0, 0, None))[2]


def build(config: TierConfig, ladder: Ladder, predictor: Predictor | None) -> Fidelity:
    return Fidelity(ladder, predictor, config.cheap_text)
