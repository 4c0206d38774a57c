"""Grids of several densities: a document that almost fits on one page gets a page with smaller cells instead of a second page.

A document takes the first grid on which it is one page. One that is longer on all of them has pages of the first grid: they are
full but the last, so that smaller cells would only make them harder to read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise

import numpy as np

from palimpsest.errors import UsageError
from palimpsest.pages.layouts.grid import Grid
from palimpsest.pages.layouts.protocol import LaidOutPage, digest


@dataclass(frozen=True)
class FittedGrid:
    """Layout `grid` with a choice of densities, `96x48+112x56`; the length of a page's drawing tells its grid.

    Args:
        grids: at least one, each with more cells than the one before.

    Raises:
        UsageError: for grids in another order.
    """

    grids: tuple[Grid, ...]

    def __post_init__(self) -> None:
        for coarse, dense in pairwise(self.grids):
            if coarse.cells >= dense.cells:
                raise UsageError(f"grid {self}: {dense} has no more cells than {coarse}; begin with the grid of the fewest cells")

    @property
    def name(self) -> str:
        return self.grids[0].name

    @property
    def described(self) -> str:
        return self.grids[0].described  # the columns grid_w and grid_h have the rest

    def __str__(self) -> str:
        return "+".join(map(str, self.grids))

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        return tuple(size for grid in self.grids for size in grid.sizes)

    @property
    def capacity(self) -> int:
        return self.grids[0].capacity

    @property
    def identity(self) -> str:
        return digest(("fitted", *(grid.identity for grid in self.grids)))

    def paginate(self, text: str, text_class: str) -> Iterator[LaidOutPage]:
        """Lay a normalised document out; the spans of its pages cover it without a gap."""
        pages = self.grids[0].paginate(text, text_class)
        begun = list(islice(pages, 2))
        if len(begun) == 2:
            for grid in self.grids[1:]:
                page = next(grid.paginate(text, text_class))
                if page.char_end == len(text):
                    yield page
                    return
        yield from chain(begun, pages)

    def lay_out_again(self, text: str, text_class: str) -> LaidOutPage | None:
        """The page of a stored slice of a document: a page of a longer document fits on the first grid, on which it was made."""
        pages = list(islice(self.paginate(text, text_class), 2))
        return pages[0] if len(pages) == 1 else None

    def render(self, texts: Sequence[str], drawings: Sequence[bytes], px: int, out: np.ndarray | None = None) -> np.ndarray:
        """Draw pages: black on white, uint8 `[n, px, px]`, into `out` if that is given."""
        made = np.empty((len(drawings), px, px), np.uint8) if out is None else out
        for grid in self.grids:
            mine = [number for number, drawing in enumerate(drawings) if len(drawing) == 4 * grid.cells]
            if mine:
                made[mine] = grid.render([texts[number] for number in mine], [drawings[number] for number in mine], px)
        return made

    def shown(self, text: str, drawing: bytes) -> str:
        """A page's text; text flows on a grid, so no line break is added."""
        return text

    def is_drawable(self, px: int) -> bool:
        """Whether cells are large enough for glyphs on every grid."""
        return all(grid.is_drawable(px) for grid in self.grids)

    def uncovered(self, text: str) -> list[str]:
        """The scripts of the characters that are written as escapes, most frequent first."""
        return self.grids[0].uncovered(text)
