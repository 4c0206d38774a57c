"""The layout: flowing text on a grid of character cells, the same in every mode, exactly invertible.

A page has `columns x rows` cells in reading order. Text flows: a line end is one cell with the mark NEWLINE, not an empty rest of
a row, which is worth a factor of 1.2 (prose) to 5 (code) in characters per page. What is not one glyph in one cell:

| text | cells |
|---|---|
| line feed, tab | NEWLINE, TAB |
| a run of 3 to 66 spaces | RUN and one digit of `RUN_DIGITS` |
| a wide character | the character, WIDE_TAIL; a PAD before it where it would straddle two rows |
| a character without a glyph | ESC, its code point in hexadecimal, ESC |
| the end of a page that is not full | END, then BLANK |

`read_back(cells) == text` for every page, and it is total: cells that a decoder misread still give a text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from palimpsest.errors import UsageError
from palimpsest.pages.characters import (
    BLANK,
    END,
    ESC,
    ESCAPE,
    MARK_BASE,
    NEWLINE,
    PAD,
    RUN,
    RUN_DIGITS,
    RUN_MAX,
    RUN_MIN,
    TAB,
    WIDE_TAIL,
    cell_widths,
)
from palimpsest.pages.fonts import FONTS, GRID_FONTS
from palimpsest.pages.layouts.protocol import LaidOutPage, digest
from palimpsest.pages.normalise import NORMALISE_VERSION
from palimpsest.pages.unicode_data import code_points, scripts_of

LAYOUT_VERSION, RENDER_VERSION = "g2", "r2"
_RUN_CELLS = np.frombuffer(RUN_DIGITS.encode(), np.uint8)
_HEX_CELLS = np.frombuffer(b"0123456789abcdef", np.uint8)
_CHUNK = 1 << 16  # characters whose cells are computed at a time; pages do not depend on it


@dataclass(frozen=True)
class Grid:
    """Layout `grid`, given its density; a page's drawing is its cells, uint32, little-endian.

    Args:
        columns, rows: 16 to 256 and 8 to 128; `columns == 2 * rows` gives cells of the usual 1:2 shape.
        alphabet: which characters are drawn (`characters.ALPHABETS`); the others are written as escapes.
    """

    columns: int
    rows: int
    alphabet: str = "unicode"

    def __post_init__(self) -> None:
        if not (16 <= self.columns <= 256 and 8 <= self.rows <= 128):
            raise UsageError(f"grid {self.columns}x{self.rows}: columns must be 16..256 and rows 8..128")
        cell_widths(self.alphabet)

    @property
    def cells(self) -> int:
        return self.columns * self.rows

    @classmethod
    def parse(cls, text: str, alphabet: str = "unicode") -> Grid:
        """`"80x40"` -> `Grid(80, 40)`."""
        match = re.fullmatch(r"(\d+)x(\d+)", text)
        if not match:
            raise UsageError(f"grid {text!r}: expected COLUMNSxROWS, for example 80x40")
        return cls(int(match[1]), int(match[2]), alphabet)

    def __str__(self) -> str:
        return f"{self.columns}x{self.rows}"

    @property
    def name(self) -> str:
        return "grid"

    @property
    def described(self) -> str:
        return self.name  # the columns grid_w and grid_h have the rest

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        return ((self.columns, self.rows),)

    @property
    def capacity(self) -> int:
        return self.cells

    @property
    def identity(self) -> str:
        versions = (NORMALISE_VERSION, LAYOUT_VERSION, RENDER_VERSION, str(self), self.alphabet)
        return digest((self.name, *versions, *(f"{name}={FONTS[name].sha256}" for name in GRID_FONTS)))

    def paginate(self, text: str, text_class: str) -> Iterator[LaidOutPage]:
        """Lay a normalised document out, whatever its class; the spans of its pages cover it without a gap."""
        for page in lay_out(text, self):
            drawing = page.cells.astype("<u4", copy=False).tobytes()
            yield LaidOutPage(page.char_start, page.char_end, drawing, page.escaped, (self.columns, self.rows))

    def lay_out_again(self, text: str, text_class: str) -> LaidOutPage | None:
        """The page of a stored slice of a document; None where it is not one page, as on another grid."""
        pages = list(self.paginate(text, text_class))
        return pages[0] if len(pages) == 1 else None

    def render(self, texts: Sequence[str], drawings: Sequence[bytes], px: int, out: np.ndarray | None = None) -> np.ndarray:
        """Draw pages: black on white, uint8 `[n, px, px]`, into `out` if that is given."""
        from palimpsest.pages.atlas import atlas

        cells = np.frombuffer(b"".join(drawings), "<u4").reshape(len(drawings), self.cells)
        return atlas(self, px).render(cells, out)

    def shown(self, text: str, drawing: bytes) -> str:
        """A page's text; text flows on a grid, so no line break is added."""
        return text

    def is_drawable(self, px: int) -> bool:
        """Whether cells are large enough for glyphs."""
        return px // self.columns >= 3 and px // self.rows >= 6

    def uncovered(self, text: str) -> list[str]:
        """The scripts of the characters that are written as escapes, most frequent first."""
        widths = cell_widths(self.alphabet)
        return scripts_of(char for char in text if char not in "\t\n" and (char > "\uffff" or widths[ord(char)] == ESCAPE))


