"""Policies: their input, their protocol, and how they are looked up by name and chained.

    policy = find_policy(config.tiers, ladder)
    policy.tier(PageFacts(age=timedelta(days=40)))        # "small"

Chained policies run in the order of RANKS, however they are written: a base that proposes a tier (fixed, age), then forget, then
importance, then fidelity, which measures. So a pinned page is never forgotten, and a forgotten page is not measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from importlib import import_module
from typing import NamedTuple, Protocol

from palimpsest.codecs.modes import Mode
from palimpsest.config import ConfigError, JobConfig, TierConfig
from palimpsest.pages.layouts.protocol import Layout
from palimpsest.tiers.clock import age_of, parse_as_of
from palimpsest.tiers.ladder import FORGOTTEN, TEXT, Ladder, ladder_of
from palimpsest.tiers.operating_points.measured import NONE, entry_text
from palimpsest.tiers.operating_points.rungs import as_measured, read_rungs
from palimpsest.tiers.predictor import Predictor, read_predictor

BELOW = "below_every_rung"
CHEAPER = "text_is_cheaper"
POLICY = "policy"
"""Reasons of pages kept as text; the modes that were tried are in the row's `tried`."""

RANKS = {"fixed": 0, "age": 0, "forget": 1, "importance": 2, "fidelity": 3}
"""Policies by name, each the module of this folder of that name, and their rank in a chain."""


class Reading(NamedTuple):
    """The verdict on a page in one mode: its precision, and whether it met the target."""

    precision: float
    met: bool


@dataclass(frozen=True, kw_only=True)
class PageFacts:
    """The facts of a page that a policy may use. An unknown fact is None, and every policy has a rule for that.

    Attributes:
        age: never negative.
        importance: as given in the corpus.
        text_tokens: cost of the page as text.
        tier: its stored tier; None for a new page.
        readings: verdicts on the modes that were tried, in the order of the trials.
        features: the result of `Policy.features` for its text.
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

        A policy that measures returns an untried mode to have it tried, and is called again with the verdict. A tried mode, or a
        tier that is no mode, is final.

        Args:
            proposed: proposal of the previous policy in the chain; None for the first.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Policies in a chain.

    Attributes:
        names: names of the policies, in their order.
        as_of: the clock; None if no policy uses it.
        climbs: whether a page may need trials in several modes.
        cheap_text: a page is text where its text costs no more than the tokens of the proposed mode.
        one_way: no page is proposed sharper than it is stored (a measurement may still make it sharper).
    """

    names: tuple[str, ...]
    parts: tuple[TierPolicy, ...]
    ladder: Ladder
    as_of: datetime | None
    predictor: Predictor | None
    climbs: bool
    cheap_text: bool = True
    one_way: bool = False

    def tier(self, page: PageFacts) -> str:
        """The tier of a page; see `TierPolicy.tier`."""
        proposed: str | None = None
        for name, part in zip(self.names, self.parts, strict=True):
            if name == "fidelity" and proposed is not None:
                proposed = self._kept(page, proposed)
            proposed = part.tier(page, proposed)
        assert proposed is not None
        if self.climbs:  # policy fidelity compares the costs itself
            return proposed
        if self.cheap_text and page.text_tokens is not None and proposed != FORGOTTEN:
            proposed = TEXT if page.text_tokens <= self.ladder.sharpness(proposed) else proposed
        return self._kept(page, proposed)

    def why_text(self, page: PageFacts) -> str:
        """The row's reason for a page that `tier` keeps as text."""
        if self.climbs and page.readings:
            return BELOW
        if self.climbs:
            before = replace(self, names=self.names[:-1], parts=self.parts[:-1], climbs=False, cheap_text=False)
            if not before.parts or before.tier(page) != TEXT:
                cost = self.ladder.blurriest.num_context_tokens
                return CHEAPER if page.text_tokens is not None and page.text_tokens <= cost else BELOW
            return POLICY
        return POLICY if replace(self, cheap_text=False).tier(page) == TEXT else CHEAPER

    def _kept(self, page: PageFacts, proposed: str) -> str:
        if not self.one_way or page.tier is None:
            return proposed
        sharpness = self.ladder.sharpness
        return page.tier if sharpness(proposed) > sharpness(page.tier) else proposed

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes that a page may get; a single one for policy "fixed"."""
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
        """A readable description: the policies and the modes that pages may get."""
        modes = ", ".join(f"{mode.name} ({mode.px} px)" for mode in reversed(self.modes)) or TEXT
        as_of = f" as of {self.as_of:%Y-%m-%d %H:%M} UTC" if self.as_of else ""
        return f"{'+'.join(self.names)}{as_of}: {modes}" + (", predicted" if self.predictor else "")

    def age(self, timestamp: datetime | None) -> timedelta | None:
        return age_of(timestamp, self.as_of)

    def features(self, text: str) -> tuple[float, ...] | None:
        """The value of `PageFacts.features` for a page with this text."""
        return None if self.predictor is None else self.predictor.features(text)


def policy_names(policy: str) -> tuple[str, ...]:
    """`"fidelity+age"` -> `("age", "fidelity")`: each once, in the order in which they run, led by a base or by "fidelity".

    Raises:
        ConfigError: a name is unknown (the message lists the choices), or there are two bases.
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
        build = import_module(f"palimpsest.tiers.policies.{name}").build
        parts.append(build(config, ladder, predictor) if name == "fidelity" else build(config, ladder))
    return Policy(
        names=names,
        parts=tuple(parts),
        ladder=ladder,
        as_of=parse_as_of(config.as_of) if timed else None,
        predictor=predictor,
        climbs=climbs,
        cheap_text=config.cheap_text,
        one_way=one_way,
    )


def policy_of(
    config: JobConfig, layout: Layout, codec_revision: str, *, published: bool = False, one_way: bool = False
) -> tuple[JobConfig, Policy]:
    """The policy of a job, and its configuration completed by the measured rungs of the codec.

    So every worker and every later job has the same rungs and the same predictor, even if the file changes.

    Args:
        published: the pages belong to a published corpus; only there may a policy forget.

    Raises:
        ConfigError: `find_policy` refuses a setting, or the policy does not fit the other settings.
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
        text = entry_text(tiers.predictor, codec_revision, layout)
        if text != NONE:
            tiers = as_measured(tiers, names, ladder, read_rungs(text, config.verification.target_precision))
            ladder = Ladder.of(ladder.known, tiers.modes)
        if "fidelity" in names:
            tiers = tiers.replace(predictor=text)
            target = config.verification.target_precision
            predictor = None if text == NONE else read_predictor(text, codec_revision, layout, target)
    return config.replace(tiers=tiers), find_policy(tiers, ladder, predictor, one_way=one_way)
