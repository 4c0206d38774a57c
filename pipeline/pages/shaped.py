"""The shaped path: pages of Arabic, Hebrew, Devanagari, Thai and other scripts that do not stand on a grid of cells.

As on the grid the layout is made once and every mode only scales it: lines are broken by widths in thousandths of the em, and a page
has `LINES_PER_ROW * grid.rows` lines, which gives it about as many characters as the grid's page. Text flows: a line feed is a gray
box, not an empty rest of a line. The base direction is one per document, so that a page's order never depends on where it begins.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from pipeline.pages.bidi import is_rtl, levels, visual_order
from pipeline.pages.grid import Grid
from pipeline.pages.shaping import EM, ESCAPE, advance, ink, split_by_font

SHAPED_VERSION = "s1"
LINES_PER_ROW = 0.7
LINE_HEIGHT = 1600  # thousandths of the em, as every width here
BASELINE = 0.66  # of the line height, from its top
SPACE, BOX = 260, 600
_BOXES = {"\n": ("newline", 0.1, 0.95), "\t": ("tab", 0.1, 0.5)}
_BOX_PARTS = {name: (top, bottom) for name, top, bottom in _BOXES.values()}
_BOX_INK, _ESCAPE_INK = 105, 0.6
_PARAGRAPH = 1 << 15  # characters whose order is resolved at a time
# A word with the space after it. Thai has no spaces: a line may break after three syllable-like clusters. Ideographs stand alone.
_THAI, _IDEOGRAPHS = "\u0e01-\u0e2e\u0e40-\u0e44", "\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff"
_TOKEN = re.compile(
    f"[^\n\t {_THAI}{_IDEOGRAPHS}]{{1,48}}[^\\w\\s]{{0,8}} ?|[\n\t ]|[{_IDEOGRAPHS}] ?"
    "|(?:[\u0e40-\u0e44]?[\u0e01-\u0e2e][\u0e30-\u0e3a\u0e45-\u0e4e]*){1,3} ?|.",
    re.DOTALL,
)
_CLUSTER = re.compile(r"[\w\s][^\w\s]{0,8}|.", re.DOTALL)


class Piece(NamedTuple):
    """Ink on a line: `x` from the page's left edge in thousandths of the em, the text of one font and direction."""

    x: int
    font: str
    rtl: bool
    text: str


class Line(NamedTuple):
    char_start: int
    pieces: list[Piece]


class ShapedPage(NamedTuple):
    """One page; the span counts characters of the normalised document. `uncovered` characters are drawn as gray escapes."""

    char_start: int
    char_end: int
    rtl: bool
    lines: list[Line]
    uncovered: int


class _Item(NamedTuple):
    level: int
    width: int
    font: str  # "" for a space
    text: str


class _Token(NamedTuple):
    """What a line is not broken in; `ink_width` leaves out a space at its end, `level` is -1 where its items differ."""

    width: int
    ink_width: int
    uncovered: int
    level: int
    items: tuple[_Item, ...]


def lines_per_page(grid: Grid) -> int:
    return round(LINES_PER_ROW * grid.rows)


def lay_out_shaped(text: str, grid: Grid) -> Iterator[ShapedPage]:
    """Lay a normalised text out on pages of `lines_per_page(grid)` lines. An empty text has no pages.

    A page holds at most `2 * grid.cells` characters, however little room they take.
    """
    rtl, count = is_rtl(text), lines_per_page(grid)
    measure = count * LINE_HEIGHT
    lines: list[Line] = []
    tokens: list[_Token] = []
    x = uncovered = page_start = line_start = 0
    for at, token in _tokens(text, rtl, measure):
        overfull = at - page_start >= 2 * grid.cells
        if tokens and (overfull or x + token.ink_width > measure):
            lines.append(_set_line(line_start, tokens, rtl, measure))
            tokens, x, line_start = [], 0, at
            if overfull or len(lines) == count:
                yield ShapedPage(page_start, at, rtl, lines, uncovered)
                lines, uncovered, page_start = [], 0, at
        tokens.append(token)
        x += token.width
        uncovered += token.uncovered
    if tokens:
        lines.append(_set_line(line_start, tokens, rtl, measure))
        yield ShapedPage(page_start, len(text), rtl, lines, uncovered)


def _tokens(text: str, rtl: bool, measure: int) -> Iterator[tuple[int, _Token]]:
    """The tokens of a text and where they begin."""
    start = 0
    while start < len(text):
        end = text.find("\n", start, start + _PARAGRAPH) + 1
        if not end and len(text) - start > _PARAGRAPH:
            end = text.rfind(" ", start, start + _PARAGRAPH) + 1 or start + _PARAGRAPH
        paragraph = text[start : end or len(text)]
        depth = levels(paragraph.removesuffix("\n"), rtl) + bytes([rtl])
        for found in _TOKEN.finditer(paragraph):
            token = _token(found[0], depth[found.start() : found.end()])
            if token.width <= measure:
                yield start + found.start(), token
                continue
            for part in _CLUSTER.finditer(paragraph, found.start(), found.end()):
                yield start + part.start(), _token(part[0], depth[part.start() : part.end()])
        start += len(paragraph)


