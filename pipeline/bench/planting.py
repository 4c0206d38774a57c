"""Errors planted in texts whose right reading is known."""

from __future__ import annotations

import random
from collections.abc import Sequence

ERROR_SHARES = (0.0, 0.01, 0.03, 0.1, 0.3)


def plant_errors(ids: Sequence[int], share: float, choices: Sequence[int], draw: random.Random) -> list[int]:
    """`ids` with `share * len(ids)` errors, at least one unless `share` is 0.

    Half of them replace a token with another of `choices`, a quarter drops one, a quarter inserts one.
    """
    planted: list[list[int]] = [[token] for token in ids]
    for place in draw.sample(range(len(ids)), min(len(ids), max(int(share > 0), round(share * len(ids))))):
        kind, other = draw.random(), draw.choice([token for token in choices if token != ids[place]])
        planted[place] = [other] if kind < 0.5 else [] if kind < 0.75 else [other, ids[place]]
    return [token for tokens in planted for token in tokens]
