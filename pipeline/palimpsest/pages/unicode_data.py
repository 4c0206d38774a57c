"""Properties of characters as arrays, from a pinned version of Unicode: a page must not depend on the Python version."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache

import numpy as np
import unicodedata2

PLANES = 2  # the planes that tables cover; plane 2 and beyond hold ideographs, private use and nothing else that is drawn
LETTER, MARK, NUMBER, SPACE, OTHER = range(5)
_KINDS = {"L": LETTER, "M": MARK, "N": NUMBER, "Z": SPACE}


def code_points(text: str) -> np.ndarray:
    """The code points of `text`, uint8 `[n]` for Latin-1 text and else uint32 `[n]`; lone surrogates included."""
    try:
        return np.frombuffer(text.encode("latin-1"), np.uint8)
    except UnicodeEncodeError:
        return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def table(value: Callable[[int], int]) -> np.ndarray:
    """uint8 `[PLANES * 65536 + 1]`: `value` of each code point of the covered planes, then of an ideograph of plane 2."""
    codes = (*range(PLANES << 16), 0x20000)
    return np.fromiter(map(value, codes), np.uint8, len(codes))


def look_up(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The values of code points, uint8 of the shape of `codes`."""
    return values.take(codes, mode="clip")


@cache
def kinds() -> np.ndarray:
    """A `table` of LETTER, MARK, NUMBER, SPACE (separators, tab and line feed) and OTHER."""
    values = table(lambda code: _KINDS.get(unicodedata2.category(chr(code))[0], OTHER))
    values[[9, 10, 13]] = SPACE
    return values


def scripts_of(chars: Iterable[str]) -> list[str]:
    """The scripts of characters, most frequent first: the first word of their names, which is the script of a letter."""
    counts = Counter(unicodedata2.name(char, f"U+{ord(char):04X}").split()[0] for char in chars)
    return [script for script, _ in counts.most_common(4)]
