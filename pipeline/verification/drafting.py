"""Guess what a decoder will write next, from the reference text and from what it wrote already.

A bad guess costs a forward pass, never a wrong token: `greedy` keeps only what the model itself would have written.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TAIL = 8  # output tokens that are aligned: enough to tell a slip from a skip, few enough to forget an old error
JUMP = 3  # edits that starting far from the expected place costs, so that a single common token is no reason to jump
REACH = 256  # reference tokens before and after the expected place that are searched
HORIZON = 8  # a draft is this many times the page's mean run between disagreements (one longer than that is rare: exp(−8)) …
PRIOR = 128  # … to which this many agreed tokens are added, so that an early error does not count for more than it is …
SHORTEST = 64  # … but at least this long; the first draft is the whole reference


def align(tail: Sequence[int], reference: np.ndarray, expected: int, reach: int = REACH) -> tuple[int, int]:
    """Find the place in `reference` where the output goes on.

    Approximate matching of `tail` in a window of the reference (Sellers 1980, unit costs; starting off the expected place costs
    up to JUMP). Ties go to an end that matches the last token, then to the place nearest to `expected`.

    Args:
        tail: the last tokens of the output, at least one.
        reference: token ids `[n]`.
        expected: the place if the last token was a plain substitution.

    Returns:
        The index of the reference token to draft next, in [0, n], and the edits that the alignment needs.
    """
    low, high = max(0, expected - reach - len(tail)), min(len(reference), expected + reach)
    window = reference[low:high]
    steps = np.arange(len(window) + 1)
    row = np.minimum(np.abs(low + steps - (expected - len(tail))), JUMP)
    first = row[0]
    for count, token in enumerate(tail, 1):
        step = np.minimum(np.concatenate(([first + count], row[:-1] + (window != token))), row + 1)
        row = np.minimum.accumulate(step - steps) + steps
    ends_right = np.concatenate(([False], window == tail[-1]))
    distance = np.abs(low + steps - expected)
    best = int(np.lexsort((distance, ~ends_right, row))[0])
    return low + best, int(row[best])


def repetition(output: Sequence[int], length: int, longest: int = 4) -> list[int]:
    """What followed the last earlier occurrence of the output's ending, repeated up to `length` tokens; empty if there is none.

    The longest ending of at most `longest` and at least two tokens is looked up (prompt lookup, as in assisted generation).
    """
    ids = np.asarray(output)
    for size in range(min(longest, len(ids) - 1), 1, -1):
        matches = np.ones(len(ids) - size, bool)
        for offset in range(size):
            matches &= ids[offset : offset + len(matches)] == ids[len(ids) - size + offset]
        places = np.flatnonzero(matches)
        if len(places):
            return np.resize(ids[places[-1] + size :], length).tolist()
    return []


class Drafter:
    """Follows one page's output along its reference and drafts the continuation."""

    def __init__(self, reference: Sequence[int]) -> None:
        self.reference = np.asarray(reference, np.int64)
        self.output: list[int] = []
        self.disagreements = 0
        self._place = 0
        self._lost = False
        self._draft: list[int] = self.reference.tolist()

    @property
    def draft(self) -> list[int]:
        """The tokens to try after the output so far; may be empty."""
        return self._draft

    def accept(self, tokens: Sequence[int], agreed: int) -> None:
        """Append the model's `tokens`, of which the first `agreed` are the draft's, and draft again."""
        self.disagreements += any(token != drafted for token, drafted in zip(tokens[agreed:], self._draft[agreed:], strict=False))
        self.output.extend(tokens)
        followed = self._place + len(tokens)
        if not self._lost and followed <= len(self.reference) and self.reference[followed - 1] == self.output[-1]:
            self._place = followed
        else:
            tail = self.output[-TAIL:]
            self._place, edits = align(tail, self.reference, min(followed, len(self.reference)))
            self._lost = 2 * edits > len(tail) and len(tail) == TAIL
        self._draft = self._next()

    def _next(self) -> list[int]:
        room = max(SHORTEST, HORIZON * (PRIOR + len(self.output)) // (1 + self.disagreements))
        if self._lost or self._place == len(self.reference):
            again = repetition(self.output, SHORTEST)
            if again:
                return again
        return self.reference[self._place : self._place + room].tolist()
