"""Typeset lines to pixels: words are rasterised once per size, and a line is one concatenation of their strips.

A strip is as high as its line and as wide as its word with the blanks behind it, so most of a page is a few dozen copies. A
word whose ink leaves its strip (a tall accent, an overhanging j) has a blank strip, and is laid over the page when all lines are
on it: nothing is cut. Lines that mix reading directions are laid over as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import ceil
from typing import NamedTuple

import numpy as np

from palimpsest.pages.bidi import first_direction, levels, strengths, visual_order
from palimpsest.pages.typesetting import Line, Vocabulary
from palimpsest.pages.unicode_data import code_points
from palimpsest.pages.words import EM, Ink, Word

STAMPS_VERSION = "i1"
PAPER = 255
_DESCENDER = 245  # thousandths of the em, of Noto Sans
_STAMPS = 1 << 15  # words whose pixels are cached per size
_KANA, _HANGUL = re.compile("[\u3040-\u30ff]"), re.compile("[\u1100-\u11ff\uac00-\ud7a3]")


class Stamps:
    """The words of one size, line grade, direction and language.

    Attributes:
        slots: the number of each word.
        strips: two for each word, uint8 `[height, width]`: at its width rounded down, and a column wider.
        widths: int64 `[n]`, thousandths of the em; `pixels`: int64 `[n]`, the width rounded down.
        over: the ink of words that do not fit their strip, by number; its top is counted from the line's top.
    """

    def __init__(self, words: Vocabulary, px: int, grade: int, rtl: bool | None, language: str) -> None:
        self._words, self._rtl, self._language = words, rtl, language
        height, baseline = words.grades[grade]
        self.scale = px / words.measures.page
        self.height = int(height * self.scale)
        # Rounding must not push the descenders of a whole script out of their strips.
        self._baseline = min(round(baseline * self.scale), self.height - ceil(_DESCENDER * self.scale))
        self._clear()

    def _clear(self) -> None:
        self.slots: dict[str, int] = {}
        self.strips: list[np.ndarray] = []
        self.over: dict[int, Ink] = {}
        self.widths, self.pixels = (np.zeros(1024, np.int64) for _ in range(2))

    def look_up(self, units: Sequence[str]) -> np.ndarray:
        """The numbers of words, int64 `[n]`."""
        if len(self.slots) > _STAMPS:
            self._clear()
        get = self.slots.get
        found = [get(unit, -1) for unit in units]
        if -1 in found:
            found = [self._add(unit) if number < 0 else number for unit, number in zip(units, found, strict=True)]
        return np.array(found, np.int64)

    def _add(self, unit: str) -> int:
        number = self.slots.setdefault(unit, len(self.slots))
        if 2 * number < len(self.strips):  # twice among the words that were looked up
            return number
        if number == len(self.widths):
            self.widths, self.pixels = (np.concatenate([old, np.zeros_like(old)]) for old in (self.widths, self.pixels))
        text, blanks = self._words.split(unit)
        word = self._words.fonts.measure(text, self._rtl)
        width = word.width + blanks
        pixels = int(width * self.scale)
        ink = self.ink(word)
        left = ink.left
        if self._rtl:  # blanks are on the left, but for a pixel or two, so that ink may reach a little over the right edge
            space = round(blanks * self.scale)
            left += space - min(2, space // 2)
        strip = np.full((self.height, pixels + 1), PAPER, np.uint8)
        ink_height, ink_width = ink.coverage.shape
        if left >= 0 and ink.top >= 0 and ink.top + ink_height <= self.height and left + ink_width <= pixels:
            strip[ink.top : ink.top + ink_height, left : left + ink_width] -= ink.coverage
        else:
            self.over[number] = ink._replace(left=left)
        self.strips += [strip[:, :pixels], strip]
        self.widths[number], self.pixels[number] = width, pixels
        return number

    def ink(self, word: Word) -> Ink:
        """The ink of a word; its top is counted from the line's top."""
        ink = self._words.fonts.ink(word, self.scale * EM, self._language)
        return ink._replace(top=ink.top + self._baseline)


