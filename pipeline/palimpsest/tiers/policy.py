"""The seam: what a policy knows of a page, what it must do, and how policies are found by name and chained.

    policy = find_policy(config.tiers, ladder)
    policy.tier(PageFacts(age=timedelta(days=40)))        # "small"

Chained policies run in the order of RANKS, however they are written: a base that proposes a tier (fixed, age), then what may
forget it, then what holds it back or pins it, then what measures it. So a pinned page is never forgotten, and what is forgotten
is not measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from importlib import import_module
from typing import NamedTuple, Protocol

from palimpsest.codecs.modes import Mode
from palimpsest.config import ConfigError, JobConfig, TierConfig
from palimpsest.pages.layout import Layout
from palimpsest.tiers.clock import age_of, parse_as_of
from palimpsest.tiers.ladder import TEXT, Ladder, ladder_of
from palimpsest.tiers.measured import NONE, as_measured, read_rungs, rungs_text
from palimpsest.tiers.predictor import Predictor, read_predictor

BELOW = "below_every_rung"
CHEAPER = "text_is_cheaper"
POLICY = "policy"
"""Reasons of pages kept as text; the modes that were tried are in the row's `tried`."""

RANKS = {"fixed": 0, "age": 0, "forget": 1, "importance": 2, "fidelity": 3}
"""Policies by name, each the module of this room of that name, and their place in a chain."""


class Reading(NamedTuple):
    """The verdict on a page in one mode: its precision, and whether it met the target."""

    precision: float
    met: bool


@dataclass(frozen=True, kw_only=True)
class PageFacts:
    """What a policy may know of a page. What is not known is None, and every policy has a rule for that.

    Attributes:
        age: never negative.
        importance: as the corpus gives it.
        text_tokens: what the page costs as text.
        tier: where it is stored now; None for a new page.
        readings: verdicts on the modes that were tried, in the order of the trials.
        features: what `Policy.features` found in its text.
    """

    age: timedelta | None = None
    importance: float | None = None
    text_tokens: int | None = None
    tier: str | None = None
    readings: Mapping[str, Reading] = field(default_factory=dict)
    features: Sequence[float] | None = None