class Page(NamedTuple):
    """One page: `cells` is uint32 `[columns * rows]`, the span counts characters of the normalised document."""

    char_start: int
    char_end: int
    cells: np.ndarray
    escaped: int


def lay_out(text: str, grid: Grid) -> Iterator[Page]:
    """Lay a normalised text out on pages.

    A page is self-contained: laying out `text[char_start:char_end]` alone gives the same cells. An empty text has no pages.
    """
    start, size = 0, _CHUNK
    while start < len(text):
        piece = text[start : start + size]
        last = start + len(piece) == len(text)
        consumed = 0
        for page in _pages(code_points(piece), grid):
            if not last and page.char_end >= len(piece) - 1:
                break  # what follows may belong on this page, or turn two last spaces into a run: begin the next piece with it
            consumed = page.char_end
            yield page._replace(char_start=start + page.char_start, char_end=start + page.char_end)
        start += consumed
        if not consumed:
            size *= 2


class _Flow(NamedTuple):
    """A text as one stream of cells, before it is cut into pages."""

    cells: np.ndarray  # uint32 [total]
    ends: np.ndarray  # int64 [characters]: the cells that a text takes up to and with this character
    escapes: np.ndarray  # int64: which characters are written as escapes, ascending
    wide: bool


@cache
def _tables(alphabet: str) -> tuple[np.ndarray, np.ndarray]:
    """For every code point of the BMP: the cells it takes (uint8) and the first of them (uint32)."""
    kinds = cell_widths(alphabet)
    codes = np.arange(len(kinds), dtype=np.uint32)
    escaped = kinds == ESCAPE
    hex_digits = 1 + (codes > 0xF).astype(np.uint8) + (codes > 0xFF) + (codes > 0xFFF)
    counts, firsts = np.where(escaped, hex_digits + 2, kinds).astype(np.uint8), np.where(escaped, ESC, codes).astype(np.uint32)
    counts[[10, 9]], firsts[[10, 9]] = 1, (NEWLINE, TAB)
    return counts, firsts


def _flow(codes: np.ndarray, alphabet: str) -> _Flow:
    counts_of, firsts_of = _tables(alphabet)
    astral = np.flatnonzero(codes > 0xFFFF) if codes.dtype != np.uint8 else codes[:0]
    index = codes
    if len(astral):
        index = codes.copy()
        index[astral] = 0  # any escape
    counts, firsts = counts_of.take(index), firsts_of.take(index)
    counts[astral] = 7 + (codes[astral] > 0xFFFFF)
    heads, lengths = _runs_of_spaces(codes, counts)
    if counts.max(initial=1) == 1 and not len(heads):  # one cell each: the common case
        return _Flow(firsts, np.arange(1, len(codes) + 1), np.empty(0, np.intp), wide=False)
    ends = np.cumsum(counts, dtype=np.int64)
    cells = np.repeat(firsts, counts)
    offsets = ends - counts
    cells[offsets[heads]] = RUN
    cells[offsets[heads] + 1] = _RUN_CELLS[lengths - RUN_MIN]
    escapes = np.flatnonzero(firsts == ESC)
    digits = counts[escapes].astype(np.int64) - 2
    for digit in range(int(digits.max(initial=0))):
        at = escapes[digits > digit]
        shift = (4 * (digits[digits > digit] - 1 - digit)).astype(np.uint32)
        cells[offsets[at] + 1 + digit] = _HEX_CELLS[(codes[at].astype(np.uint32) >> shift) & 15]
    doubles = counts == 2
    doubles[heads] = False
    wide = np.flatnonzero(doubles)
    cells[offsets[wide] + 1] = WIDE_TAIL
    return _Flow(cells, ends, escapes, wide=len(wide) > 0)


