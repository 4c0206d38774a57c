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
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.pages.characters import (
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
    WIDE,
    WIDE_TAIL,
    cell_widths,
)

LAYOUT_VERSION = "g1"
_DIGITS = np.frombuffer(RUN_DIGITS.encode(), np.uint8)
_CHUNK = 1 << 20  # characters whose cells are computed at a time


@dataclass(frozen=True)
class Grid:
    """The density of a corpus: how many cells a page has.

    Args:
        columns, rows: 16 to 256 and 8 to 128; `columns == 2 * rows` gives cells of the usual 1:2 shape.
    """

    columns: int
    rows: int

    def __post_init__(self) -> None:
        if not (16 <= self.columns <= 256 and 8 <= self.rows <= 128):
            raise ValueError(f"grid {self.columns}x{self.rows}: columns must be 16..256 and rows 8..128")

    @property
    def cells(self) -> int:
        return self.columns * self.rows

    @classmethod
    def parse(cls, text: str) -> Grid:
        """`"80x40"` -> `Grid(80, 40)`."""
        match = re.fullmatch(r"(\d+)x(\d+)", text)
        if not match:
            raise ValueError(f"grid {text!r}: expected COLUMNSxROWS, for example 80x40")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.columns}x{self.rows}"


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
    start = 0
    while start < len(text):
        piece = text[start : start + _CHUNK]
        last = start + len(piece) == len(text)
        consumed = 0
        for page in _pages(_code_points(piece), grid):
            if page.char_end == len(piece) and not last and consumed:
                break  # an unfinished page: begin the next piece with it
            consumed = page.char_end
            yield page._replace(char_start=start + page.char_start, char_end=start + page.char_end)
        start += consumed


def _code_points(text: str) -> np.ndarray:
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8).astype(np.uint32)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _pages(codes: np.ndarray, grid: Grid) -> Iterator[Page]:
    kinds, counts, run_heads = _cell_counts(codes)
    ends = np.cumsum(counts)
    has_wide = bool((kinds == WIDE).any())
    start = 0
    while start < len(codes):
        base = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, base + grid.cells, "right"))
        offsets = ends[start:stop] - counts[start:stop] - base
        pads: list[int] = []
        if has_wide:
            offsets, pads = _avoid_straddling(kinds[start:stop], counts[start:stop], offsets, grid)
            stop = start + len(offsets)
        yield _fill(codes, counts, run_heads, start, stop, offsets, pads, grid)
        start = stop