class TierPolicy(Protocol):
    """One policy, bound to its settings and to a codec's ladder: a pure function."""

    def tier(self, page: PageFacts, proposed: str | None) -> str:
        """The tier of a page: "text", a mode of the ladder, or "forgotten".

        A policy that measures answers with a mode that was not tried yet to have it tried, and is asked again with the verdict;
        an answer that was tried, or that is no mode, is final.

        Args:
            proposed: by the policy before in the chain; None for the first.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Policies in a chain.

    Attributes:
        names: of the policies, in their order.
        as_of: the clock; None where no policy looks at it.
        climbs: whether a page may have to be tried in several modes.
        one_way: a page is not proposed sharper than it is stored (it may still be measured up).
    """

    names: tuple[str, ...]
    parts: tuple[TierPolicy, ...]
    ladder: Ladder
    as_of: datetime | None
    predictor: Predictor | None
    climbs: bool
    one_way: bool = False

    def tier(self, page: PageFacts) -> str:
        """The tier of a page; see `TierPolicy.tier`."""
        proposed: str | None = None
        for name, part in zip(self.names, self.parts, strict=True):
            if name == "fidelity":
                proposed = self._held(page, proposed)
            proposed = part.tier(page, proposed)
        if not self.climbs:
            proposed = self._held(page, proposed)
        assert proposed is not None
        return proposed

    def why_text(self, page: PageFacts) -> str:
        """The row's reason of a page that `tier` gives to text."""
        if page.readings:
            return BELOW
        if self.climbs:
            before = replace(self, names=self.names[:-1], parts=self.parts[:-1], climbs=False)
            if not before.parts or before.tier(page) != TEXT:
                cost = self.ladder.blurriest.num_context_tokens
                return CHEAPER if page.text_tokens is not None and page.text_tokens <= cost else BELOW
        return POLICY

    def _held(self, page: PageFacts, proposed: str | None) -> str | None:
        if not self.one_way or page.tier is None or proposed is None:
            return proposed
        sharpness = self.ladder.sharpness
        return page.tier if sharpness(proposed) > sharpness(page.tier) else proposed

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes that a page may get; of policy "fixed" the one."""
        if self.names == ("fixed",):
            tier = self.tier(PageFacts())
            return tuple(mode for mode in self.ladder.modes if mode.name == tier)
        return self.ladder.modes

    @property
    def px(self) -> int:
        """Side of the largest page image."""
        return max((mode.px for mode in self.modes), default=self.ladder.blurriest.px)

    @property
    def described(self) -> str:
        """For people: the policies and the modes that pages may get."""
        modes = ", ".join(f"{mode.name} ({mode.px} px)" for mode in reversed(self.modes)) or TEXT
        as_of = f" as of {self.as_of:%Y-%m-%d %H:%M} UTC" if self.as_of else ""
        return f"{'+'.join(self.names)}{as_of}: {modes}" + (", predicted" if self.predictor else "")

    def age(self, timestamp: datetime | None) -> timedelta | None:
        return age_of(timestamp, self.as_of)

    def features(self, text: str) -> tuple[float, ...] | None:
        """What `PageFacts.features` should be for a page with this text."""
        return None if self.predictor is None else self.predictor.features(text)


def policy_names(policy: str) -> tuple[str, ...]:
    """`"fidelity+age"` -> `("age", "fidelity")`: each once, in the order in which they run, led by a base or by "fidelity".

    Raises:
        ConfigError: for an unknown name, with the choices; for two bases.
    """
    names = [name.strip() for name in policy.split("+")]
    for name in names:
        if name not in RANKS:
            raise ConfigError(f"tiers.policy = {policy!r}: {name!r} is no policy; join some of {', '.join(RANKS)} with +")
    bases = [name for name in dict.fromkeys(names) if RANKS[name] == 0]
    if len(bases) > 1:
        raise ConfigError(f"tiers.policy = {policy!r}: {' and '.join(bases)} both propose a tier; choose one")
    if not bases and set(names) != {"fidelity"}:
        names.append("fixed")
    return tuple(sorted(set(names), key=lambda name: (RANKS[name], name)))


def find_policy(config: TierConfig, ladder: Ladder, predictor: Predictor | None = None, *, one_way: bool = False) -> Policy:
    """The policy that `[tiers]` names.

    Args:
        predictor: of the codec and grid; None climbs rung by rung.
        one_way: see `Policy`.

    Raises:
        ConfigError: for an unknown policy, a mode that the ladder lacks, a missing clock or a bad duration; naming the setting.
    """
    names = policy_names(config.policy)
    climbs = "fidelity" in names
    timed = [name for name in names if name in ("age", "forget")]
    if timed and not config.as_of:
        raise ConfigError(f"tiers.as_of = '': policy {timed[0]!r} needs to know what time it is, for example 2026-01-31")
    predictor = predictor if climbs else None
    parts: list[TierPolicy] = []
    for name in names:
        build = import_module(f"palimpsest.tiers.{name}").build
        parts.append(build(config, ladder, predictor) if name == "fidelity" else build(config, ladder))
    return Policy(
        names=names,
        parts=tuple(parts),
        ladder=ladder,
        as_of=parse_as_of(config.as_of) if timed else None,
        predictor=predictor,
        climbs=climbs,
        one_way=one_way,
    )


def policy_of(
    config: JobConfig, layout: Layout, codec_revision: str, *, published: bool = False, one_way: bool = False
) -> tuple[JobConfig, Policy]:
    """The policy of a job, and its configuration with what was measured of the codec's modes in it.

    So every worker and every later job has the same rungs and the same predictor, whatever file lies there then.

    Args:
        published: the pages are those of a published corpus; only there a policy may forget.

    Raises:
        ConfigError: for what `find_policy` refuses, or a policy that does not go with the other settings.
    """
    tiers = config.tiers
    names = policy_names(tiers.policy)
    ladder = ladder_of(config, layout)
    predictor = None
    if "fidelity" in names and config.verification.share < 1:
        raise ConfigError(f"verification.share = {config.verification.share}: policy 'fidelity' decodes every page, it must be 1")
    if "forget" in names and not published:
        raise ConfigError(f"tiers.policy = {tiers.policy!r}: 'forget' drops texts of a published corpus: palimpsest retier")
    if names != ("fixed",):
        text = rungs_text(tiers.predictor, codec_revision, str(layout))
        if text != NONE:
            tiers = as_measured(tiers, names, ladder, read_rungs(text, config.verification.target_precision))
            ladder = Ladder.of(ladder.known, tiers.modes)
        if "fidelity" in names:
            tiers = tiers.replace(predictor=text)
            target = config.verification.target_precision
            predictor = None if text == NONE else read_predictor(text, codec_revision, str(layout), target)
    return config.replace(tiers=tiers), find_policy(tiers, ladder, predictor, one_way=one_way)
