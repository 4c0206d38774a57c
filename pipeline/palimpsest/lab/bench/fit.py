"""Fits operating points: what a codec reads on a layout, by mode and class of text, which modes are worth using, and a predictor.

The predictor is a ridge regression for every mode, and the covariance of the residuals.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from palimpsest.codecs.modes import Mode
from palimpsest.config import ConfigError, JobConfig
from palimpsest.errors import UsageError
from palimpsest.flow.recipe import Recipe
from palimpsest.lab.bench.measured_pages import Measured, measure_pages, modes_of
from palimpsest.tiers.operating_points.measured import FEATURES, layout_key, points_file, read_entries
from palimpsest.tiers.operating_points.point import TARGETS
from palimpsest.tiers.predictor import log_error

RIDGE = 1e-2
MIN_PAGES = 2 * len(FEATURES)
BETTER = 0.8
"""A mode fades to a cheaper one unless it makes at most this share of the errors of every cheaper one: less is noise."""
READABLE = 0.5
"""Mean precision below which a mode is no rung to fade to. DeepSeek-OCR's paper still shows 0.59 at 20x (table 2)."""
RESCUED = 0.2
"""Of the pages that miss the target in every cheaper mode, the share that a mode must bring there to be worth its tries."""
_LEAST_SPREAD = 0.05  # decades of error; lower bound of a model's uncertainty


def fading_modes(modes: Sequence[str], precision: Sequence[float]) -> list[str]:
    """The modes that read better than every cheaper one; the best mode if none is readable.

    Args:
        modes: cheapest first.
        precision: of each, the mean over pages.
    """
    chosen: list[str] = []
    least = math.inf
    for mode, value in zip(modes, precision, strict=True):
        if value >= READABLE and least > 0 and 1 - value <= BETTER * least:
            chosen.append(mode)
            least = 1 - value
    return chosen or [max(zip(precision, modes, strict=True), key=lambda pair: pair[0])[1]]


def climbing_modes(modes: Sequence[str], met: np.ndarray, precision: Sequence[float]) -> list[str]:
    """The modes worth a climb: each brings at least RESCUED of the pages to the target that no cheaper one brings there.

    If no page is left to decide, a mode that brings as many as any cheaper one is kept. If no mode brings any, the best read is
    kept.

    Args:
        modes: cheapest first.
        met: `[pages, modes]`, whether a page reaches the target.
        precision: of each mode, the mean over pages.
    """
    chosen: list[str] = []
    left, most = np.ones(len(met), bool), 0.0
    for mode, reaches in zip(modes, np.asarray(met, bool).T, strict=True):
        share = float(reaches.mean())
        rescued = reaches[left].mean() >= RESCUED if left.any() else share >= most
        if share > 0 and rescued:
            chosen.append(mode)
            left &= ~reaches
            most = max(most, share)
    return chosen or fading_modes(modes, precision)[-1:]


def fit_layout(
    codec_revision: str,
    layout: str,
    modes: Sequence[str],
    features: Sequence[Sequence[float]],
    precisions: Sequence[Sequence[float]],
) -> dict[str, Any]:
    """One entry of a file of operating points, without the points.

    Args:
        layout: as `layout_key` names it.
        modes: cheapest first.
        features: `[pages, FEATURES]`.
        precisions: `[pages, modes]`, measured.

    Raises:
        UsageError: for too few pages.
    """
    if len(features) < MIN_PAGES:
        raise UsageError(f"{len(features)} pages are too few to fit a predictor for {layout}; at least {MIN_PAGES}")
    x = np.asarray(features, np.float64)
    y = np.array([[log_error(value) for value in row] for row in precisions])
    penalty = RIDGE * len(x) * np.eye(x.shape[1])
    penalty[0, 0] = 0.0  # the mean is free
    spread = np.maximum(x.std(0), 1e-3)
    spread[0] = 1.0
    scaled = x / spread
    weights = np.linalg.solve(scaled.T @ scaled + penalty, scaled.T @ y).T / spread
    left = y - x @ weights.T
    covariance = left.T @ left / max(len(x) - x.shape[1], 1) + _LEAST_SPREAD**2 * np.eye(len(modes))
    seen = np.array(precisions, np.float64)
    means = seen.mean(0).tolist()
    met = {target: seen >= float(target) for target in TARGETS}
    return {
        "codec_revision": codec_revision,
        "layout": layout,
        "modes": list(modes),
        "pages": len(x),
        "precision": np.round(means, 4).tolist(),
        "reached": {target: np.round(reaches.mean(0), 4).tolist() for target, reaches in met.items()},
        "fading": fading_modes(modes, means),
        "climbing": {target: climbing_modes(modes, reaches, means) for target, reaches in met.items()},
        "weights": np.round(weights, 6).tolist(),
        "covariance": np.round(covariance, 6).tolist(),
    }


