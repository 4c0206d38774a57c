"""Typeset lines to pixels: words are rasterised once per size, and a line is one concatenation of their strips.

A strip is as high as its line and as wide as its word with the blanks behind it, so most of a page is a few dozen copies. A
word whose ink leaves its strip (a tall accent, an overhanging j) has a blank strip, and is laid over the page when all lines are
on it: nothing is cut. Lines that mix reading directions are laid over as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import ceil
from typing import NamedTuple

import numpy as np

from palimpsest.pages.bidi import first_direction, levels, strengths, visual_order
from palimpsest.pages.typesetting import Vocabulary
from palimpsest.pages.unicode_data import code_points
from palimpsest.pages.words import EM, Ink, Word

STAMPS_VERSION = "i1"
PAPER = 255
_DESCENDER = 245  # thousandths of the em, of Noto Sans
_STAMPS = 1 << 15  # words whose pixels are cached per size
_BLANKS = " \t\n"


class Lines(NamedTuple):
    """The lines of a page.

    Attributes:
        text: of the page.
        bounds: int64 `[units + 1]`, where each unit (a word with the blanks behind it) begins, and where the last one ends.
        stops: int64 `[lines]`, the number of the unit after each line.
        indents, grades: int64 `[lines]`, thousandths of the em, and indices of `Vocabulary.grades`.
    """

    text: str
    bounds: np.ndarray
    stops: np.ndarray
    indents: np.ndarray
    grades: np.ndarray


class Stamps:
    """The words of one size, line grade, direction and language.

    Attributes:
        strips: two for each word, uint8 `[height, width]`: at its width rounded down, and a column wider.
        widths: int64 `[n]`, thousandths of the em; `pixels`: int64 `[n]`, the width rounded down.
        over: the ink of words that do not fit their strip, by number; its top is counted from the line's top.
        is_over: bool `[n]`, whether a word is in `over`.
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
        self._generation = self._words.generation
        self._slots = np.full(1024, -1, np.int64)  # by the word's number in the vocabulary
        self.strips: list[np.ndarray] = []
        self.over: dict[int, Ink] = {}
        self.widths, self.pixels, self.is_over = np.zeros(1024, np.int64), np.zeros(1024, np.int64), np.zeros(1024, bool)

    def slots(self, numbers: np.ndarray) -> np.ndarray:
        """The words of a vocabulary, int64 `[n]`, as indices of the columns of these stamps."""
        if len(self.strips) > 2 * _STAMPS or self._generation != self._words.generation:
            self._clear()
        missing = len(self._words.units) - len(self._slots)
        if missing > 0:
            self._slots = np.concatenate([self._slots, np.full(missing + len(self._slots), -1, np.int64)])
        slots = self._slots[numbers]
        new = slots < 0
        if new.any():
            for number in np.unique(numbers[new]).tolist():
                self._slots[number] = self._add(self._words.units[number])
            slots = self._slots[numbers]
        return slots

    def _add(self, unit: str) -> int:
        slot = len(self.strips) // 2
        if slot == len(self.widths):
            self.widths, self.pixels, self.is_over = (
                np.concatenate([old, np.zeros_like(old)]) for old in (self.widths, self.pixels, self.is_over)
            )
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
            self.over[slot], self.is_over[slot] = ink._replace(left=left), True
        self.strips += [strip[:, :pixels], strip]
        self.widths[slot], self.pixels[slot] = width, pixels
        return slot

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


class _Rows(NamedTuple):
    """Lines of one grade and direction: int64 `[n]` each.

    Attributes:
        tops: pixels.
        indents: thousandths of the em.
        counts: of their words. `numbers` are those of all words, from left to right.
    """

    tops: np.ndarray
    indents: np.ndarray
    counts: np.ndarray
    numbers: np.ndarray


