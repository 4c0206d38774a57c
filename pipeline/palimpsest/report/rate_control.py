"""What rate control spent, and what one mode for all pages would have: from the tiers and reasons of the stored rows alone.

What a page reads like in a mode in which it is not stored is known only as far as it was tried. The comparison takes a page that
reads in one mode to read in the sharper ones too; `palimpsest bench tiers` measures instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from palimpsest.corpus.shards import TEXT_TIER
from palimpsest.tiers.policy import BELOW, CHEAPER, TRIED


class ModeSums(Protocol):
    """Sums over the pages of one mode."""

    @property
    def mode(self) -> str: ...
    @property
    def pages(self) -> int: ...
    @property
    def text_tokens(self) -> int: ...
    @property
    def context_tokens(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class RateControlled:
    """Rate control in numbers.

    Attributes:
        pages: that it gave a tier to.
        context_tokens: spent on the whole corpus, pages kept as text at their own price.
        fixed: the same if the mode were one for all, and pages that do not read in it were text; by mode.
        best_fixed: the cheapest of them.
        encodes_per_page: trials; a page that went to text without one has none.
        hit_rate: pages that came to rest where they were tried first.
    """

    pages: int
    context_tokens: int
    fixed: dict[str, int]
    best_fixed: str
    encodes_per_page: float
    hit_rate: float

    @property
    def of_best_fixed(self) -> float:
        return self.context_tokens / self.fixed[self.best_fixed] if self.fixed[self.best_fixed] else 1.0


def rate_control(modes: Iterable[ModeSums], by_reason: Mapping[str, int]) -> RateControlled | None:
    """The figures of a corpus of which some page tells that it was rate-controlled; None for others."""
    kinds = {reason: (reason.partition(":")[0], reason.partition(":")[2]) for reason in by_reason}
    if not any(kind in (TRIED, BELOW, CHEAPER) for kind, _ in kinds.values()):
        return None
    groups = list(modes)
    visual = [group for group in groups if group.mode != TEXT_TIER and group.pages]
    if not visual:
        return None
    as_text = sum(group.text_tokens for group in groups if group.mode == TEXT_TIER)
    more, off, gone = 0, 0, 0  # trials of other modes; pages that rest elsewhere than first tried; pages that became text
    for reason, pages in by_reason.items():
        kind, names = kinds[reason]
        trials = len(names.split(",")) if names else 0
        if kind in (TRIED, BELOW):
            more += pages * trials
            off += pages * (trials > 0)
        gone += pages * (kind in (BELOW, CHEAPER))
    stored = sum(group.pages for group in visual)
    cost = {group.mode: group.context_tokens / group.pages for group in visual}
    fixed = {
        mode: round(
            as_text + sum(group.pages * cost[mode] if cost[group.mode] <= cost[mode] else group.text_tokens for group in visual)
        )
        for mode in cost
    }
    return RateControlled(
        pages=stored + gone,
        context_tokens=as_text + sum(group.context_tokens for group in visual),
        fixed=fixed,
        best_fixed=min(fixed, key=lambda mode: (fixed[mode], mode)),
        encodes_per_page=(stored + more) / (stored + gone),
        hit_rate=1 - off / (stored + gone),
    )
