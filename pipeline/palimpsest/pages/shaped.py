"""The shaped path: pages of Arabic, Hebrew, Devanagari, Thai and other scripts that do not stand on a grid of cells.

As on the grid the layout is made once and every mode only scales it: lines are broken by widths in thousandths of the em, and a
page has `LINES_PER_ROW * grid.rows` lines, which gives it about as many characters as the grid's page. Text flows: a line feed is
a gray box, not an empty rest of a line. The base direction is one per document, so that a page's order never depends on where it
begins.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from palimpsest.pages.bidi import is_rtl, levels, visual_order
from palimpsest.pages.grid import Grid
from palimpsest.pages.shaping import EM, ESCAPE, SCRIPT_FONTS, Ink, advance, ink, split_by_font

SHAPED_VERSION = "s1"
LINES_PER_ROW = 0.7
LINE_HEIGHT = 1600  # thousandths of the em, as every width here
BASELINE = 0.66  # of the line height, from its top
SPACE, BOX = 260, 600
LEAST_WIDTH = 60  # a character: bounds how many marks without a width a line can take
NEWLINE, TAB = "newline", "tab"
_BOXES = {"\n": NEWLINE, "\t": TAB}
_BOX_BOTTOM = {NEWLINE: 0.95, TAB: 0.5}  # of the line height, from its top; a box begins at 0.1
_BOX_INK, _ESCAPE_INK = 105, 0.6
_CHUNK = 1 << 15  # characters that are measured at a time, and the longest paragraph whose order is resolved as one
_STAMPS = 1 << 15  # words whose pixels are remembered per size
# A word with the space after it. Thai has no spaces: a line may break after three syllable-like clusters. Ideographs stand alone.
_THAI, _IDEOGRAPHS = "\u0e01-\u0e2e\u0e40-\u0e44", "\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff"
_TOKEN = re.compile(
    f"[^\n\t {_THAI}{_IDEOGRAPHS}]{{1,48}}[^\\w\\s]{{0,8}} ?|[\n\t ]|[{_IDEOGRAPHS}] ?"
    "|(?:[\u0e40-\u0e44]?[\u0e01-\u0e2e][\u0e30-\u0e3a\u0e45-\u0e4e]*){1,3} ?|.",
    re.DOTALL,
)
_CLUSTER = re.compile(r"\s|\w[^\w\s]{0,8}|.", re.DOTALL)

# Ink on a line: x from the page's left edge in thousandths of the em, font, right to left, text.
Piece = tuple[int, str, bool, str]


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
    """What a line is not broken in; `ink_width` leaves out a space at its end.

    `pieces` are relative to the token's left edge, for a line in which all levels are the same.
    """

    length: int
    width: int
    ink_width: int
    uncovered: int
    level: int  # -1 where its items differ
    items: tuple[_Item, ...]
    pieces: tuple[Piece, ...]


def lines_per_page(grid: Grid) -> int:
    return round(LINES_PER_ROW * grid.rows)


def lay_out_shaped(text: str, grid: Grid) -> Iterator[ShapedPage]:
    """Lay a normalised text out on pages of `lines_per_page(grid)` lines. An empty text has no pages.

    A page holds at most `2 * grid.cells` characters, however little room they take.
    """
    rtl, count = is_rtl(text), lines_per_page(grid)
    lines: list[Line] = []
    uncovered = page_start = 0
    for line, end, missing in _lines(text, rtl, count * LINE_HEIGHT):
        if len(lines) == count or (lines and end - page_start > 2 * grid.cells):
            yield ShapedPage(page_start, line.char_start, rtl, lines, uncovered)
            lines, uncovered, page_start = [], 0, line.char_start
        lines.append(line)
        uncovered += missing
    if lines:
        yield ShapedPage(page_start, len(text), rtl, lines, uncovered)


def _lines(text: str, rtl: bool, measure: int) -> Iterator[tuple[Line, int, int]]:
    """Break a text into lines of at most `measure`: the line, where it ends in the text, and its uncovered characters."""
    rest: list[_Token] = []
    at = read = 0
    while read < len(text):
        tokens, read = rest, _read_tokens(text, read, rtl, measure, rest)
        ends = np.cumsum([token.width for token in tokens])
        ink_ends = ends - [token.width - token.ink_width for token in tokens]
        start = base = 0
        while start < len(tokens):
            stop = int(np.searchsorted(ink_ends, base + measure, "right"))
            if stop == len(tokens) and read < len(text):
                break
            line, line_ends = tokens[start:stop], (ends[start:stop] - base).tolist()
            end = at + sum(token.length for token in line)
            yield Line(at, _set_line(line, line_ends, rtl, measure)), end, sum(token.uncovered for token in line)
            at, start, base = end, stop, int(ends[stop - 1])
        rest = tokens[start:]


def _read_tokens(text: str, start: int, rtl: bool, measure: int, tokens: list[_Token]) -> int:
    """Append the tokens of about `_CHUNK` characters from `start` on; returns where they end."""
    limit = start + _CHUNK
    while start < min(limit, len(text)):
        end = text.find("\n", start, start + _CHUNK) + 1
        if not end and len(text) - start > _CHUNK:
            end = text.rfind(" ", start, start + _CHUNK) + 1 or start + _CHUNK
        paragraph = text[start : end or len(text)]
        depth = levels(paragraph.removesuffix("\n"), rtl) + bytes([rtl])
        if depth.count(depth[0]) == len(depth):
            level = depth[:1]
            found = [_token(word, level) for word in _TOKEN.findall(paragraph)]
        else:
            found = [_token(m[0], _collapsed(depth[m.start() : m.end()])) for m in _TOKEN.finditer(paragraph)]
        if any(token.ink_width > measure for token in found):
            parts = [(m.start(), m.end()) for m in _CLUSTER.finditer(paragraph)]
            found = [_token(paragraph[a:b], _collapsed(depth[a:b])) for a, b in parts]
        tokens += found
        start += len(paragraph)
    return start


def _collapsed(depth: bytes) -> bytes:
    return depth[:1] if depth.count(depth[0]) == len(depth) else depth


@lru_cache(maxsize=1 << 16)
def _token(word: str, depth: bytes) -> _Token:
    """Measure a word; `depth` has one level for each character, or one for all."""
    items: list[_Item] = []
    start, stop = 0, len(word) - word.endswith(" ")
    if word in _BOXES:
        items, stop = [_Item(depth[0], BOX, _BOXES[word], "")], 0
    for end in range(1, stop + 1) if len(depth) > 1 else [stop] if stop else []:
        if end < stop and depth[end] == depth[start]:
            continue
        level = depth[start]
        for font, part in split_by_font(word[start:end]):
            width = advance(font, part, level % 2 == 1 and font != ESCAPE)
            items.append(_Item(level, max(width, LEAST_WIDTH * len(part)), font, part))
        start = end
    ink_width = sum(item.width for item in items)
    if word.endswith(" "):
        space = advance(items[-1].font, " ", False) if items and items[-1].font in SCRIPT_FONTS else SPACE
        items.append(_Item(depth[-1], space, "", " "))
    width = sum(item.width for item in items)
    pieces = _placed(reversed(items) if depth[0] % 2 else items, 0)
    uncovered = sum(item.font == ESCAPE for item in items)
    return _Token(len(word), width, ink_width, uncovered, depth[0] if len(depth) == 1 else -1, (*items,), (*pieces,))


def _placed(items: Iterable[_Item], x: int) -> list[Piece]:
    """The ink of items that stand from left to right, from `x` on."""
    pieces: list[Piece] = []
    for level, width, font, text in items:
        if font:
            pieces.append((x, font, level % 2 == 1 and font != ESCAPE, text))
        x += width
    return pieces


def _set_line(tokens: list[_Token], ends: list[int], rtl: bool, measure: int) -> list[Piece]:
    """Put the tokens of a line, which end at `ends`, in visual order, on the side where reading begins."""
    base = int(rtl)
    if all(token.level == base for token in tokens):
        lefts = [measure - end for end in ends] if rtl else [0, *ends]
        places = zip(lefts, tokens, strict=False)
        return [(left + x, font, turned, text) for left, token in places for x, font, turned, text in token.pieces]
    items = [item for token in tokens for item in token.items]
    depth = [item.level for item in items]
    for at in range(len(items) - 1, -1, -1):  # rule L1 of the bidirectional algorithm: spaces at the end of a line
        if items[at].font:
            break
        depth[at] = base
    return _placed((items[at] for at in visual_order(depth)), measure - ends[-1] if rtl else 0)


def render_shaped(page: ShapedPage, grid: Grid, px: int, out: np.ndarray | None = None) -> np.ndarray:
    """Draw a page: black on white, uint8 `[px, px]`, into `out` if that is given."""
    count = lines_per_page(grid)
    stamps = _stamps(px, count)
    scale, margin = stamps.em_px / EM, stamps.margin
    canvas = stamps.canvas
    canvas.fill(0)
    for number, (_, pieces) in enumerate(page.lines):
        baseline = round((number + BASELINE) * px / count) + margin
        for x, font, rtl, text in pieces:
            coverage, left, top, height, width = stamps[font, rtl, text]
            left, top = left + int(x * scale + 0.5), baseline + top
            part = canvas[top : top + height, left : left + width]
            np.maximum(part, coverage, out=part)  # the darker wins, as where a mark reaches into the next line
    return np.subtract(255, canvas[margin : margin + px, margin : margin + px], out=out)


_Stamp = tuple[np.ndarray, int, int, int, int]  # coverage uint8 [h, w], left, top, h, w


class _Stamps(dict[tuple[str, bool, str], _Stamp]):
    """The runs that were drawn at one size, on a page with a margin that takes what leaves it, so that drawing need not clip."""

    def __init__(self, px: int, count: int) -> None:
        super().__init__()
        self.em_px, self.line_px = px * EM / (count * LINE_HEIGHT), px / count
        self.margin = int(2 * self.em_px) + 2
        self.canvas = np.zeros((px + 2 * self.margin, px + 2 * self.margin), np.uint8)

    def __missing__(self, key: tuple[str, bool, str]) -> _Stamp:
        if len(self) >= _STAMPS:
            self.clear()
        font, rtl, text = key
        if font in _BOX_BOTTOM:
            coverage, left, top = self._box(font)
        else:
            coverage, left, top = ink(font, text, rtl, self.em_px)
            reach = self.margin - 2
            above, before = max(0, -reach - top), max(0, -reach - left)
            after = int(advance(font, text, rtl) * self.em_px / EM) + reach - left
            coverage, left, top = coverage[above : reach - top, before : max(before, after)], left + before, top + above
        if font == ESCAPE:
            coverage = (coverage * _ESCAPE_INK).astype(np.uint8)
        stamp = self[key] = coverage, left + self.margin, top, *coverage.shape
        return stamp

    def _box(self, name: str) -> Ink:
        top, bottom = (round((part - BASELINE) * self.line_px) for part in (0.1, _BOX_BOTTOM[name]))
        return Ink(np.full((max(1, bottom - top), max(1, round(0.85 * BOX * self.em_px / EM))), _BOX_INK, np.uint8), 0, top)


@lru_cache(maxsize=16)
def _stamps(px: int, count: int) -> _Stamps:
    return _Stamps(px, count)


def to_json(lines: list[Line]) -> bytes:
    """Lines as JSON in UTF-8: `[[char_start, [[x, font, rtl, text], ...]], ...]`."""
    return json.dumps(lines, ensure_ascii=False, separators=(",", ":")).encode()


def lines_from_json(data: bytes) -> list[Line]:
    """The inverse of `to_json`."""
    return [Line(start, [(x, font, rtl, text) for x, font, rtl, text in pieces]) for start, pieces in json.loads(data)]