def _runs_of_spaces(codes: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where runs of 3 to 66 spaces begin and how long they are; their cells go into `counts`.

    A longer run is several runs of 66, one of what is left, and single spaces where fewer than 3 are left.
    """
    space = codes == 32
    triples = np.flatnonzero(space[2:] & space[1:-1] & space[:-2])
    if not len(triples):
        return triples, triples
    first = np.flatnonzero(np.diff(triples, prepend=-2) > 1)
    starts = triples[first]
    lengths = np.diff(first, append=len(triples)) + RUN_MIN - 1
    if lengths.max() > RUN_MAX:
        pieces = -(-lengths // RUN_MAX)
        nth = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        starts = np.repeat(starts, pieces) + RUN_MAX * nth
        lengths = np.minimum(RUN_MAX, np.repeat(lengths, pieces) - RUN_MAX * nth)
        starts, lengths = starts[lengths >= RUN_MIN], lengths[lengths >= RUN_MIN]
    rest = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths) + np.repeat(starts, lengths)
    counts[rest] = 0
    counts[starts] = 2
    return starts, lengths


def _pages(codes: np.ndarray, grid: Grid) -> Iterator[Page]:
    flow = _flow(codes, grid.alphabet)
    start = base = 0
    while start < len(codes):
        pads = _straddling(flow.cells, base, grid) if flow.wide else []
        stop = int(np.searchsorted(flow.ends, base + grid.cells - len(pads), "right"))
        end = int(flow.ends[stop - 1])
        taken = flow.cells[base:end]
        if pads:
            taken = np.insert(taken, pads, PAD)
        cells = np.empty(grid.cells, np.uint32)
        cells[: len(taken)] = taken
        if len(taken) < grid.cells:
            cells[len(taken)], cells[len(taken) + 1 :] = END, BLANK
        escaped = np.searchsorted(flow.escapes, (start, stop)) if len(flow.escapes) else (0, 0)
        yield Page(start, stop, cells, int(escaped[1] - escaped[0]))
        start, base = stop, end


def _straddling(stream: np.ndarray, base: int, grid: Grid) -> list[int]:
    """Positions, in the page that begins at `base` of the stream, where a PAD keeps a row from beginning with WIDE_TAIL."""
    pads: list[int] = []
    for boundary in range(base + grid.columns, base + grid.cells, grid.columns):
        if boundary - len(pads) >= len(stream):
            break
        if stream[boundary - len(pads)] == WIDE_TAIL:
            pads.append(boundary - base - 1 - len(pads))
    return pads


_MARK = re.compile(f"[{chr(MARK_BASE)}-{chr(MARK_BASE + 7)}]")
_MARKED = re.compile(f"{chr(RUN)}([{re.escape(RUN_DIGITS)}])|{chr(ESC)}([0-9a-f]{{1,6}}){chr(ESC)}|{_MARK.pattern}")


def _expand(match: re.Match[str]) -> str:
    if match[1] is not None:
        return " " * (RUN_DIGITS.index(match[1]) + RUN_MIN)
    code = int(match[2], 16) if match[2] else None
    return "" if code is None or code > 0x10FFFF else chr(code)


def read_back(cells: np.ndarray | str) -> str:
    """The text of a page's cells (uint32 `[any]`, or a string in which marks are their plane-15 characters).

    Total: marks that make no sense where they are and values that are no code points are dropped.
    """
    if isinstance(cells, str):
        text = cells
    else:
        codes = np.where(cells > 0x10FFFF, BLANK, cells).astype("<u4")
        text = codes.tobytes().decode("utf-32-le", "surrogatepass")
    text = text.partition(chr(END))[0]
    if not _MARK.search(text):
        return text
    text = text.replace(chr(NEWLINE), "\n").replace(chr(TAB), "\t")
    for mark in (PAD, WIDE_TAIL, BLANK):
        text = text.replace(chr(mark), "")
    return _MARKED.sub(_expand, text)
