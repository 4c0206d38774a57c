"""The rungs of a codec on a layout: the modes worth using. A sharper mode need not be read better.

A codec is trained on some pairs of layout and mode more than on others. So a mode can cost more than another and be read worse.
Such a mode is no rung: the cheaper mode replaces it. Without a measurement for a codec and layout, every mode is a rung.

The rungs are written into the job's settings (`tiers.modes`, `tiers.ages`), which are recorded with the run. Modes that the
settings name are used unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from palimpsest.config import TierConfig
from palimpsest.tiers.ladder import FIGURE, Ladder
from palimpsest.tiers.operating_points.measured import broken, read_entries


@dataclass(frozen=True)
class Rungs:
    """Modes by name, cheapest first.

    Attributes:
        fading: each reads better than every cheaper one, so that a page that fades reads no better than before.
        climbing: each brings pages to the job's target that no cheaper one does.
    """

    fading: tuple[str, ...]
    climbing: tuple[str, ...]


def read_rungs(text: str, target: float) -> Rungs:
    """The rungs of a text from `entry_text`, for pages that must reach the precision `target`.

    Raises:
        ConfigError: an entry has no rungs.
    """
    entry: dict[str, Any] = read_entries(text)[0]
    try:
        nearest = min(entry["climbing"], key=lambda named: abs(float(named) - target))
        rungs = Rungs(tuple(entry["fading"]), tuple(entry["climbing"][nearest]))
    except (KeyError, TypeError, ValueError) as error:
        raise broken(error) from error
    if not rungs.fading or not rungs.climbing:
        raise broken(ValueError(f"an entry for {entry.get('layout')} without rungs"))
    return rungs


def as_measured(tiers: TierConfig, names: tuple[str, ...], ladder: Ladder, rungs: Rungs) -> TierConfig:
    """The settings, completed by the measured rungs: the modes that pages may get, and the tiers of the figure's ages.

    Args:
        names: names of the policies, in their order.
        ladder: ladder of all modes that the codec has for the grid.
    """
    if tiers.modes:
        return tiers
    named = {step.partition(" ")[2].strip() for step in tiers.ages} | {tiers.undated} if "age" in names else set()
    if "fixed" in names:
        named.add(tiers.mode)
    if "fidelity" in names:
        named.update(rungs.climbing)
    if "age" in names or "fidelity" not in names:
        named.update(rungs.fading)
    modes = tuple(mode.name for mode in reversed(ladder.known) if mode.name in named)
    fades = tuple(name for name in rungs.fading if name in modes)
    ages = figure(ladder, fades) if "age" in names and fades and not tiers.ages else tiers.ages
    return tiers.replace(modes=modes, ages=ages)


def figure(ladder: Ladder, fading: Sequence[str]) -> tuple[str, ...]:
    """The figure's steps if only the modes in `fading` are worth fading to, in the form of `tiers.ages`."""
    rungs = Ladder.of(ladder.known, fading)
    costs = {mode.name: mode.num_context_tokens for mode in ladder.known}
    steps = []
    for step in FIGURE:
        since, _, name = step.partition(" ")
        cheaper = [mode.name for mode in rungs.modes if name in costs and mode.num_context_tokens <= costs[name]]
        steps.append(f"{since} {cheaper[0] if cheaper else rungs.at_least(name)}")
    return tuple(steps)
