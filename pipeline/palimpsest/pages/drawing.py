"""Typeset lines to pixels: a line is one concatenation of its words' strips, so most of a page is a few dozen copies.

Ink that leaves its strip is laid over the page when all lines are on it, and so are lines that mix reading directions.

A line of full-width characters alone (ideographs, kana, Hangul) is set on whole pixels: its characters are cells of one size. The
cells of many lines are gathered at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from palimpsest.pages.bidi import first_direction, levels, strengths, visual_order
from palimpsest.pages.stamps import PAPER, Stamps
from palimpsest.pages.typesetting import Vocabulary
from palimpsest.pages.unicode_data import code_points
from palimpsest.pages.words import EM, Ink, Word

DRAWING_VERSION = "i2"
_BLANKS = " \t\n"
_TOGETHER = 8  # lines of full-width characters that are gathered at once: what a core's cache holds


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
    numbers = words.recall(lines.text, lines.bounds)
    if numbers is None:
        numbers = words.numbers_in(lines.text, codes, lines.bounds)
    begins = np.concatenate(([0], lines.stops[:-1]))
    ends = _trim(lines, codes, words, begins, numbers)
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


def _trim(lines: Lines, codes: np.ndarray, words: Vocabulary, begins: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The unit after the last one of each line that has ink, int64 `[lines]`; that last unit's number becomes the one of the
    unit with one space at its end, whatever blanks are there, so that its strip is as the others are."""
    text, bounds, ends = lines.text, lines.bounds, lines.stops.copy()
    stops = bounds[ends]
    last, before = codes[stops - 1], codes[np.maximum(stops - 2, 0)]
    as_it_is = (last == ord(" ")) & (before > ord(" ")) & (np.diff(bounds)[ends - 1] > 1)
    as_it_is |= _is_wide(last)  # nothing reaches over the right edge of these
    for at in np.flatnonzero(~as_it_is).tolist():
        begin, end, unit = begins[at], ends[at], ""
        while end > begin:
            unit = text[bounds[end - 1] : bounds[end]].rstrip(_BLANKS)
            if unit:
                numbers[end - 1] = words.number(unit + " ")
                break
            end -= 1
        ends[at] = end
    return ends


def _is_wide(codes: np.ndarray) -> np.ndarray:
    """Whether characters are ideographs, kana, Hangul or full-width forms, none of which is written from right to left."""
    return ((codes >= 0x2E80) & (codes < 0xFB00)) | ((codes > 0xFF00) & (codes < 0x10000))


def _trimmed(lines: Lines, at: int) -> str:
    """The text of a line without the blanks at its end."""
    begin = lines.bounds[lines.stops[at - 1]] if at else 0
    return lines.text[begin : lines.bounds[lines.stops[at]]].rstrip(_BLANKS)


def _draw_rows(rows: _Rows, rtl: bool, stamps: Stamps, words: Vocabulary, page: np.ndarray, over: list[_Placed]) -> None:
    slots = stamps.slots(rows.numbers)
    if not rtl and stamps.cells[slots].any():
        rows, slots = _draw_full_width(rows, slots, stamps, words, page)
        if not len(slots):
            return
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
    strips = stamps.strips[2 * slots + wider].tolist()
    begins = left[starts]
    finishes = begins + np.add.reduceat(pixels + wider, starts)
    first, end = stamps.first_row, max(stamps.first_row, stamps.end_row)
    of_rows = zip(*(each.tolist() for each in (rows.tops, starts, stops, begins, finishes)), strict=True)
    for top, start, stop, x, x_end in of_rows:
        if x < 0 or x_end > page.shape[1]:  # of a text whose shaping is wider than its parts were
            line = np.concatenate(strips[start:stop], axis=1)[:, max(0, -x) : page.shape[1] - x]
            page[top + first : top + end, max(0, x) : max(0, x) + line.shape[1]] = line
        else:
            np.concatenate(strips[start:stop], axis=1, out=page[top + first : top + end, x:x_end])
    leaving = np.flatnonzero(stamps.is_over[slots])
    places = zip(
        slots[leaving].tolist(), rows.tops[np.searchsorted(stops, leaving, "right")].tolist(), left[leaving].tolist(), strict=True
    )
    for slot, top, x in places:
        ink = stamps.over[slot]
        over.append(_Placed(top + ink.top, x + ink.left, ink))


def _draw_full_width(
    rows: _Rows, slots: np.ndarray, stamps: Stamps, words: Vocabulary, page: np.ndarray
) -> tuple[_Rows, np.ndarray]:
    """Draw the lines of full-width characters alone; the other lines, and the slots of their words, are returned."""
    cells, stops = stamps.cells[slots], np.cumsum(rows.counts)
    fits = (cells > 0) & (stamps.widths[slots] == EM * cells)
    fits[stops - 1] = cells[stops - 1] > 0  # blanks at the end of a line are not drawn
    full = np.logical_and.reduceat(fits, stops - rows.counts)
    if not full.any():
        return rows, slots
    of_full = np.repeat(full, rows.counts)
    numbers = stamps.cells_of(slots[of_full])
    ends = np.cumsum(np.add.reduceat(cells, stops - rows.counts)[full])
    lefts = ((words.measures.padding + rows.indents[full]) * stamps.scale + 0.5).astype(np.int64)
    of_rows = list(zip(rows.tops[full].tolist(), lefts.tolist(), ends.tolist(), strict=True))
    begin = 0
    for first in range(0, len(of_rows), _TOGETHER):
        together = of_rows[first : first + _TOGETHER]
        strip, x = stamps.gather(numbers[begin : together[-1][2]]), 0
        for top, left, end in together:
            width = (end - begin) * stamps.cell
            shown = min(width, page.shape[1] - left)
            page[top : top + stamps.height, left : left + shown] = strip[:, x : x + shown]
            begin, x = end, x + width
    return _Rows(rows.tops[~full], rows.indents[~full], rows.counts[~full], rows.numbers[~of_full]), slots[~of_full]


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
