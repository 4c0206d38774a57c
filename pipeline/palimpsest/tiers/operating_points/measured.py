"""Files of measured operating points: for each codec revision and layout one entry, which `palimpsest fit` writes.

An entry has the points by mode and class of text, the modes that are worth using (`rungs.py`), and the weights of the predictor
that was fitted to the same pages (`tiers/predictor.py`). A job takes the entry of its codec and layout into its settings. They
are recorded with the run, so a corpus keeps its modes when the file changes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from palimpsest.config import ConfigError
from palimpsest.pages.layouts.protocol import Layout
from palimpsest.tiers.operating_points.point import OperatingPoint

FEATURES = ("one", "fill", "digits", "capitals", "marks", "rare", "entropy", "odd_words", "lines")
FORMAT = 3
SHIPPED = Path(__file__).parent
NONE = "none"


def layout_key(layout: Layout) -> str:
    """A layout as entries name it: all that decides how large and how dense its letters are."""
    return f"grid {layout}" if layout.sizes else layout.described.partition(" cjk=")[0]


def shipped(codec_revision: str) -> Path:
    """The path of the file that comes with Palimpsest for a codec."""
    return SHIPPED / f"{codec_revision.replace(':', '-')}.json"


def points_file(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A file of several entries."""
    return {"format": FORMAT, "features": list(FEATURES), "entries": list(entries)}


def read_entries(text: str) -> list[dict[str, Any]]:
    """The entries of a file, one for each codec revision and layout.

    Raises:
        ConfigError: for a text that is no file of this format.
    """
    try:
        record = json.loads(text)
        if record["format"] != FORMAT or tuple(record["features"]) != FEATURES:
            raise ValueError(f"format {record['format']} with features {record['features']}")
        return [dict(entry) for entry in record["entries"]]
    except (ValueError, KeyError, TypeError) as error:
        raise broken(error) from error


def broken(error: Exception) -> ConfigError:
    return ConfigError(f"tiers.predictor: no file of operating points of format {FORMAT} (palimpsest fit): {error!r}")


def entry_text(setting: str, codec_revision: str, layout: Layout) -> str:
    """The entry that `tiers.predictor` names, as the text of a file with that entry alone, without its points.

    Args:
        setting: a path; such a text itself; "none"; or "" for the file that comes with Palimpsest for this codec revision.

    Returns:
        The text, or "none" if that is requested or nothing ships for this codec and layout.

    Raises:
        ConfigError: the file cannot be read, or was measured on other codecs and layouts.
    """
    if setting == NONE:
        return NONE
    text = setting if setting.lstrip().startswith("{") else _read(setting, codec_revision)
    entries = read_entries(text) if text else []
    key = layout_key(layout)
    try:
        matching = [entry for entry in entries if (entry["codec_revision"], entry["layout"]) == (codec_revision, key)]
        if setting and not matching:
            has = ", ".join(f"{entry['layout']} of {entry['codec_revision'][:19]}" for entry in entries)
            raise ConfigError(
                f"tiers.predictor: measured on {has or 'nothing'}, not on {key} of codec {codec_revision[:19]}; "
                f'measure it there (palimpsest fit), or "none"'
            )
    except (KeyError, TypeError) as error:
        raise broken(error) from error
    if not matching:
        return NONE
    needed = [{name: value for name, value in entry.items() if name not in ("points", "sample")} for entry in matching]
    return json.dumps(points_file(needed), separators=(",", ":"), sort_keys=True)


def measured_points(setting: str, codec_revision: str, layout: Layout) -> list[OperatingPoint]:
    """The points of the entry that `tiers.predictor` names, as in `entry_text`; empty where there is none."""
    if setting == NONE or setting.lstrip().startswith("{"):
        return []
    text = _read(setting, codec_revision)
    key = layout_key(layout)
    return [
        OperatingPoint(**point, layout=key, basis="measured", source=codec_revision)
        for entry in (read_entries(text) if text else [])
        if (entry.get("codec_revision"), entry.get("layout")) == (codec_revision, key)
        for point in entry.get("points", ())
    ]


def _read(setting: str, codec_revision: str) -> str:
    path = Path(setting).expanduser() if setting else shipped(codec_revision)
    if not setting and not path.is_file():
        return ""
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"tiers.predictor = {setting!r}: cannot be read: {error}") from error
