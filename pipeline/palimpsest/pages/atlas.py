"""The fast path to pixels: every glyph rasterised once per cell size, and one vectorised copy per page.

A page of `px x px` pixels shows the grid edge to edge: cell `(r, c)` begins at `(r * px // rows, c * px // columns)`, and its
glyph is rasterised at `px // columns` by `px // rows` pixels. Where those do not divide, the pixels left over are spread between
the cells instead of being gathered in a margin, so that a cell lies in the same visual token in every mode (docs/decisions).

Black on white (ink 0, paper 255), uint8, one channel. Marks are gray patterns that fill their cell, never glyphs.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from palimpsest.errors import UsageError
from palimpsest.pages.characters import (
    BLANK,
    END,
    ESC,
    LATIN,
    MARK_BASE,
    NEWLINE,
    PAD,
    RUN,
    TAB,
    WIDE,
    WIDE_TAIL,
    cell_widths,
)
from palimpsest.pages.fonts import font_bytes, unifont_bitmap
from palimpsest.pages.layouts.grid import Grid

PAPER = 255
_ADVANCE = 1233 / 2048  # em, DejaVu Sans Mono
_CUT = 0.04  # of a glyph's ink: more than this outside its cell, and the glyph is squeezed
_LINE_HEIGHT = (1901 + 483) / 2048  # em, ascender + descender
# Gray level and the part of the cell (top, left, bottom, right) that a mark inks.
_MARK_INK = {
    NEWLINE: (150, (0.0, 0.0, 1.0, 1.0)),
    TAB: (150, (0.0, 0.0, 1.0, 0.5)),
    RUN: (150, (0.5, 0.0, 1.0, 1.0)),
    ESC: (150, (0.0, 0.0, 0.5, 1.0)),
    PAD: (150, (0.0, 0.5, 1.0, 1.0)),
    END: (60, (0.0, 0.0, 1.0, 1.0)),
    WIDE_TAIL: (255, (0.0, 0.0, 0.0, 0.0)),
    BLANK: (255, (0.0, 0.0, 0.0, 0.0)),
}
# Slots are looked up by code point, then mark, then (right half of a wide character) code point again.
_MARK = 0x10000
_TAIL = _MARK + len(_MARK_INK)


class Atlas:
    """The glyphs of one grid at one resolution, and the renderer that places them.

    Args:
        grid: the layout's grid.
        px: side of the page in pixels.
    """

    def __init__(self, grid: Grid, px: int) -> None:
        from io import BytesIO

        from PIL import ImageFont

        self.grid, self.px = grid, px
        self.width, self.height = px // grid.columns, px // grid.rows
        if not grid.is_drawable(px):
            raise UsageError(f"grid {grid} at {px} px leaves cells of {self.width}x{self.height} px; at least 3x6 are needed")
        size = min((self.width + 0.15) / _ADVANCE, (self.height + 0.5) / _LINE_HEIGHT)
        self._font = ImageFont.truetype(BytesIO(font_bytes("DejaVuSansMono.ttf")), size, layout_engine=ImageFont.Layout.BASIC)
        ascent, descent = self._font.getmetrics()
        self._baseline = round((self.height - ascent - descent) / 2) + ascent
        self._slot = np.full(_TAIL + 0x10000, -1, np.intp)
        # [height, slots] of width-byte items: one scanline of all glyphs is contiguous, which is how pages are filled.
        self._item = np.dtype((np.void, self.width))
        self._glyphs = np.full((self.height, 64, self.width), PAPER, np.uint8)
        self._used = 0
        starts = np.arange(grid.columns) * px // grid.columns
        self._source = np.full(px, grid.columns * self.width, np.intp)  # the canvas column that a page column shows
        for offset in range(self.width):
            self._source[starts + offset] = np.arange(grid.columns) * self.width + offset
        # Its last column stays paper: what lies between the cells shows it.
        self._canvas = np.full((grid.rows * self.height, (grid.columns + 1) * self.width), PAPER, np.uint8)
        self._canvas_items = self._canvas.view(self._item)[:, : grid.columns]
        self._row_starts = [row * px // grid.rows for row in range(grid.rows)]
        for mark in _MARK_INK:
            self._add(_MARK + mark - MARK_BASE, self._draw_mark(mark))
        self._ensure(np.arange(32, 127))

    def render(self, cells: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Draw pages.

        Args:
            cells: uint32 `[n, rows * columns]`, as `grid.lay_out` makes them.
            out: uint8 `[n, px, px]` to draw into.

        Returns:
            uint8 `[n, px, px]`.
        """
        cells = np.atleast_2d(cells)
        pages = np.empty((len(cells), self.px, self.px), np.uint8) if out is None else out
        for page, codes in zip(pages, cells, strict=True):
            self._render_page(codes, page)
        return pages

    def glyphs(self, codes: np.ndarray) -> np.ndarray:
        """The bitmaps of cell values (uint32 `[n]`), uint8 `[n, height, width]`."""
        slots = self._slots(codes)  # draws what is missing, into an array that may be a new one
        return np.ascontiguousarray(self._glyphs[:, slots].transpose(1, 0, 2))

    def _render_page(self, codes: np.ndarray, page: np.ndarray) -> None:
        slots = self._slots(codes).reshape(self.grid.rows, self.grid.columns)
        even_columns, even_rows = self.px == self.grid.columns * self.width, self.px == self.grid.rows * self.height
        canvas = page if even_columns and even_rows else self._canvas
        lines = (page.view(self._item) if canvas is page else self._canvas_items).reshape(self.grid.rows, self.height, -1)
        glyphs = self._glyphs.view(self._item)[..., 0]
        for y in range(self.height):
            lines[:, y] = glyphs[y].take(slots)
        if canvas is page:
            return
        canvas = canvas.take(self._source, axis=1)
        if even_rows:
            page[:] = canvas
            return
        page.fill(PAPER)
        for start, strip in zip(self._row_starts, canvas.reshape(self.grid.rows, self.height, self.px), strict=True):
            page[start : start + self.height] = strip

    def _slots(self, codes: np.ndarray) -> np.ndarray:
        """Atlas slots of cells, intp of the same shape; what was never drawn at this size is drawn now."""
        index = codes.astype(np.int64)
        marks = index >= MARK_BASE
        if marks.any():
            index[marks] += _MARK - MARK_BASE
            tails = np.flatnonzero(codes == WIDE_TAIL)
            index[tails] = _TAIL + codes[tails - 1]
        slots = self._slot.take(index)
        if slots.min() < 0:
            self._ensure(np.unique(index[slots < 0]))
            slots = self._slot.take(index)
        return slots

    def _ensure(self, keys: np.ndarray) -> None:
        for key in keys.tolist():
            code = key if key < _MARK else key - _TAIL
            if cell_widths()[code] != WIDE:
                self._add(key, self._draw(code, self.width))
                continue
            both = self._draw(code, 2 * self.width)
            self._add(key, both[:, : self.width] if key == code else both[:, self.width :])

    def _add(self, key: int, cell: np.ndarray) -> None:
        if self._used == self._glyphs.shape[1]:
            self._glyphs = np.concatenate([self._glyphs, np.full_like(self._glyphs, PAPER)], axis=1)
        self._glyphs[:, self._used] = cell
        self._slot[key] = self._used
        self._used += 1

    def _draw_mark(self, mark: int) -> np.ndarray:
        level, (top, left, bottom, right) = _MARK_INK[mark]
        cell = np.full((self.height, self.width), PAPER, np.uint8)
        rows = slice(round(top * self.height), round(bottom * self.height))
        cell[rows, round(left * self.width) : round(right * self.width)] = level
        return cell

    def _draw(self, code: int, width: int) -> np.ndarray:
        """Rasterise one character into uint8 `[height, width]`.

        An outline that leaves the cell (a Greek capital with its accent before it, say) is squeezed into it. The embedded codec's
        alphabet is drawn as its weights were trained, where the worst loss is the last row of a cedilla.
        """
        from PIL import Image, ImageChops, ImageDraw

        bitmap = unifont_bitmap(code)
        if bitmap is not None:
            bitmap = bitmap[:, : 16 if width > self.width else 8]
            image = Image.fromarray((PAPER - PAPER * bitmap).astype(np.uint8))
            return np.asarray(image.resize((width, self.height), Image.Resampling.BOX))
        reach = max(width, self.height)  # how far beyond the cell an outline can go
        image = Image.new("L", (width + 2 * reach, self.height + 2 * reach), PAPER)
        ImageDraw.Draw(image).text((reach, reach + self._baseline), chr(code), fill=0, font=self._font, anchor="ls")
        ink = PAPER - np.asarray(image).astype(np.int64)
        cell = slice(reach, reach + self.height), slice(reach, reach + width)
        if chr(code) in LATIN or ink[cell].sum() >= (1 - _CUT) * ink.sum():
            return np.asarray(image)[cell]
        left, top, right, bottom = ImageChops.invert(image).getbbox() or (0, 0, 0, 0)
        box = (min(left, reach), min(top, reach), max(right, reach + width), max(bottom, reach + self.height))
        return np.asarray(image.crop(box).resize((width, self.height), Image.Resampling.BILINEAR))


@lru_cache(maxsize=32)
def atlas(grid: Grid, px: int) -> Atlas:
    """The atlas of `grid` at `px` pixels, made once per process."""
    return Atlas(grid, px)