@lru_cache(maxsize=1 << 16)
def _token(word: str, depth: bytes) -> _Token:
    if word in _BOXES:
        return _Token(BOX, BOX, 0, depth[0], (_Item(depth[0], BOX, _BOXES[word][0], ""),))
    items: list[_Item] = []
    start, stop = 0, len(word) - word.endswith(" ")
    for end in range(1, stop + 1):
        if end < stop and depth[end] == depth[start]:
            continue
        level = depth[start]
        for font, part in split_by_font(word[start:end]):
            items.append(_Item(level, advance(font, part, level % 2 == 1 and font != ESCAPE), font, part))
        start = end
    width = sum(item.width for item in items)
    if stop < len(word):
        items.append(_Item(depth[-1], SPACE, "", " "))
    level = depth[0] if depth.count(depth[0]) == len(depth) else -1
    return _Token(sum(item.width for item in items), width, sum(item.font == ESCAPE for item in items), level, tuple(items))


def _set_line(char_start: int, tokens: list[_Token], rtl: bool, measure: int) -> Line:
    """Put the items of a line in visual order, on the side where reading begins."""
    base = int(rtl)
    items = [item for token in tokens for item in token.items]
    x = measure - sum(token.width for token in tokens) if rtl else 0
    if any(token.level != base for token in tokens):
        depth = [item.level for item in items]
        for at in range(len(items) - 1, -1, -1):  # L1: spaces at the end of a line
            if items[at].font:
                break
            depth[at] = base
        items = [items[at] for at in visual_order(depth)]
    elif rtl:
        items.reverse()
    pieces = []
    for level, width, font, text in items:
        if font:
            pieces.append(Piece(x, font, level % 2 == 1 and font != ESCAPE, text))
        x += width
    return Line(char_start, pieces)


def render_shaped(page: ShapedPage, grid: Grid, px: int, out: np.ndarray | None = None) -> np.ndarray:
    """Draw a page: black on white, uint8 `[px, px]`, into `out` if that is given."""
    count = lines_per_page(grid)
    em_px = px * EM / (count * LINE_HEIGHT)
    scale, margin = em_px / EM, _margin(em_px)
    stride = px + 2 * margin
    canvas = np.zeros(stride * stride, np.uint8)
    # Neighbours, in a line and across lines, are drawn in different turns: within a turn no pixel is inked twice.
    turns: list[tuple[list[np.ndarray], list[np.ndarray], list[int]]] = [([], [], []) for _ in range(4)]
    boxes: list[tuple[slice, slice]] = []
    for number, line in enumerate(page.lines):
        origin = (round((number + BASELINE) * px / count) + margin) * stride + margin
        for turn, (x, font, rtl, text) in enumerate(line.pieces):
            left = int(x * scale + 0.5)
            if font in _BOX_PARTS:
                top, bottom = (round((number + part) * px / count) for part in _BOX_PARTS[font])
                boxes.append((slice(top, bottom), slice(left, left + round(0.85 * BOX * scale))))
                continue
            pixels, inks = _stamp(font, text, rtl, em_px, stride)
            offsets, values, origins = turns[2 * (number & 1) + (turn & 1)]
            offsets.append(pixels)
            values.append(inks)
            origins.append(origin + left)
    for offsets, values, origins in turns:
        if offsets:
            at = np.concatenate(offsets, dtype=np.intp)
            at += np.repeat(origins, [len(pixels) for pixels in offsets])
            canvas[at] = np.maximum(canvas.take(at), np.concatenate(values))
    visible = canvas.reshape(stride, stride)[margin : margin + px, margin : margin + px]
    for rows, columns in boxes:
        visible[rows, columns] = _BOX_INK
    return np.subtract(255, visible, out=out)


def _margin(em_px: float) -> int:
    """Pixels around the page that take what leaves it, so that drawing need not clip."""
    return int(2 * em_px) + 1


@lru_cache(maxsize=1 << 15)
def _stamp(font: str, text: str, rtl: bool, em_px: float, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """The inked pixels of a run on a page of `stride` pixels a row: int32 offsets from the pen, uint8 ink."""
    coverage, left, top = ink(font, text, rtl, em_px)
    rows, columns = np.nonzero(coverage)
    inks = coverage[rows, columns]
    if font == ESCAPE:
        inks = (inks * _ESCAPE_INK).astype(np.uint8)
    rows, columns = rows + top, columns + left
    reach = _margin(em_px) - 1
    near = (abs(rows) <= reach) & (columns >= -reach)
    return (rows * stride + columns).astype(np.int32)[near], inks[near]


def to_json(page: ShapedPage) -> bytes:
    """The page as JSON in UTF-8: `[[char_start, [[x, font, rtl, text], ...]], ...]` for its lines."""
    return json.dumps(page.lines, ensure_ascii=False, separators=(",", ":")).encode()


def lines_from_json(data: bytes) -> list[Line]:
    """The inverse of `to_json`."""
    return [Line(start, [Piece(*piece) for piece in pieces]) for start, pieces in json.loads(data)]
