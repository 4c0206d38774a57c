"""The ids that the embedded decoder writes for a page.

    <token 0> <y 2> <x 2> W <x 6> h <x 10> e <x 14> r ... <token 1> <y 2> <x 2> g <x 6> o ... <END> EOS

Cells in reading order, each behind the *place* of its centre across the visual token that it lies in, and before the first cell
that lies in another token the *address* of what follows: that token, and the height within it. Places and addresses tell a small
decoder where to look, as grounding coordinates do in the big ones; they are a function of the grid alone, so they can be drafted
like any other id, and they are dropped when ids are turned into text.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from palimpsest.codecs.embedded.vocabulary import (
    BOS,
    EOS,
    FIRST_GRID,
    FIRST_X,
    FIRST_Y,
    GRIDS,
    IMAGE,
    STEPS,
    cell_ids,
    cell_text,
    first_token_ids,
)
from palimpsest.codecs.modes import MODES, Mode
from palimpsest.errors import UsageError
from palimpsest.pages.characters import BLANK
from palimpsest.pages.layouts.grid import Grid, lay_out, read_back

ALPHABET = "latin"


@lru_cache(maxsize=32)
def template(columns: int, rows: int, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Ids of a full page with 0 for each cell, int32 `[n]`, and the positions of the cells, int64 `[rows * columns]`."""
    side = MODES[mode].grid
    token_row, y = places(rows, side)
    token_column, x = places(columns, side)
    columns_before = np.searchsorted(token_column, np.arange(side))
    starts = 2 * columns_before + 2 * np.arange(side)
    cells = 2 * np.arange(columns) + 2 * token_column + 3
    ids = np.zeros((rows, 2 * columns + 2 * side), np.int32)
    ids[:, starts] = first_token_ids()[mode] + token_row[:, None] * side + np.arange(side)
    ids[:, starts + 1] = FIRST_Y + y[:, None]
    ids[:, cells - 1] = FIRST_X + x
    return ids.ravel(), (np.arange(rows)[:, None] * ids.shape[1] + cells).ravel()


def places(count: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of `count` text rows (or columns) on `side` tokens: the token that holds its centre, and where in it, 0..STEPS."""
    centre = (2 * np.arange(count) + 1) * side * STEPS // (2 * count)
    return centre // STEPS, centre % STEPS


def page_ids(cells: np.ndarray, grid: Grid, mode: str) -> np.ndarray:
    """Ids that the decoder should write for `cells` (uint32 `[rows * columns]`), EOS included; int32 `[n]`."""
    ids, positions = template(grid.columns, grid.rows, mode)
    used = int(np.argmax(cells == BLANK)) if cells[-1] == BLANK else len(cells)
    ids = ids.copy()
    ids[positions[:used]] = cell_ids(cells[:used])
    return np.append(ids[: positions[used - 1] + 1] if used else ids[:0], np.int32(EOS))


class AddressedTarget:
    """The target format of the embedded codec (see `palimpsest.codecs.target`)."""

    def encode(self, text: str, columns: int, rows: int, mode: Mode) -> list[int]:
        """Ids of the page that holds `text`.

        Raises:
            ValueError: when `text` does not fit on one page.
        """
        grid = Grid(columns, rows, ALPHABET)
        pages = list(lay_out(text, grid))
        if len(pages) > 1:
            raise UsageError(f"the text takes {len(pages)} pages of {columns}x{rows} cells, a target is one page")
        return page_ids(pages[0].cells, grid, mode.name).tolist() if pages else [EOS]

    def decode(self, ids: Sequence[int]) -> str:
        """The text that `ids` spell; total."""
        return read_back(cell_text(np.asarray(ids)))

    def prompt(self, columns: int, rows: int, mode: Mode) -> list[int]:
        """Ids before the first written one: BOS, one IMAGE per context token, the grid.

        Raises:
            ValueError: for a grid the codec was not trained on, with the choices.
        """
        name = f"{columns}x{rows}"
        if name not in GRIDS:
            raise UsageError(f"layout.grid {name}: the embedded codec reads {', '.join(GRIDS)}")
        return [BOS, *[IMAGE] * mode.num_context_tokens, FIRST_GRID + GRIDS.index(name)]
