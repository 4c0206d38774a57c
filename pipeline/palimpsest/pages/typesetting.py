"""Text to lines to pages, in font units, so that every mode breaks a page alike.

The state between two lines is a position in the text and nothing else, and a page begins as a document begins. So a page laid out
again from its slice of the document is the same page.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from palimpsest.pages.line_breaks import line_breaks
from palimpsest.pages.unicode_data import code_points
from palimpsest.pages.words import EM, LOOSEST, MONO, SANS, Fonts

LONGEST = 256  # characters of a unit that is not broken; a longer one is broken where the line is full
PILCROW = "¶"
_CHUNK = 1 << 15  # characters that are measured at a time; pages do not depend on it
_WORDS = 1 << 16  # units that are cached
_CLUSTER = re.compile(r"\s|\w[^\w\s]{0,8}|.", re.DOTALL)
_BLANKS = " \t\n"


@dataclass(frozen=True)
class Measures:
    """A page in thousandths of the em: its side, its padding, the height of a line, and how newlines are drawn."""

    page: int
    padding: int
    pitch: int
    flowing: bool  # a newline is a glyph and does not end the line

    @property
    def measure(self) -> int:
        return self.page - 2 * self.padding


class Line(NamedTuple):
    """`units` are the words of the line, each with the blanks after it; `grade` indexes `Vocabulary.grades`."""

    units: list[str]
    indent: int
    grade: int


class TypesetPage(NamedTuple):
    """One page; the span counts characters of the text that was given."""

    char_start: int
    char_end: int
    lines: list[Line]
    escaped: int


class Vocabulary:
    """Every unit of text that was met, measured once: the columns are arrays, indexed by `ids[unit]`."""

    def __init__(self, fonts: Fonts, measures: Measures) -> None:
        self.fonts, self.measures = fonts, measures
        heights = [self._line_height(font) for font in range(len(fonts.names))]
        self.grades = sorted(set(heights))  # (height of a line, baseline from its top)
        self._grade_of_font = [self.grades.index(height) for height in heights]
        self._clear()

    def _line_height(self, font: int) -> tuple[int, int]:
        """A script whose lines are no taller than Latin ones gets Latin ones, others the height that their font asks for."""
        latin, own = (self.fonts.heights(number) for number in (self.fonts.names.index(SANS), font))
        plain = self.fonts.names[font] == MONO or sum(own) <= sum(latin)
        ascent, descent = latin if plain else own
        height = self.measures.pitch if plain else max(self.measures.pitch, min(ascent + descent, LOOSEST))
        return height, (height - ascent - descent) // 2 + ascent

    def _clear(self) -> None:
        self.ids: dict[str, int] = {}
        self._columns = np.zeros((4, 1024), np.int64)

    def look_up(self, units: list[str]) -> np.ndarray:
        """int64 `[4, n]`: the width of the ink, the width with the blanks behind it, the grade, the escaped characters."""
        if len(self.ids) > _WORDS:
            self._clear()
        get = self.ids.get
        found = [get(unit, -1) for unit in units]
        if -1 in found:
            found = [self._add(unit) if number < 0 else number for unit, number in zip(units, found, strict=True)]
        return self._columns[:, found]

    def _add(self, unit: str) -> int:
        number = self.ids.setdefault(unit, len(self.ids))
        if number == self._columns.shape[1]:
            self._columns = np.concatenate([self._columns, np.zeros_like(self._columns)], axis=1)
        text, blanks = self.split(unit)
        word = self.fonts.measure(text)
        self._columns[:, number] = word.width, word.width + blanks, self._grade_of_font[word.font], word.escaped
        return number

    def split(self, unit: str) -> tuple[str, int]:
        """What of a unit is inked, and the width of the blanks behind it."""
        if self.measures.flowing:
            unit = unit.replace("\n", PILCROW + " ")
        text = unit.rstrip(_BLANKS)
        behind = unit[len(text) :]
        return text, self.fonts.space * (behind.count(" ") + 4 * behind.count("\t"))


def typeset(text: str, words: Vocabulary) -> Iterator[TypesetPage]:
    """Lay a normalised text out. An empty text has no pages; the spans of the others cover it without a gap."""
    start, size = 0, _CHUNK
    while start < len(text):
        piece = text[start : start + size]
        last = start + len(piece) == len(text)
        consumed = 0
        for page in _Typesetter(piece, words).pages():
            if not last and page.char_end + 2 * LONGEST > len(piece):
                break  # what follows may belong on this page: begin the next piece with it
            consumed = page.char_end
            yield page._replace(char_start=start + page.char_start, char_end=start + page.char_end)
        start += consumed
        if not consumed:
            size *= 2


class _Place(NamedTuple):
    """A position between two lines: a unit, and how much of it is on earlier lines."""

    unit: int
    offset: int


class _Typesetter:
    """The lines of one text, whose units are measured together. Sums of widths begin at the text; only differences are used."""

    def __init__(self, text: str, words: Vocabulary) -> None:
        self.words, self.measures = words, words.measures
        bounds = np.flatnonzero(line_breaks(code_points(text))).tolist()
        self.units = [text[start:end] for start, end in zip(bounds, bounds[1:], strict=False)]
        self.begins = bounds  # position in the text of the beginning of each unit, and of the end
        ink, full, grades, escaped = words.look_up(self.units)
        ends = np.cumsum(full)
        self.starts, self.ink_ends, self.ends = (ends - full).tolist(), (ends - full + ink).tolist(), ends.tolist()
        self.grades = grades.tolist() if grades.any() else []
        self.escaped = np.concatenate(([0], np.cumsum(escaped)))
        newlines = () if self.measures.flowing else (number for number, unit in enumerate(self.units) if unit[-1] == "\n")
        self.hard = [*newlines, len(self.units)]
        lengths = np.diff(bounds)
        self.long = [*np.flatnonzero(lengths > LONGEST).tolist(), len(self.units)]

    def pages(self) -> Iterator[TypesetPage]:
        room = self.measures.measure + self.measures.pitch - EM  # the last line needs no space below it
        heights = [height for height, _ in self.words.grades]
        place = page_start = _Place(0, 0)
        lines: list[Line] = []
        filled, hang = 0, -1  # a negative hang: the next line begins a paragraph, or a page
        while place.unit < len(self.units):
            first = hang < 0
            if first:
                hang = self._hang(place)
            line, after = self._line(place, 0 if first else hang, hang)
            height = heights[line.grade]
            if lines and filled + height > room:
                yield self._page(page_start, place, lines)
                page_start, lines, filled, hang = place, [], 0, -1
                continue
            lines.append(line)
            filled += height
            if not after.offset and self.units[after.unit - 1][-1] == "\n" and not self.measures.flowing:
                hang = -1
            place = after
        yield self._page(page_start, place, lines)

    def _page(self, start: _Place, end: _Place, lines: list[Line]) -> TypesetPage:
        char_start, char_end = (self.begins[place.unit] + place.offset for place in (start, end))
        if start.offset or end.offset:
            escaped = int(self.words.look_up([unit for line in lines for unit in line.units])[3].sum())
        else:
            escaped = int(self.escaped[end.unit] - self.escaped[start.unit])
        return TypesetPage(char_start, char_end, lines, escaped)

    def _hang(self, place: _Place) -> int:
        """How far the later lines of a paragraph are indented: in a monospaced font two spaces more than its first one."""
        if not self.words.fonts.mono:
            return 0
        unit = self.units[place.unit][place.offset :]
        indentation = 0 if unit.strip(_BLANKS) else self.ends[place.unit] - self.starts[place.unit]
        return min(indentation + 2 * self.words.fonts.space, self.measures.measure // 2)

    def _line(self, place: _Place, indent: int, hang: int) -> tuple[Line, _Place]:
        """The line that begins at `place`, and where the next one begins.

        Args:
            indent: of this line; `hang` is that of the next one. A unit that is too long even for that is broken where this line
                is full, so that a page that ends within it does not show how it goes on.
        """
        number, limit = place.unit, self.measures.measure - indent
        first: list[str] = []
        used = 0
        if place.offset:
            first = [self.units[number][place.offset :]]
            if self._is_too_long(number, place.offset, limit):
                return self._broken([], 0, place, indent, 0)
            columns = self.words.look_up(first)
            number, used = number + 1, int(columns[1, 0])
        base = self.starts[number] - used if number < len(self.units) else 0
        ended = bool(first) and first[0][-1] == "\n" and not self.measures.flowing
        stop = number
        if not ended:
            stop = bisect_right(self.ink_ends, base + limit, number)
            stop = min(stop, self.hard[bisect_left(self.hard, number)] + 1, self.long[bisect_left(self.long, number)])
            ended = stop == len(self.units) or (stop > number and self.units[stop - 1][-1] == "\n" and not self.measures.flowing)
        units = first + self.units[number:stop]
        grade = max(self.grades[number:stop], default=0) if self.grades else 0
        if first:
            grade = max(grade, int(columns[2, 0]))
        if not ended and (not units or self._is_too_long(stop, 0, self.measures.measure - hang)):
            return self._broken(units, self.starts[stop] - base, _Place(stop, 0), indent, grade)
        return Line(units, indent, grade), _Place(stop, 0)

    def _is_too_long(self, number: int, offset: int, limit: int) -> bool:
        unit = self.units[number]
        if len(unit) - offset > LONGEST:
            return True
        if offset:
            return int(self.words.look_up([unit[offset:]])[0, 0]) > limit
        return self.ink_ends[number] - self.starts[number] > limit

    def _broken(self, units: list[str], used: int, place: _Place, indent: int, grade: int) -> tuple[Line, _Place]:
        """A line of `units`, `used` wide, and as much of the unit at `place` as it takes; one cluster if it is empty."""
        unit, room = self.units[place.unit][place.offset :], self.measures.measure - indent - used
        clusters = _CLUSTER.findall(unit[:LONGEST])
        widths = np.cumsum(self.words.look_up(clusters)[1])
        count = max(int(np.searchsorted(widths, room, "right")), 0 if units else 1)
        while count > 1 and int(self.words.look_up(["".join(clusters[:count])])[0, 0]) > room:
            count -= 1
        part = "".join(clusters[:count])
        if not part or (units and int(self.words.look_up([part])[0, 0]) > room):
            return Line(units, indent, grade), place
        grade = max(grade, int(self.words.look_up([part])[2, 0]))
        rest = _Place(place.unit, place.offset + len(part)) if len(part) < len(unit) else _Place(place.unit + 1, 0)
        return Line([*units, part], indent, grade), rest
