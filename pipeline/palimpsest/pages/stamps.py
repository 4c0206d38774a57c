"""Words as pixels, rasterised once per size: strips that lines are made of, and cells of full-width characters.

A strip is as high as the ink of all words, and as wide as its word with the blanks behind it. A word whose ink leaves its strip
(a tall accent, an overhanging j) has a blank strip, and its ink is kept apart: nothing is cut.
"""

from __future__ import annotations

from math import ceil

import numpy as np

from palimpsest.pages.typesetting import Vocabulary
from palimpsest.pages.words import EM, Ink, Word

PAPER = 255
_DESCENDER = 245  # thousandths of the em, of Noto Sans
_STAMPS = 1 << 15  # words whose pixels are cached per size


class Stamps:
    """The words of one size, line grade, direction and language.

    Attributes:
        strips: object `[2 * n]`, two for each word, uint8 `[rows, width]`: at its width rounded down, and a column wider.
        first_row, end_row: the rows of a line that strips have: those in which any of these words has ink.
        widths: int64 `[n]`, thousandths of the em; `pixels`: int64 `[n]`, the width rounded down.
        over: the ink of words that do not fit their strip, by number; its top is counted from the line's top.
        is_over: bool `[n]`, whether a word is in `over`.
        cells: of words of full-width characters alone how many characters they have, int64 `[n]`, else 0.
        cell: the side of a full-width character in whole pixels.
    """

    def __init__(self, words: Vocabulary, px: int, grade: int, rtl: bool | None, language: str) -> None:
        self._words, self._rtl, self._language = words, rtl, language
        height, baseline = words.grades[grade]
        self.scale = px / words.measures.page
        self.height, self.cell = int(height * self.scale), int(EM * self.scale)
        # Rounding must not push the descenders of a whole script out of their strips.
        self._baseline = min(round(baseline * self.scale), self.height - ceil(_DESCENDER * self.scale))
        self._clear()

    def _clear(self) -> None:
        self._generation = self._words.generation
        self._slots = np.full(1024, -1, np.int64)  # by the word's number in the vocabulary
        self.strips = np.empty(2048, object)
        self._whole: list[np.ndarray] = []  # of the full height, a column wider
        self.first_row, self.end_row = self.height, 0
        self.over: dict[int, Ink] = {}
        self.widths, self.pixels, self.is_over = np.zeros(1024, np.int64), np.zeros(1024, np.int64), np.zeros(1024, bool)
        self.cells, self._first_cell = np.zeros(1024, np.int64), np.zeros(1024, np.int64)
        self._cell_of: dict[str, int] = {}
        self._used_cells = 0
        self._scratch = np.empty(0, np.uint8)
        self._bank = np.full((self.height, 256, max(self.cell, 1)), PAPER, np.uint8)

    def slots(self, numbers: np.ndarray) -> np.ndarray:
        """The words of a vocabulary, int64 `[n]`, as indices of the columns of these stamps."""
        if len(self._whole) > _STAMPS or self._generation != self._words.generation:
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
        slot = len(self._whole)
        if slot == len(self.widths):
            columns = (self.widths, self.pixels, self.is_over, self.cells, self._first_cell)
            self.widths, self.pixels, self.is_over, self.cells, self._first_cell = (
                np.concatenate([old, np.zeros_like(old)]) for old in columns
            )
            self.strips = np.concatenate([self.strips, np.empty_like(self.strips)])
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
            self._widen(ink.top, ink.top + ink_height)
        else:
            self.over[slot], self.is_over[slot] = ink._replace(left=left), True
        self._whole.append(strip)
        self._cut(slot)
        self.widths[slot], self.pixels[slot] = width, pixels
        if text and word.width == EM * len(text) and not self._rtl:
            self._add_cells(slot, text)
        return slot

    def _widen(self, first: int, end: int) -> None:
        """Let strips have the rows from `first` to `end`, too."""
        if first == end or (self.first_row <= first and end <= self.end_row):
            return
        self.first_row, self.end_row = min(self.first_row, first), max(self.end_row, end)
        for slot in range(len(self._whole)):
            self._cut(slot)

    def _cut(self, slot: int) -> None:
        strip = self._whole[slot][self.first_row : self.end_row]
        self.strips[2 * slot], self.strips[2 * slot + 1] = strip[:, :-1], strip

    def _add_cells(self, slot: int, text: str) -> None:
        """The cells of a word, if all its characters are full-width and fit into theirs; they are consecutive in the bank."""
        fonts = self._words.fonts
        if text in self._cell_of:
            self._first_cell[slot], self.cells[slot] = self._cell_of[text], len(text)
            return
        drawn = []
        for char in text:
            word = fonts.measure(char)
            ink = self.ink(word)
            height, width = ink.coverage.shape
            fits = ink.left >= 0 and ink.top >= 0 and ink.top + height <= self.height and ink.left + width <= self.cell
            if word.width != EM or word.escaped or not fits:
                return
            drawn.append(ink)
        first = self._used_cells
        while first + len(drawn) > self._bank.shape[1]:
            self._bank = np.concatenate([self._bank, np.full_like(self._bank, PAPER)], axis=1)
        for at, ink in enumerate(drawn, first):
            height, width = ink.coverage.shape
            self._bank[ink.top : ink.top + height, at, ink.left : ink.left + width] -= ink.coverage
        self._used_cells += len(drawn)
        self._cell_of[text] = self._first_cell[slot] = first
        self.cells[slot] = len(drawn)

    def cells_of(self, slots: np.ndarray) -> np.ndarray:
        """The numbers of the cells of words, int64 `[n]`."""
        counts = self.cells[slots]
        ends = np.cumsum(counts)
        return np.repeat(self._first_cell[slots] - ends + counts, counts) + np.arange(ends[-1])

    def gather(self, cells: np.ndarray) -> np.ndarray:
        """Cells side by side, uint8 `[height, cells * cell]`, until the next call."""
        item = np.dtype((np.void, self.cell))
        size = self.height * len(cells) * self.cell
        if len(self._scratch) < size:
            self._scratch = np.empty(size, np.uint8)
        into = self._scratch[:size].view(item).reshape(self.height, len(cells))
        self._bank.view(item)[:, :, 0].take(cells, axis=1, out=into, mode="clip")
        return into.view(np.uint8)

    def ink(self, word: Word) -> Ink:
        """The ink of a word; its top is counted from the line's top."""
        ink = self._words.fonts.ink(word, self.scale * EM, self._language)
        return ink._replace(top=ink.top + self._baseline)
