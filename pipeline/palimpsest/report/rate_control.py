"""The context tokens that rate control spent, and those of one mode for all pages: from the stored rows alone.

What a page reads like in a mode in which it is not stored is known only as far as it was tried. The comparison takes a page that
reads in one mode to read in the sharper ones too; `palimpsest bench tiers` measures instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from palimpsest.corpus.shards import TEXT_TIER


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


@dataclass(kw_only=True)
class Trials:
    """Sums over rate-controlled pages.

    Attributes:
        readings: of these pages, in any mode.
        first_hit: pages that are stored in the mode that was tried first, or that are text without a reading.
    """

    pages: int = 0
    readings: int = 0
    first_hit: int = 0

    def add(self, rows: pa.Table) -> None:
        """Take in rows: the columns tier and tried of the row contract."""
        rows = rows.filter(pc.is_valid(rows["tried"]))
        lengths = pc.list_value_length(rows["tried"])
        read = rows.filter(pc.greater(lengths, 0))
        first = pc.struct_field(pc.list_element(read["tried"], 0), "mode")
        self.pages += rows.num_rows
        self.readings += pc.sum(lengths).as_py() or 0
        self.first_hit += rows.num_rows - read.num_rows + (pc.sum(pc.equal(first, read["tier"])).as_py() or 0)


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


def rate_control(modes: Iterable[ModeSums], trials: Trials) -> RateControlled | None:
    """The figures of a corpus of which some page was rate-controlled; None for others."""
    if not trials.pages:
        return None
    groups = list(modes)
    visual = [group for group in groups if group.mode != TEXT_TIER and group.pages]
    if not visual:
        return None
    as_text = sum(group.text_tokens for group in groups if group.mode == TEXT_TIER)
    cost = {group.mode: group.context_tokens / group.pages for group in visual}
    fixed = {
        mode: round(
            as_text + sum(group.pages * cost[mode] if cost[group.mode] <= cost[mode] else group.text_tokens for group in visual)
        )
        for mode in cost
    }
    return RateControlled(
        pages=trials.pages,
        context_tokens=as_text + sum(group.context_tokens for group in visual),
        fixed=fixed,
        best_fixed=min(fixed, key=lambda mode: (fixed[mode], mode)),
        encodes_per_page=trials.readings / trials.pages,
        hit_rate=trials.first_hit / trials.pages,
    )
