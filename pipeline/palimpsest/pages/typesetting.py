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
from palimpsest.pages.unicode_data import PLANES, code_points
from palimpsest.pages.words import EM, LOOSEST, MONO, SANS, Fonts

LONGEST = 256  # characters of a unit that is not broken; a longer one is broken where the line is full
PILCROW = "¶"
_CHUNK = 1 << 15  # characters that are measured at a time; pages do not depend on it
_WORDS = 1 << 16  # units that are cached
_PAGES = 256  # pages whose numbers are remembered from typesetting to drawing
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


class TypesetPage(NamedTuple):
    """One page; the span counts characters of the text that was given.

    Attributes:
        lines: int64 `[n, 3]`, of each line its number of units, its indentation, and its grade, an index of `Vocabulary.grades`.
        lengths: int64 `[m]`, characters of each unit: a word with the blanks behind it.
        escaped: characters without a glyph.
    """

    char_start: int
    char_end: int
    lines: np.ndarray
    lengths: np.ndarray
    escaped: int


class Vocabulary:
    """Every unit of text that was met, numbered and measured once.

    Attributes:
        units: by number. `generation` changes when all numbers become invalid.
    """

    def __init__(self, fonts: Fonts, measures: Measures) -> None:
        self.fonts, self.measures = fonts, measures
        heights = [self._line_height(font) for font in range(len(fonts.names))]
        self.grades = sorted(set(heights))  # (height of a line, baseline from its top)
        self._grade_of_font = [self.grades.index(height) for height in heights]
        self.generation = 0
        self._clear()

    def _line_height(self, font: int) -> tuple[int, int]:
        """A script whose lines are no taller than Latin ones gets Latin ones, others the height that their font asks for."""
        latin, own = (self.fonts.heights(number) for number in (self.fonts.names.index(SANS), font))
        plain = self.fonts.names[font] == MONO or sum(own) <= sum(latin)
        ascent, descent = latin if plain else own
        height = self.measures.pitch if plain else max(self.measures.pitch, min(ascent + descent, LOOSEST))
        return height, (height - ascent - descent) // 2 + ascent

    def _clear(self) -> None:
        self._numbers: dict[str, int] = {}
        self._of_char = np.full((PLANES << 16) + 1, -1, np.int32)  # the last one stays -1: other planes
        self._columns = np.zeros((4, 1024), np.int64)
        self._of_page: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.units: list[str] = []
        self.generation += 1

    def numbers_in(self, text: str, codes: np.ndarray, bounds: np.ndarray) -> np.ndarray:
        """The numbers of the units of a text, int64 `[n]`.

        Args:
            codes: the code points of `text`.
            bounds: int64 `[n + 1]`, where each unit begins, and where the last one ends.
        """
        if len(self.units) > _WORDS:
            self._clear()
        numbers = self._of_char.take(codes[bounds[:-1]], mode="clip").astype(np.int64)
        longer = np.flatnonzero(np.diff(bounds) != 1)
        get = self._numbers.get
        begins, ends = bounds[longer].tolist(), bounds[longer + 1].tolist()
        numbers[longer] = [get(text[begin:end], -1) for begin, end in zip(begins, ends, strict=True)]
        for new in np.flatnonzero(numbers < 0).tolist():
            numbers[new] = self.number(text[bounds[new] : bounds[new + 1]])
        return numbers

    def remember(self, text: str, lengths: np.ndarray, numbers: np.ndarray) -> None:
        """Keep the numbers of a page's units for `recall`: most pages are drawn soon after they were typeset."""
        while len(self._of_page) >= _PAGES:
            del self._of_page[next(iter(self._of_page))]
        self._of_page[text] = lengths, numbers

    def recall(self, text: str, bounds: np.ndarray) -> np.ndarray | None:
        """A copy of the numbers of a page's units, as `numbers_in` gives them; None where they are not remembered."""
        lengths, numbers = self._of_page.get(text, (None, None))
        if lengths is None or numbers is None or not np.array_equal(lengths, np.diff(bounds)):
            return None
        return numbers.copy()

    def number(self, unit: str) -> int:
        """The number of a unit."""
        if unit in self._numbers:
            return self._numbers[unit]
        number = self._numbers[unit] = len(self.units)
        self.units.append(unit)
        if len(unit) == 1 and ord(unit) < PLANES << 16:
            self._of_char[ord(unit)] = number
        if number == self._columns.shape[1]:
            self._columns = np.concatenate([self._columns, np.zeros_like(self._columns)], axis=1)
        text, blanks = self.split(unit)
        word = self.fonts.measure(text)
        self._columns[:, number] = word.width, word.width + blanks, self._grade_of_font[word.font], word.escaped
        return number

    def measured(self, numbers: np.ndarray) -> np.ndarray:
        """int64 `[4, n]`: the width of the ink, the width with the blanks behind it, the grade, the escaped characters."""
        return self._columns.take(numbers, axis=1)

    def measure(self, units: list[str]) -> np.ndarray:
        """The same of units that are no part of a numbered text."""
        return self.measured(np.array([self.number(unit) for unit in units], np.int64))

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