@lru_cache(maxsize=64)
def _stamps(words: Vocabulary, px: int, grade: int, rtl: bool | None, language: str) -> Stamps:
    return Stamps(words, px, grade, rtl, language)


class _Placed(NamedTuple):
    """Ink that is laid over the page, at its top left corner."""

    top: int
    left: int
    ink: Ink


class _Row(NamedTuple):
    """A line to draw: its number, grade, direction and units from left to right, and what it is indented by."""

    number: int
    grade: int
    rtl: bool
    units: list[str]
    indent: int


def draw(lines: Sequence[Line], words: Vocabulary, px: int, page: np.ndarray) -> None:
    """Draw a page, black on white.

    Args:
        page: uint8 `[px, px]` to draw into.
    """
    page.fill(PAPER)
    text = "".join(unit for line in lines for unit in line.units)
    language = _language(text)
    tops = _tops(lines, words, px)
    over: list[_Placed] = []
    rows: list[_Row] = []
    if not text.isascii() and np.isin(strengths(code_points(text)), (1, 3)).any():
        rows += _bidi_rows(lines, words, px, tops, language, over)
    else:
        rows += (_Row(number, line.grade, False, _trimmed(line.units), line.indent) for number, line in enumerate(lines))
    groups: dict[tuple[int, bool], list[_Row]] = {}
    for row in rows:
        if row.units:
            groups.setdefault((row.grade, row.rtl), []).append(row)
    for (grade, rtl), some in groups.items():
        stamps = _stamps(words, px, grade, True if rtl else None, language)
        _draw_rows(some, stamps, words, tops, page, over)
    for placed in over:
        _lay_over(page, placed)


def _language(text: str) -> str:
    """Whose ideographs a page is drawn with."""
    return "ja" if _KANA.search(text) else "ko" if _HANGUL.search(text) else "zh"


def _tops(lines: Sequence[Line], words: Vocabulary, px: int) -> list[int]:
    y, scale = words.measures.padding, px / words.measures.page
    tops = []
    for line in lines:
        tops.append(int(y * scale + 0.5))
        y += words.grades[line.grade][0]
    return tops


def _trimmed(units: list[str]) -> list[str]:
    """The units of a line with one space at its end, whatever blanks are there: its last word's strip is as the others are."""
    end = len(units)
    while end and not units[end - 1].strip(" \t\n"):
        end -= 1
    return [*units[: end - 1], units[end - 1].rstrip(" \t\n") + " "] if end else []


def _draw_rows(
    rows: list[_Row], stamps: Stamps, words: Vocabulary, tops: list[int], page: np.ndarray, over: list[_Placed]
) -> None:
    slots = stamps.look_up([unit for row in rows for unit in row.units])
    counts = np.array([len(row.units) for row in rows])
    stops = np.cumsum(counts)
    starts = stops - counts
    widths = stamps.widths[slots]
    ends = np.cumsum(widths)
    padding, side = words.measures.padding, words.measures.page
    if rows[0].rtl:
        lefts = side - padding - np.array([row.indent for row in rows]) - (ends[stops - 1] - ends[starts] + widths[starts])
    else:
        lefts = padding + np.array([row.indent for row in rows])
    shift = np.repeat(lefts - (ends - widths)[starts], counts)
    right = ((ends + shift) * stamps.scale + 0.5).astype(np.int64)
    left = ((ends - widths + shift) * stamps.scale + 0.5).astype(np.int64)
    np.minimum(right, page.shape[1], out=right)
    wider = right - left > stamps.pixels[slots]
    strips = [stamps.strips[key] for key in (2 * slots + wider).tolist()]
    begins, finishes = left[starts].tolist(), (left[starts] + np.add.reduceat(stamps.pixels[slots] + wider, starts)).tolist()
    for row, start, stop, x, x_end in zip(rows, starts.tolist(), stops.tolist(), begins, finishes, strict=True):
        top = tops[row.number]
        if x < 0 or x_end > page.shape[1]:  # of a text whose shaping is wider than its parts were
            line = np.concatenate(strips[start:stop], axis=1)[:, max(0, -x) : page.shape[1] - x]
            page[top : top + stamps.height, max(0, x) : max(0, x) + line.shape[1]] = line
        else:
            np.concatenate(strips[start:stop], axis=1, out=page[top : top + stamps.height, x:x_end])
    if stamps.over:
        numbers = np.repeat([row.number for row in rows], counts).tolist()
        for slot, x, number in zip(slots.tolist(), left.tolist(), numbers, strict=True):
            if slot in stamps.over:
                ink = stamps.over[slot]
                over.append(_Placed(tops[number] + ink.top, x + ink.left, ink))


