"""Training pages drawn on the device that learns: only the cells travel there."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from palimpsest.codecs.embedded.vocabulary import SYMBOLS
from palimpsest.pages.atlas import PAPER, atlas
from palimpsest.pages.characters import BLANK
from palimpsest.pages.layouts.grid import Grid


class Painter:
    """Draws cells as `pages.atlas.Atlas` does, pixel by pixel the same.

    Args:
        grid: the layout.
        px: side of the page in pixels.
        device: where the pages are needed.
    """

    def __init__(self, grid: Grid, px: int, device: str) -> None:
        source = atlas(grid, px)
        self.grid = grid
        self._glyphs = torch.from_numpy(source.glyphs(np.array([*SYMBOLS, BLANK], np.uint32))).to(device)
        self._columns = self._origins(px, grid.columns, source.width, device)
        self._rows = self._origins(px, grid.rows, source.height, device)

    @staticmethod
    def _origins(px: int, count: int, size: int, device: str) -> Tensor:
        """Which line of whole cells each of `px` lines shows; the one behind the last, which stays paper, between two cells."""
        lines = np.full(px, count * size, np.int64)
        for offset in range(size):
            lines[np.arange(count) * px // count + offset] = np.arange(count) * size + offset
        return torch.from_numpy(lines).to(device)

    def __call__(self, drawn: Tensor) -> Tensor:
        """Cells as indices in SYMBOLS, int `[n, rows * columns]`, to pages, uint8 `[n, px, px]`."""
        cells = self._glyphs[drawn.long()].unflatten(1, (self.grid.rows, self.grid.columns))
        canvas = cells.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        canvas = torch.nn.functional.pad(canvas, (0, 1, 0, 1), value=PAPER)
        return canvas.index_select(1, self._rows).index_select(2, self._columns)