class _Line(NamedTuple):
    """A line ends where the next one begins; `grade` indexes `Vocabulary.grades`."""

    after: _Place
    indent: int
    grade: int


class _Typesetter:
    """The lines of one text, whose units are measured together. Sums of widths begin at the text; only differences are used."""

    def __init__(self, text: str, words: Vocabulary) -> None:
        self.text, self.words, self.measures = text, words, words.measures
        codes = code_points(text)
        self._bounds = np.flatnonzero(line_breaks(codes))
        self.begins = self._bounds.tolist()  # position in the text of the beginning of each unit, and of the end
        self.count = len(self.begins) - 1
        self._numbers = words.numbers_in(text, codes, self._bounds)
        ink, full, grades, escaped = words.measured(self._numbers)
        ends = np.cumsum(full)
        self.starts, self.ink_ends = [*(ends - full).tolist(), int(ends[-1])], (ends - full + ink).tolist()
        self.grade = int(grades.max(initial=0))
        self.grades = grades.tolist() if (grades != self.grade).any() else []  # empty: all are of `grade`
        self.escaped = np.concatenate(([0], np.cumsum(escaped)))
        # The units after which a line ends, and those that are too long for any line.
        newlines = [] if self.measures.flowing else np.flatnonzero(codes[self._bounds[1:] - 1] == ord("\n")).tolist()
        self.hard = [*newlines, self.count]
        self._lengths = np.diff(self._bounds)
        long = self._lengths > LONGEST
        self.long = [*np.flatnonzero(long).tolist(), self.count]
        self.wide = set(np.flatnonzero(long | (ink > self.measures.measure // 2)).tolist())  # maybe too long for some line

    def pages(self) -> Iterator[TypesetPage]:
        room = self.measures.measure + self.measures.pitch - EM  # the last line needs no space below it
        heights = [height for height, _ in self.words.grades]
        place = page_start = _Place(0, 0)
        lines: list[_Line] = []
        filled, hang = 0, -1  # a negative hang: the next line begins a paragraph, or a page
        while place.unit < self.count:
            first = hang < 0
            if first:
                hang = self._hang(place)
            line = self._line(place, 0 if first else hang, hang)
            height = heights[line.grade]
            if lines and filled + height > room:
                yield self._page(page_start, lines)
                page_start, lines, filled, hang = place, [], 0, -1
                continue
            lines.append(line)
            filled += height
            place = line.after
            if not place.offset and self._ends_line(place.unit):
                hang = -1
        yield self._page(page_start, lines)

    def _page(self, start: _Place, lines: list[_Line]) -> TypesetPage:
        end = lines[-1].after
        char_start, char_end = self._position(start), self._position(end)
        if not start.offset and not any(line.after.offset for line in lines):
            counts = np.diff([line.after.unit for line in lines], prepend=start.unit)
            lengths = self._lengths[start.unit : end.unit]
            escaped = int(self.escaped[end.unit] - self.escaped[start.unit])
            self.words.remember(self.text[char_start:char_end], lengths, self._numbers[start.unit : end.unit].copy())
            table = np.array([(count, line.indent, line.grade) for count, line in zip(counts.tolist(), lines, strict=True)])
            return TypesetPage(char_start, char_end, table, lengths, escaped)
        cuts = self._bounds[start.unit + 1 : end.unit + 1]
        stops = np.array([self._position(line.after) for line in lines])
        cuts = np.union1d(cuts, stops)
        lengths = np.diff(cuts, prepend=char_start)
        counts = np.diff(np.searchsorted(cuts, stops, "right"), prepend=0)
        units = [self.text[cut - length : cut] for cut, length in zip(cuts.tolist(), lengths.tolist(), strict=True)]
        escaped = int(self.words.measure(units)[3].sum())
        table = np.stack([counts, [line.indent for line in lines], [line.grade for line in lines]], axis=1)
        return TypesetPage(char_start, char_end, table, lengths, escaped)

    def _position(self, place: _Place) -> int:
        return self.begins[place.unit] + place.offset

    def _rest(self, place: _Place) -> str:
        """The unit at `place`, without what is on earlier lines."""
        return self.text[self._position(place) : self.begins[place.unit + 1]]

    def _ends_line(self, stop: int) -> bool:
        """Whether the line ends before unit `stop` for the newline behind the one before."""
        return self.text[self.begins[stop] - 1] == "\n" and not self.measures.flowing

    def _hang(self, place: _Place) -> int:
        """How far the later lines of a paragraph are indented: in a monospaced font two spaces more than its first one."""
        if not self.words.fonts.mono:
            return 0
        blank = not self._rest(place).strip(_BLANKS)
        indentation = self.starts[place.unit + 1] - self.starts[place.unit] if blank else 0
        return min(indentation + 2 * self.words.fonts.space, self.measures.measure // 2)

    def _line(self, place: _Place, indent: int, hang: int) -> _Line:
        """The line that begins at `place`.

        Args:
            indent: of this line; `hang` is that of the next one. A unit that is too long even for that is broken where this line
                is full, so that a page that ends within it does not show how it continues.
        """
        number, limit = place.unit, self.measures.measure - indent
        if not place.offset and not self.wide:  # most texts
            stop = bisect_right(self.ink_ends, self.starts[number] + limit, number)
            stop = min(stop, self.hard[bisect_left(self.hard, number)] + 1)
            return _Line(_Place(stop, 0), indent, max(self.grades[number:stop]) if self.grades else self.grade)
        used = grade = 0
        ended = False
        if place.offset:
            if self._is_too_long(place, limit):
                return self._broken(place, place, 0, indent, 0)
            _, used, grade, _ = self.words.measure([self._rest(place)])[:, 0].tolist()
            number += 1
            ended = self._ends_line(number)
        base = self.starts[number] - used
        stop = number
        if not ended:
            stop = bisect_right(self.ink_ends, base + limit, number)
            stop = min(stop, self.hard[bisect_left(self.hard, number)] + 1, self.long[bisect_left(self.long, number)])
            ended = stop == self.count or (stop > number and self._ends_line(stop))
        if stop > number:
            grade = max(grade, max(self.grades[number:stop]) if self.grades else self.grade)
        after = _Place(stop, 0)
        if not ended and (after == place or self._is_too_long(after, self.measures.measure - hang)):
            return self._broken(place, after, self.starts[stop] - base, indent, grade)
        return _Line(after, indent, grade)

    def _is_too_long(self, place: _Place, limit: int) -> bool:
        if self.begins[place.unit + 1] - self._position(place) > LONGEST:
            return True
        if place.offset:
            return int(self.words.measure([self._rest(place)])[0, 0]) > limit
        return self.ink_ends[place.unit] - self.starts[place.unit] > limit

    def _broken(self, start: _Place, place: _Place, used: int, indent: int, grade: int) -> _Line:
        """A line from `start` that is `used` wide before `place`, and takes as much of the unit there as it can; at least one
        cluster if it is empty."""
        unit, room = self._rest(place), self.measures.measure - indent - used
        clusters = _CLUSTER.findall(unit[:LONGEST])
        widths = np.cumsum(self.words.measure(clusters)[1])
        empty = start == place
        count = max(int(np.searchsorted(widths, room, "right")), 1 if empty else 0)
        while count > 1 and int(self.words.measure(["".join(clusters[:count])])[0, 0]) > room:
            count -= 1
        part = "".join(clusters[:count])
        if not part or (not empty and int(self.words.measure([part])[0, 0]) > room):
            return _Line(place, indent, grade)
        grade = max(grade, int(self.words.measure([part])[2, 0]))
        whole = len(part) == len(unit)
        return _Line(_Place(place.unit + 1, 0) if whole else _Place(place.unit, place.offset + len(part)), indent, grade)