def _cell_counts(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each character: its kind, the cells it takes, and the length of the run of spaces that it heads (0 elsewhere)."""
    kinds = np.zeros(len(codes), np.uint8)
    if len(codes) and int(codes.max()) < 0x10000:
        kinds = cell_widths()[codes]
    else:
        low = codes < 0x10000
        kinds[low] = cell_widths()[codes[low]]
    counts = kinds.astype(np.int64)
    escaped = np.flatnonzero(kinds == ESCAPE)
    if len(escaped):
        chars = codes[escaped]
        hex_digits = np.maximum(1, np.ceil(np.log2(chars.astype(np.float64) + 1) / 4)).astype(np.int64)
        counts[escaped] = np.where((chars == 10) | (chars == 9), 1, hex_digits + 2)
    heads = np.zeros(len(codes), np.int64)
    is_space = codes == 32
    triples = np.flatnonzero(is_space[2:] & is_space[1:-1] & is_space[:-2]) if len(codes) >= RUN_MIN else ()
    if len(triples):
        edges = np.diff(np.concatenate(([0], is_space.view(np.int8), [0])))
        firsts, lasts = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        long = (lasts - firsts) >= RUN_MIN
        for first, last in zip(firsts[long].tolist(), lasts[long].tolist(), strict=True):
            while last - first >= RUN_MIN:
                length = min(RUN_MAX, last - first)
                counts[first : first + length] = 0
                counts[first], heads[first] = 2, length
                first += length
    return kinds, counts, heads


def _avoid_straddling(kinds: np.ndarray, counts: np.ndarray, offsets: np.ndarray, grid: Grid) -> tuple[np.ndarray, list[int]]:
    """Push wide characters that would straddle two rows into the next row; returns the offsets that still fit, and the pads."""
    offsets, pads = offsets.copy(), []
    for boundary in range(grid.columns, grid.cells, grid.columns):
        at = int(np.searchsorted(offsets, boundary - 1, "left"))
        if at < len(offsets) and offsets[at] == boundary - 1 and kinds[at] == WIDE:
            offsets[at:] += 1
            pads.append(boundary - 1)
    fits = int(np.searchsorted(offsets + counts, grid.cells, "right"))
    if fits < len(offsets):
        used = int(offsets[fits])
        pads = [pad for pad in pads if pad < used]
        if pads and fits and pads[-1] >= int(offsets[fits - 1] + counts[fits - 1]):
            pads.pop()
    return offsets[:fits], pads


def _fill(
    codes: np.ndarray, counts: np.ndarray, heads: np.ndarray, start: int, stop: int, offsets: np.ndarray, pads: list[int], grid: Grid
) -> Page:
    cells = np.full(grid.cells, BLANK, np.uint32)
    chars, taken, runs = codes[start:stop], counts[start:stop], heads[start:stop]
    used = int(offsets[-1] + taken[-1]) if len(offsets) else 0
    escaped = 0
    if used == len(offsets) and not pads:  # one cell each: the common case
        cells[:used] = chars
    else:
        cells[offsets[taken > 0]] = chars[taken > 0]
        run = np.flatnonzero(runs)
        cells[offsets[run]] = RUN
        cells[offsets[run] + 1] = _DIGITS[runs[run] - RUN_MIN]
        several = np.flatnonzero((taken >= 2) & (runs == 0))
        wide = several[taken[several] == 2]
        cells[offsets[wide] + 1] = WIDE_TAIL
        for i in several[taken[several] > 2].tolist():
            at, digits = int(offsets[i]), f"{int(chars[i]):x}"
            cells[at], cells[at + 1 + len(digits)] = ESC, ESC
            cells[at + 1 : at + 1 + len(digits)] = np.frombuffer(digits.encode(), np.uint8)
            escaped += 1
        cells[pads] = PAD
    cells[cells == 10] = NEWLINE
    cells[cells == 9] = TAB
    if used < grid.cells:
        cells[used] = END
    return Page(start, stop, cells, escaped)


_MARK = re.compile(f"[{chr(MARK_BASE)}-{chr(MARK_BASE + 7)}]")
_RUN_OR_ESCAPE = re.compile(f"{chr(RUN)}([{re.escape(RUN_DIGITS)}])|{chr(ESC)}([0-9a-f]{{1,6}}){chr(ESC)}")


def _expand(match: re.Match[str]) -> str:
    if match[1] is not None:
        return " " * (RUN_DIGITS.index(match[1]) + RUN_MIN)
    code = int(match[2], 16)
    return chr(code) if code <= 0x10FFFF else ""


def read_back(cells: np.ndarray | str) -> str:
    """The text of a page's cells (uint32 `[any]`, or a string in which marks are their plane-15 characters).

    Total: marks that stand where they make no sense are dropped.
    """
    text = cells if isinstance(cells, str) else np.ascontiguousarray(cells, "<u4").tobytes().decode("utf-32-le", "surrogatepass")
    text = text.partition(chr(END))[0]
    if not _MARK.search(text):
        return text
    text = text.replace(chr(NEWLINE), "\n").replace(chr(TAB), "\t")
    for mark in (PAD, WIDE_TAIL, BLANK):
        text = text.replace(chr(mark), "")
    text = _RUN_OR_ESCAPE.sub(_expand, text)
    return _MARK.sub("", text)
