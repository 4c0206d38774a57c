"""What the embedded decoder writes for a page.

    <token 0> <row 0> W h e r e   w e <token 1> <row 0>   g o ... <END> EOS

Cells in reading order, and before the first cell that lies in another visual token the *address* of what follows: that token, and
the text row within it. The address tells a small decoder where to look, as grounding coordinates do in the big ones; it is a
function of the grid alone, so it can be drafted like any other id, and it is dropped when ids are turned into text.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from pipeline.codecs.embedded.vocabulary import (
    BOS,
    EOS,
    FIRST_GRID,
    FIRST_ROW,
    GRIDS,
    IMAGE,
    cell_ids,
    cell_text,
    first_token_ids,
)
from pipeline.codecs.modes import MODES, Mode
from pipeline.pages.characters import BLANK
from pipeline.pages.grid import Grid, lay_out, read_back

ALPHABET = "latin"
ROWS_PER_TOKEN = 8


@lru_cache(maxsize=32)
def template(columns: int, rows: int, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Ids of a full page with 0 where a cell stands, int32 `[n]`, and the positions of the cells, int64 `[rows * columns]`."""
    side = MODES[mode].grid
    token_row = (2 * np.arange(rows) + 1) * side // (2 * rows)
    token_column = (2 * np.arange(columns) + 1) * side // (2 * columns)
    row_in_token = np.arange(rows) - np.searchsorted(token_row, token_row)
    starts = np.searchsorted(token_column, np.arange(side)) + 2 * np.arange(side)
    width = columns + 2 * side
    ids = np.zeros((rows, width), np.int32)
    ids[:, starts] = first_token_ids()[mode] + token_row[:, None] * side + np.arange(side)
    ids[:, starts + 1] = FIRST_ROW + row_in_token[:, None]
    cells = np.flatnonzero(ids.ravel() == 0)
    return ids.ravel(), cells


def page_ids(cells: np.ndarray, grid: Grid, mode: str) -> np.ndarray:
    """Ids that the decoder should write for `cells` (uint32 `[rows * columns]`), EOS included; int32 `[n]`."""
    ids, positions = template(grid.columns, grid.rows, mode)
    used = int(np.argmax(cells == BLANK)) if cells[-1] == BLANK else len(cells)
    ids = ids.copy()
    ids[positions[:used]] = cell_ids(cells[:used])
    return np.append(ids[: positions[used - 1] + 1] if used else ids[:0], np.int32(EOS))


class AddressedTarget:
    """The target format of the embedded codec (see `pipeline.codecs.target`)."""

    def encode(self, text: str, columns: int, rows: int, mode: Mode) -> list[int]:
        """Ids of the page that holds `text`.

        Raises:
            ValueError: when `text` does not fit on one page.
        """
        grid = Grid(columns, rows, ALPHABET)
        pages = list(lay_out(text, grid))
        if len(pages) > 1:
            raise ValueError(f"the text takes {len(pages)} pages of {columns}x{rows} cells, a target is one page")
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
            raise ValueError(f"layout.grid {name}: the embedded codec reads {', '.join(GRIDS)}")
        if rows > ROWS_PER_TOKEN * mode.grid:
            raise ValueError(
                f"layout.grid {name} in mode {mode.name}: a visual token would hold more than {ROWS_PER_TOKEN} text rows; "
                f"choose a sharper mode or a coarser grid"
            )
        return [BOS, *[IMAGE] * mode.num_context_tokens, FIRST_GRID + GRIDS.index(name)]