def draw(lines: Lines, words: Vocabulary, px: int, page: np.ndarray) -> None:
    """Draw a page, black on white.

    Args:
        page: uint8 `[px, px]` to draw into.
    """
    page.fill(PAPER)
    codes = code_points(lines.text)
    language, tops = _language(codes), _tops(lines, words, px)
    over: list[_Placed] = []
    numbers = words.numbers_in(lines.text, codes, lines.bounds)
    begins = np.concatenate(([0], lines.stops[:-1]))
    ends = _trim(lines, words, begins, numbers)
    rtl = np.zeros(len(tops), bool)
    if codes.dtype != np.uint8:
        strong = strengths(codes)
        if ((strong == 1) | (strong == 3)).any():
            mixed = _directions(lines, strong, rtl)
            for at, base, depth in mixed:
                stamps = _stamps(words, px, int(lines.grades[at]), True if base else None, language)
                over += _mixed_line(_trimmed(lines, at), depth, base, int(lines.indents[at]), int(tops[at]), words, stamps)
            ends[[at for at, _, _ in mixed]] = 0
    kinds = 2 * lines.grades + rtl
    drawn = ends > begins
    for kind in dict.fromkeys(kinds[drawn].tolist()):
        some = np.flatnonzero((kinds == kind) & drawn)
        counts = (ends - begins)[some]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        units = np.repeat(ends[some] - 1, counts) - within if kind % 2 else np.repeat(begins[some], counts) + within
        stamps = _stamps(words, px, kind // 2, True if kind % 2 else None, language)
        _draw_rows(_Rows(tops[some], lines.indents[some], counts, numbers[units]), bool(kind % 2), stamps, words, page, over)
    for placed in over:
        _lay_over(page, placed)


def _language(codes: np.ndarray) -> str:
    """Whose ideographs a page is drawn with: Japanese where it has kana, Korean where it has Hangul."""
    if codes.dtype == np.uint8 or not len(codes) or codes.max() < 0x1100:
        return "zh"
    if ((codes >= 0x3040) & (codes <= 0x30FF)).any():
        return "ja"
    hangul = ((codes >= 0x1100) & (codes <= 0x11FF)) | ((codes >= 0xAC00) & (codes <= 0xD7A3))
    return "ko" if hangul.any() else "zh"


def _tops(lines: Lines, words: Vocabulary, px: int) -> np.ndarray:
    heights = np.array([height for height, _ in words.grades])[lines.grades]
    above = words.measures.padding + np.cumsum(heights) - heights
    return (above * (px / words.measures.page) + 0.5).astype(np.int64)


def _trim(lines: Lines, words: Vocabulary, begins: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The unit after the last one of each line that has ink, int64 `[lines]`; that last unit's number becomes the one of the
    unit with one space at its end, whatever blanks are there, so that its strip is as the others are."""
    text, bounds, ends = lines.text, lines.bounds.tolist(), lines.stops.copy()
    for at, (begin, stop) in enumerate(zip(begins.tolist(), lines.stops.tolist(), strict=True)):
        end, unit = stop, ""
        while end > begin:
            unit = text[bounds[end - 1] : bounds[end]].rstrip(_BLANKS)
            if unit:
                numbers[end - 1] = words.number(unit + " ")
                break
            end -= 1
        ends[at] = end
    return ends


def _trimmed(lines: Lines, at: int) -> str:
    """The text of a line without the blanks at its end."""
    begin = lines.bounds[lines.stops[at - 1]] if at else 0
    return lines.text[begin : lines.bounds[lines.stops[at]]].rstrip(_BLANKS)


def _draw_rows(rows: _Rows, rtl: bool, stamps: Stamps, words: Vocabulary, page: np.ndarray, over: list[_Placed]) -> None:
    slots = stamps.slots(rows.numbers)
    stops = np.cumsum(rows.counts)
    starts = stops - rows.counts
    widths, pixels = stamps.widths[slots], stamps.pixels[slots]
    ends = np.cumsum(widths)
    padding, side = words.measures.padding, words.measures.page
    lefts = padding + rows.indents
    if rtl:
        lefts = side - lefts - (ends[stops - 1] - ends[starts] + widths[starts])
    ends += np.repeat(lefts - (ends - widths)[starts], rows.counts)
    right = (ends * stamps.scale + 0.5).astype(np.int64)
    left = ((ends - widths) * stamps.scale + 0.5).astype(np.int64)
    np.minimum(right, page.shape[1], out=right)
    wider = right - left > pixels
    strips = list(map(stamps.strips.__getitem__, (2 * slots + wider).tolist()))
    begins = left[starts]
    finishes = begins + np.add.reduceat(pixels + wider, starts)
    of_rows = zip(*(each.tolist() for each in (rows.tops, starts, stops, begins, finishes)), strict=True)
    for top, start, stop, x, x_end in of_rows:
        if x < 0 or x_end > page.shape[1]:  # of a text whose shaping is wider than its parts were
            line = np.concatenate(strips[start:stop], axis=1)[:, max(0, -x) : page.shape[1] - x]
            page[top : top + stamps.height, max(0, x) : max(0, x) + line.shape[1]] = line
        else:
            np.concatenate(strips[start:stop], axis=1, out=page[top : top + stamps.height, x:x_end])
    leaving = np.flatnonzero(stamps.is_over[slots])
    places = zip(
        slots[leaving].tolist(), rows.tops[np.searchsorted(stops, leaving, "right")].tolist(), left[leaving].tolist(), strict=True
    )
    for slot, top, x in places:
        ink = stamps.over[slot]
        over.append(_Placed(top + ink.top, x + ink.left, ink))


def _lay_over(page: np.ndarray, placed: _Placed) -> None:
    top, left = max(0, placed.top), max(0, placed.left)
    coverage = placed.ink.coverage[top - placed.top :, left - placed.left :]
    part = page[top : top + coverage.shape[0], left : left + coverage.shape[1]]
    np.minimum(part, PAPER - coverage[: part.shape[0], : part.shape[1]], out=part)


def _directions(lines: Lines, strong: np.ndarray, rtl: np.ndarray) -> list[tuple[int, bool, bytes]]:
    """Find the direction of every line.

    The base direction is that of the first strong character of a paragraph's part on the page.

    Args:
        strong: the `strengths` of the page's characters.
        rtl: bool `[lines]`, set to the base direction of each line.

    Returns:
        The lines that mix directions: their number, base direction, and the level of every character up to their trailing blanks.
    """
    text, mixed = lines.text, []
    cuts = [0, *lines.bounds[lines.stops].tolist()]
    first = 0
    while first < len(rtl):
        stop = first + 1
        while stop < len(rtl) and text[cuts[stop] - 1] != "\n":
            stop += 1
        own = strong[cuts[first] : cuts[stop]]
        base = bool(first_direction(own))
        rtl[first:stop] = base
        if not ((own > 1) if base else (own == 1) | (own == 3)).any():
            first = stop
            continue
        depth = levels(text[cuts[first] : cuts[stop]].removesuffix("\n"), base) + bytes([base])
        for at in range(first, stop):
            start = cuts[at] - cuts[first]
            of_line = depth[start : start + len(_trimmed(lines, at))]
            if of_line.count(base) != len(of_line):
                mixed.append((at, base, of_line))
        first = stop
    return mixed


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
