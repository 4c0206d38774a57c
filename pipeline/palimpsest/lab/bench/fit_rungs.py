"""Makes an entry of a rungs file from measured verdicts: which modes are rungs, and a predictor.

The predictor is a ridge regression for every mode, and the covariance of the residuals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from palimpsest.tiers.predictor import FEATURES, log_error

RIDGE = 1e-2
MIN_PAGES = 2 * len(FEATURES)
BETTER = 0.8
"""A mode fades to a cheaper one unless it makes at most this share of the errors of every cheaper one: less is noise."""
READABLE = 0.5
"""Mean precision below which a mode is no rung to fade to. DeepSeek-OCR's paper still shows 0.59 at 20x (table 2)."""
TARGETS = ("0.8", "0.9", "0.95", "0.97", "0.99")
"""Precisions for which a rungs file says what is worth a climb; a job takes the nearest."""
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


def fit_grid(
    codec_revision: str,
    grid: str,
    modes: Sequence[str],
    features: Sequence[Sequence[float]],
    precisions: Sequence[Sequence[float]],
) -> dict[str, Any]:
    """One entry of a rungs file.

    Args:
        modes: cheapest first.
        features: `[pages, FEATURES]`.
        precisions: `[pages, modes]`, measured.

    Raises:
        ValueError: for too few pages.
    """
    if len(features) < MIN_PAGES:
        raise ValueError(f"{len(features)} pages are too few to fit a predictor for grid {grid}; at least {MIN_PAGES}")
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
    mean = seen.mean(0).tolist()
    met = {target: seen >= float(target) for target in TARGETS}
    return {
        "codec_revision": codec_revision,
        "grid": grid,
        "modes": list(modes),
        "pages": len(x),
        "precision": np.round(mean, 4).tolist(),
        "reached": {target: np.round(reaches.mean(0), 4).tolist() for target, reaches in met.items()},
        "fading": fading_modes(modes, mean),
        "climbing": {target: climbing_modes(modes, reaches, mean) for target, reaches in met.items()},
        "weights": np.round(weights, 6).tolist(),
        "covariance": np.round(covariance, 6).tolist(),
    }
