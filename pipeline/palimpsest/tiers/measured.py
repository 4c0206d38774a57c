"""The rungs of a codec: the modes worth using, measured for each codec revision and grid. A sharper mode need not be read better.

A codec is trained on some pairs of grid and mode more than on others. So on a grid a mode can cost more than another and be read
worse. Such a mode is no rung: the cheaper mode replaces it. A rungs file lists the rungs, with their figures and the predictor of
the same pages. `palimpsest bench tiers --fit` makes it for one grid, and `jobs/fit_rungs.py` for the codec that ships. Without a
file for a codec and grid, every mode is a rung.

The result is written into the job's settings (`tiers.modes`, `tiers.ages`, `tiers.predictor`), which are recorded with the run: a
corpus keeps its ladder when the file changes. Modes that the settings name are used unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palimpsest.config import ConfigError, TierConfig
from palimpsest.tiers.ladder import FIGURE, Ladder
from palimpsest.tiers.predictor import broken, read_entries, rungs_file

SHIPPED = Path(__file__).parent / "operating_points"
NONE = "none"


@dataclass(frozen=True)
class Rungs:
    """Modes by name, cheapest first.

    Attributes:
        fading: each reads better than every cheaper one, so that a page that fades reads no better than before.
        climbing: each brings pages to the job's target that no cheaper one does.
    """

    fading: tuple[str, ...]
    climbing: tuple[str, ...]


def shipped(codec_revision: str) -> Path:
    """The path of the rungs file that comes with Palimpsest for a codec."""
    return SHIPPED / f"{codec_revision.replace(':', '-')}.json"


def rungs_text(setting: str, codec_revision: str, grid: str) -> str:
    """The rungs that `tiers.predictor` names, as the text of a rungs file with one entry.

    Args:
        setting: a path; such a text itself; "none"; or "" for the file that comes with Palimpsest for this codec revision.

    Returns:
        The text, or "none" if that is requested or nothing ships for this codec and grid.

    Raises:
        ConfigError: the file cannot be read, or was measured on other codecs and grids.
    """
    if setting == NONE:
        return NONE
    text = setting if setting.lstrip().startswith("{") else _read(setting, codec_revision)
    entries = read_entries(text) if text else []
    try:
        matching = [entry for entry in entries if (entry["codec_revision"], entry["grid"]) == (codec_revision, grid)]
        if setting and not matching:
            has = ", ".join(f"{entry['grid']} of {entry['codec_revision'][:19]}" for entry in entries)
            raise ConfigError(
                f"tiers.predictor: measured on {has or 'nothing'}, not on grid {grid} of codec {codec_revision[:19]}; "
                f'fit it there (palimpsest bench tiers --fit), or "none"'
            )
    except (KeyError, TypeError) as error:
        raise broken(error) from error
    return json.dumps(rungs_file(matching), separators=(",", ":"), sort_keys=True) if matching else NONE


def _read(setting: str, codec_revision: str) -> str:
    path = Path(setting).expanduser() if setting else shipped(codec_revision)
    if not setting and not path.is_file():
        return ""
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"tiers.predictor = {setting!r}: cannot be read: {error}") from error


def read_rungs(text: str, target: float) -> Rungs:
    """The rungs of a text from `rungs_text`, for pages that must reach the precision `target`.

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
        raise broken(ValueError(f"an entry for grid {entry.get('grid')} without rungs"))
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
