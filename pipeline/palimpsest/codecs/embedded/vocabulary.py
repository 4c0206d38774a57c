"""Token ids of the embedded codec.

0..15      BOS, EOS, PAD, IMAGE, and the grids of `GRIDS` (the prompt names the page's grid)
16..       one id for every cell symbol: the characters of the alphabet "latin" and the marks
400..431   heights within a visual token, from top to bottom
432..463   places across a visual token, from left to right
512..      visual tokens, by mode
"""

from __future__ import annotations

from functools import cache
from math import ceil

import numpy as np

from palimpsest.codecs.modes import MODES
from palimpsest.errors import UsageError
from palimpsest.pages.characters import END, ESC, LATIN, MARK_BASE, NEWLINE, PAD, RUN, TAB

BOS, EOS, PADDING, IMAGE = 0, 1, 2, 3
GRIDS = ("64x32", "80x40", "96x32", "96x48", "96x64", "128x64", "112x56", "160x80", "192x96", "224x112")
FIRST_GRID, FIRST_CELL, FIRST_Y, FIRST_X, FIRST_TOKEN = 4, 16, 400, 432, 512
STEPS = 32  # heights and places within a visual token, 2 px apart
SYMBOLS = tuple(dict.fromkeys([*map(ord, LATIN), NEWLINE, TAB, RUN, ESC, END, PAD]))
MODE_NAMES = ("tiny", "small", "base", "large")


@cache
def first_token_ids() -> dict[str, int]:
    """For each mode, the id of its visual token 0; the others follow row by row."""
    firsts, first = {}, FIRST_TOKEN
    for name in MODE_NAMES:
        firsts[name] = first
        first += MODES[name].num_vision_tokens
    return firsts


@cache
def vocabulary_size() -> int:
    """Number of ids, rounded up to a multiple of 64."""
    last = MODE_NAMES[-1]
    return ceil((first_token_ids()[last] + MODES[last].num_vision_tokens) / 64) * 64


@cache
def id_of_cell() -> np.ndarray:
    """int32 `[65536 + 8]`: the id of a code point, or of mark `m` at `65536 + m - MARK_BASE`; -1 where the codec has none."""
    table = np.full(0x10000 + 8, -1, np.int32)
    for index, code in enumerate(SYMBOLS):
        table[code if code < MARK_BASE else 0x10000 + code - MARK_BASE] = FIRST_CELL + index
    return table


def cell_ids(cells: np.ndarray) -> np.ndarray:
    """Ids of cells, int32 of the same shape.

    Raises:
        ValueError: for a cell outside the alphabet, naming it.
    """
    marks = cells >= MARK_BASE
    ids = id_of_cell()[np.where(marks, cells - MARK_BASE + 0x10000, np.minimum(cells, 0xFFFF))]
    if (ids < 0).any():
        code = int(cells[ids < 0][0])
        raise UsageError(f"U+{code:04X} is not in the alphabet of the embedded codec; lay the text out with alphabet 'latin'")
    return ids


def cell_text(ids: np.ndarray) -> str:
    """The cell symbols among `ids` (int `[n]`) as a string, in order; addresses and other ids are dropped."""
    ids = np.asarray(ids, np.int64)
    ids = ids[(ids >= FIRST_CELL) & (ids < FIRST_CELL + len(SYMBOLS))]
    return np.asarray(SYMBOLS, "<u4")[ids - FIRST_CELL].tobytes().decode("utf-32-le")
