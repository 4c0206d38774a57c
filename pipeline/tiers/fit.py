"""Makes a predictor from measured verdicts: ridge regression for every mode, and the covariance of what is left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.tiers.predictor import FEATURES, FORMAT, log_error

RIDGE = 1e-2
MIN_PAGES = 2 * len(FEATURES)
_LEAST_SPREAD = 0.05  # decades of error: no model is surer than that


def fit_grid(
    codec_revision: str,
    grid: str,
    modes: Sequence[str],
    features: Sequence[Sequence[float]],
    precisions: Sequence[Sequence[float]],
) -> dict[str, Any]:
    """One entry of a predictor file.

    Args:
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
    return {
        "codec_revision": codec_revision,
        "grid": grid,
        "modes": list(modes),
        "pages": len(x),
        "weights": np.round(weights, 6).tolist(),
        "covariance": np.round(covariance, 6).tolist(),
    }


def predictor_file(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A predictor file of several entries."""
    return {"format": FORMAT, "features": list(FEATURES), "grids": list(entries)}
