"""Loops: a decoder that repeats itself where the reference does not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from palimpsest.errors import UsageError
from palimpsest.verification.reading import Cut


class Stretches:
    """Measures the periodic stretches of a growing sequence, for all periods from 1 to `max_period` at once.

    A stretch covers its first unit too: `abcabcab` is, with period 3, a stretch of 8 at its last token.
    """

    def __init__(self, max_period: int) -> None:
        self._history = np.full(max_period, -1, np.int64)
        self._matched = np.zeros((max_period, 1), np.int64)
        self._periods = np.arange(1, max_period + 1)[:, None]

    def extend(self, ids: np.ndarray) -> np.ndarray:
        """Append ids `[n]`; returns the stretch `[max_period, n]` that ends at each of them, 0 where the period is broken."""
        size, known = len(ids), np.concatenate((self._history, ids))
        earlier = np.lib.stride_tricks.sliding_window_view(known, size)[:-1][::-1]  # row p − 1: the ids p positions earlier
        same, indices = earlier == ids, np.arange(size)
        broken = np.maximum.accumulate(np.where(same, -1, indices), axis=1)
        matched = np.where(broken < 0, self._matched + indices + 1, indices - broken)
        self._matched, self._history = matched[:, -1:], known[size:]
        return np.where(matched > 0, matched + self._periods, 0)


class LoopWatch:
    """Cuts a page at its first loop.

    A loop of period p is a stretch that repeats its unit at least `min_repeats` times, covers at least `min_tokens` tokens, and
    is longer by `min_tokens` than the reference's own longest stretch of that period: a page of dashes may be read as dashes.
    The cut is a prefix of the greedy output, at an index that depends on the output and the reference only.
    """

    STRIDE = 64  # tokens between two checks

    def __init__(self, reference: Sequence[int], *, min_repeats: int = 4, min_tokens: int = 64, max_period: int = 128) -> None:
        """Raises ValueError for a setting below its least meaningful value."""
        for name, value, least in (("min_repeats", min_repeats, 2), ("min_tokens", min_tokens, 2), ("max_period", max_period, 1)):
            if value < least:
                raise UsageError(f"{name} is {value}; it must be at least {least}")
        self._reference = np.asarray(reference, np.int64)
        self._min_repeats, self._min_tokens, self._max_period = min_repeats, min_tokens, max_period
        self._stretches = Stretches(max_period)
        self._seen = 0
        self._thresholds: np.ndarray | None = None

    def __call__(self, ids: Sequence[int]) -> Cut | None:
        """The cut right after the token that completes the first loop, or None."""
        for end in range(self._seen + self.STRIDE, len(ids) + 1, self.STRIDE):
            stretch = self._stretches.extend(np.asarray(ids[self._seen : end], np.int64))
            start, self._seen = self._seen, end
            if stretch.max() < self._min_tokens:
                continue
            loops = stretch >= self._threshold()
            if loops.any():
                index = int(loops.any(axis=0).argmax())
                period = int(loops[:, index].argmax()) + 1
                detail = f"period {period}, {stretch[period - 1, index]} tokens up to token {start + index + 1}"
                return Cut(length=start + index + 1, reason="loop", detail=detail)
        return None

    def _threshold(self) -> np.ndarray:
        """Tokens that a stretch of each period must cover to be a loop, `[max_period, 1]`."""
        if self._thresholds is None:
            own = np.zeros((self._max_period, 1), np.int64)
            if len(self._reference):
                own = Stretches(self._max_period).extend(self._reference).max(axis=1, keepdims=True)
            periods = np.arange(1, self._max_period + 1)[:, None]
            self._thresholds = np.maximum(self._min_repeats * periods, self._min_tokens + own)
        return self._thresholds
