"""Documents to pages to pixels: the seam between the rooms of this pipeline and the two ways of laying text out.

A document takes one path whole. The grid is the rule; a document that is mostly of a script that needs shaping, and whose
characters a font that ships with the package has, takes the shaped path. The grid writes characters it cannot draw as escapes and
is exactly invertible; a shaped page is not (two spaces at a line's end are invisible), but what it draws is what a reader
expects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from palimpsest.pages.atlas import RENDER_VERSION, atlas
from palimpsest.pages.fonts import FONTS
from palimpsest.pages.grid import LAYOUT_VERSION, Grid, lay_out
from palimpsest.pages.normalise import NORMALISE_VERSION
from palimpsest.pages.scripts import SHAPED, needs_shaping
from palimpsest.pages.shaped import SHAPED_VERSION, ShapedPage, lay_out_shaped, lines_from_json, render_shaped, to_json
from palimpsest.pages.shaping import ESCAPE, font_of


class DocumentPage(NamedTuple):
    """One page of a document: `cells` (uint32, little-endian) on the grid path, `lines` (JSON) on the shaped path.

    `escaped` counts the characters that are written as their code point because no font covers them or they have no shape.
    """

    char_start: int
    char_end: int
    cells: bytes | None
    lines: bytes | None
    escaped: int

    @property
    def script(self) -> str:
        return "grid" if self.lines is None else "shaped"


def paginate(text: str, grid: Grid) -> Iterator[DocumentPage]:
    """Lay a normalised document out; the spans of its pages cover it without a gap. An empty text has no pages."""
    if takes_shaped_path(text):
        for shaped in lay_out_shaped(text, grid):
            yield DocumentPage(shaped.char_start, shaped.char_end, None, to_json(shaped.lines), shaped.uncovered)
        return
    for page in lay_out(text, grid):
        yield DocumentPage(page.char_start, page.char_end, page.cells.astype("<u4", copy=False).tobytes(), None, page.escaped)


def takes_shaped_path(text: str) -> bool:
    """True when `text` needs shaping and the fonts have at least half of the characters that need it."""
    if not needs_shaping(text):
        return False
    found = SHAPED.findall(text)
    return 2 * sum(font_of(char) != ESCAPE for char in found) >= len(found)


def render(pages: Sequence[DocumentPage], grid: Grid, px: int, out: np.ndarray | None = None) -> np.ndarray:
    """Draw pages: black on white, uint8 `[n, px, px]`, into `out` if that is given."""
    images = np.empty((len(pages), px, px), np.uint8) if out is None else out
    glyphs = atlas(grid, px)
    for image, page in zip(images, pages, strict=True):
        if page.cells is not None:
            glyphs.render(np.frombuffer(page.cells, "<u4")[None], image[None])
        elif page.lines is not None:
            shaped = ShapedPage(page.char_start, page.char_end, False, lines_from_json(page.lines), page.escaped)
            render_shaped(shaped, grid, px, image)
    return images


def layout_fingerprint(grid: Grid) -> str:
    """16 hexadecimal digits that change with anything that can change which text stands where, or a pixel of it."""
    versions = (NORMALISE_VERSION, LAYOUT_VERSION, SHAPED_VERSION, RENDER_VERSION, str(grid), grid.alphabet)
    return _hash((*versions, *(f"{name}={font.sha256}" for name, font in sorted(FONTS.items()))))


def page_id(doc_id: str, page_number: int, layout: str) -> str:
    """The id of a page: 24 hexadecimal digits, the same in every mode. `layout` is a `layout_fingerprint`."""
    return _hash((doc_id, str(page_number), layout), 24)


def _hash(parts: Iterable[str], digits: int = 16) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:digits]
