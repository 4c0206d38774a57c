"""Early stopping that is lossless for the verdict: a page ends once no continuation can bring it to its target.

Let r be the reference, x the text decoded so far and y whatever may follow. With D_j = Lev(r[:j], x),

    precision(r, xy) = 1 − Lev(r, xy) / max(|r|, |xy|)   and   Lev(r, xy) = min over j of D_j + Lev(r[j:], y)

For a given j the best y is r[j:] itself: a longer or shorter one adds as many errors as it changes the length by, or more. So

    upper = max over j of 1 − D_j / max(|r|, |x| + |r| − j)

is the highest precision that any continuation can reach, and some y reaches it. A page is stopped when upper < target: full
decoding would have judged it below target too. It bounds raw precision only (`verification.score = "raw"`).
What full decoding would have measured stays unknown, so such a page's row
carries `upper` as its precision and the reason "early_stop"; therefore early stopping is off by default.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from palimpsest.errors import UsageError
from palimpsest.verification.reading import Cut


class PrecisionBound:
    """The highest character precision that a growing text can still reach against a reference.

    The D_j are kept as their differences in the bits of two integers, which a new character updates in a few operations, whatever
    the reference's length (Hyyrö 2003, after Myers 1999).
    """

    def __init__(self, reference: str) -> None:
        self._size = len(reference)
        self._all = (1 << self._size) - 1
        positions: dict[str, list[int]] = {}
        for position, character in enumerate(reference):
            positions.setdefault(character, []).append(position)
        self._positions = {character: sum(1 << position for position in of) for character, of in positions.items()}
        self._rises, self._falls = self._all, 0  # D_j − D_(j−1) is 1, −1
        self._length = 0

    def extend(self, text: str) -> None:
        """Append characters to the text."""
        rises, falls, every = self._rises, self._falls, self._all
        for character in text:
            equal = self._positions.get(character, 0)
            vertical = equal | falls
            horizontal = (((equal & rises) + rises) ^ rises) | equal
            up = (falls | ~(horizontal | rises)) & every
            down = rises & horizontal
            up, down = (up << 1 | 1) & every, down << 1 & every
            rises, falls = (down | ~(vertical | up)) & every, up & vertical
        self._rises, self._falls = rises, falls
        self._length += len(text)

    @property
    def upper(self) -> float:
        """The bound, in [0, 1]; 1 for an empty text."""
        size = self._size
        row = self._length + np.concatenate(([0], np.cumsum(_bits(self._rises, size) - _bits(self._falls, size))))
        lengths = np.maximum(size, self._length + size - np.arange(size + 1))
        return float(np.max(1 - row / np.maximum(lengths, 1)))


def _bits(number: int, count: int) -> np.ndarray:
    """The lowest `count` bits, int64."""
    octets = np.frombuffer(number.to_bytes(-(-count // 8), "little"), np.uint8)
    return np.unpackbits(octets, bitorder="little")[:count].astype(np.int64)


class EarlyStop:
    """A watch that ends a page once `target_precision` is provably out of reach.

    Args:
        reference: the page's normalised text.
        target_precision: in (0, 1].
        prefix_text: ids so far → characters with which the text of every continuation begins. This is a promise; `stable_prefix`
            keeps it for decoders that work from left to right.
        stride: new tokens between two checks.

    Raises:
        ValueError: the target is outside (0, 1].
    """

    def __init__(
        self, reference: str, target_precision: float, prefix_text: Callable[[Sequence[int]], str], *, stride: int = 16
    ) -> None:
        if not 0 < target_precision <= 1:
            raise UsageError(f"target_precision is {target_precision}; it must lie in (0, 1]")
        self._bound = PrecisionBound(reference)
        self._target, self._prefix_text, self._stride = target_precision, prefix_text, stride
        self._seen_ids = 0
        self._seen_text = ""

    def __call__(self, ids: Sequence[int]) -> Cut | None:
        """The cut at the first multiple of `stride` tokens that proves the target out of reach, or None."""
        for end in range(self._seen_ids + self._stride, len(ids) + 1, self._stride):
            self._seen_ids = end
            text = self._prefix_text(ids[:end])
            if len(text) > len(self._seen_text):
                assert text.startswith(self._seen_text), "prefix_text took back characters it had promised"
                self._bound.extend(text[len(self._seen_text) :])
                self._seen_text = text
            upper = self._bound.upper
            if upper < self._target:
                detail = f"at most {upper:.4f} after {end} tokens, target {self._target}"
                return Cut(length=end, reason="early_stop", detail=detail, precision_bound=upper)
        return None


def stable_prefix(text: str) -> str:
    """The part of a decoded text that more tokens cannot change.

    It ends before the last ASCII letter or digit. Nothing composes onto the characters before that one (NFC), whitespace before
    it is not at the end (so it is not stripped), and an unfinished UTF-8 sequence (U+FFFD) can only follow it, or is final.
    """
    for index in range(len(text) - 1, -1, -1):
        if text[index].isascii() and text[index].isalnum():
            return text[:index]
    return ""