def entry_of(recipe: Recipe, measured: Sequence[Measured], modes: Sequence[str]) -> dict[str, Any]:
    """`fit_layout` of measured pages."""
    precisions = [[page.readings[mode].precision for mode in modes] for page in measured]
    features = [page.features for page in measured]
    return fit_layout(recipe.revision, layout_key(recipe.layout), modes, features, precisions)


def fit_points(config: JobConfig, texts: Mapping[str, str], path: Path, *, max_pages: int = 0) -> tuple[dict[str, Any], bool]:
    """Measure texts by class in every mode of the codec on one layout, and write the entry to the file at `path`.

    The other entries of that file stay. An entry that was measured there on the same texts is not measured again.

    Returns:
        The entry, with its `points`, and whether it was measured now.

    Raises:
        UsageError: where too few pages can be read by the codec; for a file there that is no file of operating points.
    """
    from palimpsest.operations.resolving import identify

    every = config.replace(tiers=config.tiers.replace(policy="fidelity", predictor="none"))
    recipe = identify(every)
    sample = {"sha256": _digest(texts), "max_pages": max_pages, "target": config.verification.target_precision}
    key = recipe.revision, layout_key(recipe.layout), sample, [mode.name for mode in modes_of(every, recipe)]
    entries = _entries(path)
    for entry in entries:
        if (entry["codec_revision"], entry["layout"], entry.get("sample"), entry["modes"]) == key:
            return entry, False
    recipe, _, measured, _ = measure_pages(every, texts, max_pages)
    modes = modes_of(every, recipe)
    entry = {**entry_of(recipe, measured, [mode.name for mode in modes]), "sample": sample}
    entry["points"] = _points(texts, measured, modes)
    kept = [old for old in entries if (old["codec_revision"], old["layout"]) != key[:2]]
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    record = points_file([*kept, entry])
    lines = ",\n".join(json.dumps(each) for each in record.pop("entries"))  # a line for each entry
    beside.write_text(f'{json.dumps(record)[:-1]}, "entries": [\n{lines}\n]}}\n', "utf-8")
    beside.replace(path)
    return entry, True


def _points(texts: Mapping[str, str], measured: Sequence[Measured], modes: Sequence[Mode]) -> list[dict[str, Any]]:
    points = []
    classes = {name: [page for page in measured if page.text_class == name] for name in texts}
    for name, pages in [*classes.items(), ("all", measured)]:
        for mode in modes if pages else []:
            read = np.array([page.readings[mode.name].precision for page in pages])
            tokens = mean(page.text_tokens for page in pages)
            points.append(
                {
                    "text_class": name,
                    "mode": mode.name,
                    "pages": len(pages),
                    "text_tokens": round(tokens, 1),
                    "ratio": round(tokens / mode.num_context_tokens, 3),
                    "vision_ratio": round(tokens / mode.num_vision_tokens, 3),
                    "precision": round(float(read.mean()), 4),
                    "p5": round(float(np.quantile(read, 0.05, method="lower")), 4),
                    "reached": {target: round(float((read >= float(target)).mean()), 4) for target in TARGETS},
                }
            )
    return points


def _digest(texts: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(texts.items())).encode()).hexdigest()


def _entries(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        return read_entries(path.read_text("utf-8"))
    except (ConfigError, ValueError, OSError) as error:
        raise UsageError(f"{str(path)!r} is there and is no file of operating points: {error}") from error
