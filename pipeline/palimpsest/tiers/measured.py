"""Which of a codec's modes are rungs: measured for each codec revision and grid, since a sharper mode need not be read better.

A codec is trained on some pairs of grid and mode more than on others, so that on a grid a mode can cost more than another and be
read worse. Such a mode is no rung: what would be seen in it is seen in the cheaper one. A rungs file says which are left, with
the figures that say so and the predictor of the same pages; it is made by `palimpsest bench tiers --fit` for one grid, and by
`jobs/fit_rungs.py` for the codec that ships. Where there is none for a codec and grid, every mode is a rung.

What a policy makes of it is written into the job's settings (`tiers.modes`, `tiers.ages`, `tiers.predictor`), which are recorded
with the run: a corpus keeps its ladder when the file changes. Modes that the settings name are taken as they are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palimpsest.config import ConfigError, TierConfig
from palimpsest.tiers.fit import rungs_file
from palimpsest.tiers.ladder import FIGURE, Ladder
from palimpsest.tiers.predictor import broken, read_entries

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
    """Where the rungs file of a codec lies that comes with Palimpsest."""
    return SHIPPED / f"{codec_revision.replace(':', '-')}.json"


def rungs_text(setting: str, codec_revision: str, grid: str) -> str:
    """What `tiers.predictor` names, as the text of a rungs file with one entry.

    Args:
        setting: a path; such a text itself; "none"; or "" for the file that comes with Palimpsest for this codec revision.

    Returns:
        The text, or "none": where that is asked for, or nothing ships for this codec and grid.

    Raises:
        ConfigError: for a file that cannot be read, or was measured on other codecs and grids.
    """
    if setting == NONE:
        return NONE
    text = setting if setting.lstrip().startswith("{") else _read(setting, codec_revision)
    entries = read_entries(text) if text else []
    try:
        found = [entry for entry in entries if (entry["codec_revision"], entry["grid"]) == (codec_revision, grid)]
        if setting and not found:
            has = ", ".join(f"{entry['grid']} of {entry['codec_revision'][:19]}" for entry in entries)
            raise ConfigError(
                f"tiers.predictor: measured on {has or 'nothing'}, not on grid {grid} of codec {codec_revision[:19]}; "
                f'fit it there (palimpsest bench tiers --fit), or "none"'
            )
    except (KeyError, TypeError) as error:
        raise broken(error) from error
    return json.dumps(rungs_file(found), separators=(",", ":"), sort_keys=True) if found else NONE


def _read(setting: str, codec_revision: str) -> str:
    path = Path(setting).expanduser() if setting else shipped(codec_revision)
    if not setting and not path.is_file():
        return ""
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"tiers.predictor = {setting!r}: cannot be read: {error}") from error


def read_rungs(text: str, target: float) -> Rungs:
    """The rungs of a text that `rungs_text` gave, for pages that have to reach the precision `target`.

    Raises:
        ConfigError: for an entry that names none.
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
    """The settings with what was measured in them: the modes that may be given, and the tiers of the figure's ages.

    Args:
        names: of the policies, in their order.
        ladder: of all modes that the codec has for the grid.
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
    """The figure's steps where of the codec's modes only `fading` are worth fading to, as `tiers.ages` would say them."""
    rungs = Ladder.of(ladder.known, fading)
    costs = {mode.name: mode.num_context_tokens for mode in ladder.known}
    steps = []
    for step in FIGURE:
        since, _, name = step.partition(" ")
        cheaper = [mode.name for mode in rungs.modes if name in costs and mode.num_context_tokens <= costs[name]]
        steps.append(f"{since} {cheaper[0] if cheaper else rungs.at_least(name)}")
    return tuple(steps)
