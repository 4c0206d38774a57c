"""Predicts the precision of a page in each mode, from cheap features of its text.

For every mode a linear model predicts the logarithm of the error, log10(1 - precision + 0.001). The models' joint errors are
assumed to be normal, which gives the chance of meeting any target. A verdict in one mode corrects the expectation in the others:
a page that reads worse than predicted in tiny will read worse than predicted in small. A predictor is measured on one codec
revision and one layout; elsewhere pages climb rung by rung. It is stored in a file of operating points.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from palimpsest.pages.layouts.protocol import Layout
from palimpsest.tiers.operating_points.measured import FEATURES, broken, layout_key, read_entries

_FLOOR = 1e-3  # errors below one in a thousand count as equal
_ODD = re.compile(r"(?i:[^aeiouy\W\d_]{5}|[a-z][0-9]|[0-9][a-z])|[a-z][A-Z]")
_WORD = re.compile(r"\w{3,}")


def page_features(text: str, capacity: int) -> tuple[float, ...]:
    """FEATURES of a page: how full it is, shares of kinds of characters, entropy of characters (bits / 8), share of odd words."""
    size = max(len(text), 1)
    counts = Counter(text)
    words = _WORD.findall(text)
    entropy = -sum(count / size * math.log2(count / size) for count in counts.values())

    def share(kind: Any) -> float:
        return sum(count for char, count in counts.items() if kind(char)) / size

    return (
        1.0,
        min(len(text) / capacity, 1.0),
        share(str.isdigit),
        share(str.isupper),
        share(lambda char: char.isascii() and not char.isalnum() and not char.isspace()),
        share(lambda char: not char.isascii()),
        entropy / 8,
        sum(_ODD.search(word) is not None for word in words) / max(len(words), 1),
        counts["\n"] / size * 10,
    )


def log_error(precision: float) -> float:
    return math.log10(max(1 - precision, 0.0) + _FLOOR)


@dataclass(frozen=True)
class Predictor:
    """A fitted model.

    Attributes:
        codec_revision, layout: the codec revision and the layout that it was measured on.
        modes: names.
        weights: `[modes, FEATURES]`.
        covariance: `[modes, modes]` of the models' errors.
        target: the precision that pages must reach.
        capacity: of the layout, in characters.
    """

    codec_revision: str
    layout: str
    modes: tuple[str, ...]
    weights: np.ndarray
    covariance: np.ndarray
    target: float
    capacity: int

    def features(self, text: str) -> tuple[float, ...]:
        return page_features(text, self.capacity)

    def chance(self, mode: str, features: Sequence[float], seen: Mapping[str, float] | None = None) -> float:
        """Probability of meeting the target in `mode`, given the precisions `seen` in others; 0.5 for an unknown mode."""
        if mode not in self.modes:
            return 0.5
        at = self.modes.index(mode)
        expected = np.clip(self.weights @ np.asarray(features, np.float64), log_error(1.0), log_error(0.0))
        mean, variance = float(expected[at]), float(self.covariance[at, at])
        known = [self.modes.index(name) for name in seen or () if name in self.modes]
        if known:
            errors = np.array([log_error((seen or {})[self.modes[number]]) for number in known]) - expected[known]
            gain = np.linalg.solve(self.covariance[np.ix_(known, known)], self.covariance[known, at])
            mean += float(gain @ errors)
            variance -= float(gain @ self.covariance[known, at])
        return 0.5 * math.erfc((mean - log_error(self.target)) / math.sqrt(2 * max(variance, 1e-6)))


def read_predictor(text: str, codec_revision: str, layout: Layout, target: float) -> Predictor | None:
    """The predictor for a codec revision and a layout from a file of operating points; None if it has none for them.

    Raises:
        ConfigError: for a text that is no such file.
    """
    key = layout_key(layout)
    for entry in read_entries(text):
        try:
            if (entry["codec_revision"], entry["layout"]) == (codec_revision, key):
                weights = np.array(entry["weights"], np.float64).reshape(len(entry["modes"]), len(FEATURES))
                covariance = np.array(entry["covariance"], np.float64).reshape(len(weights), len(weights))
                return Predictor(codec_revision, key, tuple(entry["modes"]), weights, covariance, target, layout.capacity)
        except (ValueError, KeyError, TypeError) as error:
            raise broken(error) from error
    return None
