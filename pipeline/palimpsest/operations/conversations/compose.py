"""The tier of each page in a sample's context: pure functions of pages, ages, a tier policy and a budget.

1. The policy gives every page a tier by its age and importance. One that measures may ask for verdicts first.
2. While the context costs more than the budget, pages fade further: in rounds, from the oldest on, each by one tier, down to the
   blurriest that saves tokens. With a policy that measures, only to a mode in which the page can still be read.
3. Where nothing can fade any more, pages are dropped, the oldest first. Pages that their importance pins as text neither fade nor
   go before the others.
4. Then the tail is cut at the beginning of a turn, the oldest first; the turn that is to be answered stays whole, or there is no
   sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from palimpsest.codecs.modes import Mode
from palimpsest.tiers.ladder import FORGOTTEN, TEXT
from palimpsest.tiers.policies.protocol import PageFacts, Policy


@dataclass(frozen=True, slots=True)
class Candidate:
    """A page that may be in a context.

    Attributes:
        facts: with its age in this sample.
        drawable: a codec can read it.
        pinned: its importance keeps it as text.
        costs: context tokens with errata of the modes that were read; None where errata are not kept.
    """

    facts: PageFacts
    drawable: bool
    pinned: bool = False
    costs: Mapping[str, int] | None = None

    @property
    def text_tokens(self) -> int:
        assert self.facts.text_tokens is not None
        return self.facts.text_tokens


@dataclass
class Composition:
    """The tiers that pages get.

    Attributes:
        tiers: of each page, oldest first; None for one that is dropped.
        cost: context tokens of those that stay.
        needed: (page, mode) of verdicts without which this is a guess: compose again when they are known.
    """

    tiers: list[str | None]
    cost: int
    needed: set[tuple[int, str]] = field(default_factory=set)


def is_pinned(policy: Policy, importance: float | None, pin: float) -> bool:
    """Whether a page's importance keeps it as text."""
    return "importance" in policy.names and importance is not None and importance >= pin


def compose(pages: Sequence[Candidate], policy: Policy, room: int, *, fade: bool = True) -> Composition:
    """Give every page a tier within `room` context tokens.

    Args:
        pages: oldest first.
        fade: pages may become blurrier than the policy has them; else what does not fit is dropped at once.
    """
    composition = Composition([], 0)
    for index, page in enumerate(pages):
        tier = policy.tier(page.facts) if page.drawable else TEXT
        if _is_unread(page, tier, policy):
            composition.needed.add((index, tier))
        elif tier not in (TEXT, FORGOTTEN) and page.costs is not None and cost_of(page, tier, policy) >= page.text_tokens:
            tier = TEXT  # its errata are longer than what its tokens save
        composition.tiers.append(tier)
    composition.cost = sum(cost_of(page, tier, policy) for page, tier in zip(pages, composition.tiers, strict=True))
    if fade:
        _fade(pages, policy, room, composition)
    _drop(pages, policy, room, composition)
    return composition


def cost_of(page: Candidate, tier: str | None, policy: Policy) -> int:
    """Context tokens of a page in a tier."""
    if tier is None or tier == FORGOTTEN:
        return 0
    if tier == TEXT:
        return page.text_tokens
    plain = _mode(policy, tier).num_context_tokens
    return plain if page.costs is None else page.costs.get(tier, plain)


def _is_unread(page: Candidate, tier: str, policy: Policy) -> bool:
    """Whether the page must be read in a tier before anybody knows what it costs or whether it may have it."""
    if tier in (TEXT, FORGOTTEN):
        return False
    return policy.climbs and tier not in page.facts.readings or page.costs is not None and tier not in page.costs


def _fade(pages: Sequence[Candidate], policy: Policy, room: int, composition: Composition) -> None:
    moved = True
    while composition.cost > room and moved:
        moved = False
        for index, page in enumerate(pages):
            now = composition.tiers[index]
            if composition.cost <= room:
                return
            if now is None or page.pinned or not page.drawable:
                continue
            spent = cost_of(page, now, policy)
            mode = _blurrier(page, policy, spent)
            if mode is None:
                continue
            if _is_unread(page, mode.name, policy):
                composition.needed.add((index, mode.name))
            composition.tiers[index] = mode.name
            composition.cost += cost_of(page, mode.name, policy) - spent
            moved = True


def _blurrier(page: Candidate, policy: Policy, spent: int) -> Mode | None:
    """The sharpest mode that costs less than `spent`, and in which the page can be read as far as that is known."""
    readings = page.facts.readings
    for mode in policy.ladder.modes:
        unread = policy.climbs and mode.name in readings and not readings[mode.name].met
        if cost_of(page, mode.name, policy) < spent and not unread:
            return mode
    return None


def _drop(pages: Sequence[Candidate], policy: Policy, room: int, composition: Composition) -> None:
    for pinned in (False, True):
        for index, page in enumerate(pages):
            if composition.cost <= room:
                return
            if composition.tiers[index] is not None and page.pinned == pinned:
                composition.cost -= cost_of(page, composition.tiers[index], policy)
                composition.tiers[index] = None


def _mode(policy: Policy, name: str) -> Mode:
    return next(mode for mode in policy.ladder.known if mode.name == name)


def aged(page: Candidate, age: timedelta) -> Candidate:
    """The same page at another age."""
    return replace(page, facts=replace(page.facts, age=age))
