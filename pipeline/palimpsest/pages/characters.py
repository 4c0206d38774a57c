"""How many cells a character takes on the grid, as a table that ships with the package.

`unicodedata` differs between Python versions; a page must not. The table is baked once (`bake.py`), covers the Basic Multilingual
Plane, and says for every code point: ESCAPE (no glyph of its own: written as an escape), NARROW (one cell), WIDE (two cells).
Combining marks, controls, private-use characters and the scripts that need shaping are ESCAPE here; the shaped path
(`shaped.py`) draws those scripts properly.
"""

from __future__ import annotations

import zlib
from functools import cache

import numpy as np

from palimpsest.errors import UsageError
from palimpsest.pages.fonts import font_bytes

ESCAPE, NARROW, WIDE = 0, 1, 2

# Marks live in plane 15, whose characters are always escaped, so that a mark can never collide with text.
MARK_BASE = 0xF0000
NEWLINE, TAB, RUN, ESC, END, PAD, WIDE_TAIL, BLANK = (MARK_BASE + i for i in range(8))
_MARK_NAMES = ("newline", "tab", "run", "escape", "end", "pad", "wide_tail", "blank")
MARKS = {name: MARK_BASE + i for i, name in enumerate(_MARK_NAMES)}

# A run of 3 to 66 spaces is the mark RUN and one of these 64 characters.
RUN_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz+-"
RUN_MIN, RUN_MAX = 3, 66


# What the embedded codec reads: printable ASCII, Latin-1, Latin Extended-A, common typography and a few arrows and signs.
LATIN = "".join(map(chr, [*range(0x20, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x180)])) + "–—‘’‚“”„†‡•…‰‹›€™−→←↑↓⇒≤≥≠≈∞√∑ﬁﬂ│─└├"
ALPHABETS = {"unicode": None, "latin": LATIN}


@cache
def cell_widths(alphabet: str = "unicode") -> np.ndarray:
    """uint8 `[65536]`: ESCAPE, NARROW or WIDE for every code point of the Basic Multilingual Plane.

    Args:
        alphabet: a name of `ALPHABETS`; a character outside it is ESCAPE although a font may have it, because the codec that will
            read the page does not know it.
    """
    if alphabet not in ALPHABETS:
        raise UsageError(f"alphabet {alphabet!r}: choose one of {', '.join(ALPHABETS)}")
    table = np.frombuffer(zlib.decompress(font_bytes("cell_widths.z")), np.uint8)
    assert table.shape == (65536,), table.shape
    characters = ALPHABETS[alphabet]
    if characters is None:
        return table
    narrowed = np.zeros_like(table)
    codes = [ord(c) for c in characters]
    narrowed[codes] = table[codes]
    return narrowed