def _lay_over(page: np.ndarray, placed: _Placed) -> None:
    top, left = max(0, placed.top), max(0, placed.left)
    coverage = placed.ink.coverage[top - placed.top :, left - placed.left :]
    part = page[top : top + coverage.shape[0], left : left + coverage.shape[1]]
    np.minimum(part, PAPER - coverage[: part.shape[0], : part.shape[1]], out=part)


def _bidi_rows(
    lines: Sequence[Line], words: Vocabulary, px: int, tops: list[int], language: str, over: list[_Placed]
) -> Iterator[_Row]:
    """The lines of one direction, in visual order; those that mix directions go to `over`.

    The base direction is that of the first strong character of a paragraph's part on the page.
    """
    number = 0
    while number < len(lines):
        stop = number + 1
        while stop < len(lines) and not lines[stop - 1].units[-1].endswith("\n"):
            stop += 1
        paragraph = "".join(unit for line in lines[number:stop] for unit in line.units)
        rtl = bool(first_direction(paragraph))
        depth = levels(paragraph.removesuffix("\n"), rtl) + bytes([rtl])
        start = 0
        for at in range(number, stop):
            line = lines[at]
            units, end = _trimmed(line.units), start + sum(map(len, line.units))
            text = "".join(units).rstrip(" ")
            own = depth[start : start + len(text)]
            if own.count(rtl) == len(own):
                yield _Row(at, line.grade, rtl, units[::-1] if rtl else units, line.indent)
            else:
                stamps = _stamps(words, px, line.grade, True if rtl else None, language)
                over += _mixed_line(text, own, rtl, line.indent, tops[at], words, stamps)
            start = end
        number = stop


def _mixed_line(
    text: str, depth: bytes, rtl: bool, indent: int, top: int, words: Vocabulary, stamps: Stamps
) -> Iterator[_Placed]:
    """Ink of a line with both directions: runs of one level and their blanks, in visual order."""
    items: list[tuple[int, str]] = []
    for char, level in zip(text.replace("\n", ""), depth, strict=False):
        blank = char in " \t"
        if items and items[-1][0] == level and (items[-1][1][-1] in " \t") == blank:
            items[-1] = (level, items[-1][1] + char)
        else:
            items.append((level, char))
    measured = [_item(words, text, level % 2 == 1) for level, text in items]
    widths = [width for width, _ in measured]
    x = words.measures.padding + indent
    if rtl:
        x = words.measures.page - words.measures.padding - indent - sum(widths)
    for at in visual_order([level for level, _ in items]):
        width, word = measured[at]
        if word is not None:
            ink = stamps.ink(word)
            yield _Placed(top + ink.top, int(x * stamps.scale + 0.5) + ink.left, ink)
        x += width


def _item(words: Vocabulary, text: str, rtl: bool) -> tuple[int, Word | None]:
    if not text.strip(" \t"):
        return words.split(text)[1], None
    word = words.fonts.measure(text, rtl)
    return word.width, word
