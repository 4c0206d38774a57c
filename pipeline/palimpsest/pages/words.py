"""Words of any script: which fonts draw them, how wide they are, and their ink.

HarfBuzz shapes and rasterises whole words, and the results are cached, because text repeats its words. Arabic joins and Indic
conjuncts end at a space, so a word is shaped as in its line. No system library is involved: one wheel, the same pixels
everywhere.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from palimpsest.pages.bidi import is_strong_rtl
from palimpsest.pages.fonts import CJK_FACES, FONTS, CjkFont, font_bytes
from palimpsest.pages.unicode_data import MARK, code_points, kinds, look_up

if TYPE_CHECKING:
    import uharfbuzz

WORDS_VERSION = "w1"
EM = 1000  # units of all widths and positions
SANS, MONO, CJK_FONT = "NotoSans-Regular.ttf", "DejaVuSansMono.ttf", "cjk"
SCRIPT_FONTS = tuple(name for name in sorted(FONTS) if name.startswith("Noto") and name != SANS)
LEAST_WIDTH = 60  # of a character: bounds how many marks without a width a line takes
LOOSEST = 2000  # the largest line height that a font gets
_JOINERS = "\u200c\u200d"
_IGNORABLE = re.compile(  # HarfBuzz draws nothing for them, whatever the font has
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2060-\u206f\u3164\uffa0\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_ESCAPE = -1
_TAB_SPACES = 4


class Run(NamedTuple):
    """Characters of one font and direction; `font` is an index of `Fonts.names`."""

    font: int
    text: str
    rtl: bool


class Word(NamedTuple):
    """A measured word: `width` in thousandths of the em; `font` is the one with the tallest lines; `escaped` characters have no
    glyph and are drawn as ⟨code point⟩."""

    runs: tuple[Run, ...]
    width: int
    font: int
    escaped: int


class Ink(NamedTuple):
    """A rasterised word: coverage uint8 `[h, w]`, 255 is ink; `left` and `top` count pixels from the pen on the baseline."""

    coverage: np.ndarray
    left: int
    top: int


class Fonts:
    """The fonts of a style, in the order in which a character looks for its glyph: own, CJK, other scripts, the other style's.

    Args:
        mono: the style's own font is monospaced.
        cjk: the font for ideographs, kana and Hangul; None: they have no glyph.
    """

    def __init__(self, mono: bool, cjk: CjkFont | None) -> None:
        first, last = (MONO, SANS) if mono else (SANS, MONO)
        middle = (*([CJK_FONT] if cjk else []), *SCRIPT_FONTS)
        self.names = (first, *middle, last)
        self.mono, self._cjk = mono, cjk
        self._sized: dict[tuple[int, str], uharfbuzz.Font] = {}
        self._covered: dict[int, frozenset[int]] = {}
        self._font_of: dict[str, int] = {}
        self._shapes: dict[tuple[Run, str], list[tuple[int, int, int, int]]] = {}
        own = self.sized(0)
        self._plain = frozenset(chr(code) for code in range(0x20, 0x250) if self._has_ink(0, code) or code == 0x20)
        self.space = own.get_glyph_h_advance(own.get_nominal_glyph(32))

    def sized(self, font: int, language: str = "zh") -> uharfbuzz.Font:
        """A font whose units are EM to the em; `language` chooses the face of the CJK collection."""
        name = self.names[font]
        key = (font, language if name == CJK_FONT else "")
        if key not in self._sized:
            self._sized[key] = _sized(name, self._cjk, CJK_FACES.get(key[1], 0))
        return self._sized[key]

    def heights(self, font: int) -> tuple[int, int]:
        """Ascender and descender (both positive) of a font's lines."""
        extents = self.sized(font).get_font_extents("ltr")
        return extents.ascender, -extents.descender

    def _has_ink(self, font: int, code: int) -> bool:
        if code not in self._cmap(font) or _IGNORABLE.match(chr(code)):
            return False
        sized = self.sized(font)
        glyph = sized.get_nominal_glyph(code)
        extents = sized.get_glyph_extents(glyph) if glyph else None
        return bool(extents and extents.width and extents.height)

    def _cmap(self, font: int) -> frozenset[int]:
        if font not in self._covered:
            self._covered[font] = frozenset(self.sized(font).face.unicodes)
        return self._covered[font]

    def font_of(self, char: str) -> int:
        """The first font that has ink for `char`; -1 where none has."""
        if char not in self._font_of:
            if len(self._font_of) > 1 << 17:
                self._font_of.clear()
            code = ord(char)
            fonts = (font for font in range(len(self.names)) if self._has_ink(font, code))
            self._font_of[char] = next(fonts, _ESCAPE)
        return self._font_of[char]

    def runs(self, word: str, rtl: bool | None) -> tuple[tuple[Run, ...], int]:
        """A word (without spaces at its end) where its font changes, and its characters without a glyph.

        A mark and a joiner stay with the font before them where that has them.
        """
        if self._plain.issuperset(word):
            return ((Run(0, word, bool(rtl)),) if word else ()), 0
        turned = is_strong_rtl(word) if rtl is None else rtl
        marks = look_up(kinds(), code_points(word)) == MARK
        pieces: list[tuple[int, str]] = []
        escaped, current = 0, 0
        for char, mark in zip(word, marks.tolist(), strict=True):
            if char in " \t":
                pieces.append((0, char if char == " " else _TAB_SPACES * " "))
                continue
            follows = char in _JOINERS or (mark and ord(char) in self._cmap(current))
            font = current if follows and pieces else self.font_of(char)
            if font == _ESCAPE and char not in _JOINERS:
                escaped += 1
                pieces.append((self.names.index(MONO), f"⟨{ord(char):x}⟩"))
                continue
            current = max(font, 0)
            pieces.append((current, char))
        merged: list[tuple[int, str]] = []
        for font, text in pieces:
            if merged and merged[-1][0] == font and not text.startswith("⟨"):
                merged[-1] = (font, merged[-1][1] + text)
            else:
                merged.append((font, text))
        return tuple(Run(font, text, turned and not text.startswith("⟨")) for font, text in merged), escaped

    def measure(self, word: str, rtl: bool | None = None) -> Word:
        """Measure a word without spaces at its end.

        Args:
            rtl: its direction; None: right to left where it has such a letter.
        """
        runs, escaped = self.runs(word, rtl)
        width = sum(max(self.advance(run), LEAST_WIDTH * len(run.text)) for run in runs)
        tallest = max((run.font for run in runs), key=lambda font: sum(self.heights(font)), default=0)
        return Word(runs, width, tallest, escaped)

    def advance(self, run: Run) -> int:
        """Width of a run, in thousandths of the em."""
        return sum(glyph[3] for glyph in self._shape(run))

    def _shape(self, run: Run, language: str = "zh") -> list[tuple[int, int, int, int]]:
        """Glyphs from left to right: id, x offset, y offset and advance in units of the em."""
        import uharfbuzz

        key = (run, language if self.names[run.font] == CJK_FONT else "")
        if key not in self._shapes:
            if len(self._shapes) > 1 << 15:
                self._shapes.clear()
            buffer = uharfbuzz.Buffer()
            buffer.add_str(run.text)
            buffer.guess_segment_properties()
            buffer.direction, buffer.language = "rtl" if run.rtl else "ltr", "und"  # the guess takes the process's locale
            uharfbuzz.shape(self.sized(run.font, language), buffer)
            self._shapes[key] = [
                (info.codepoint, position.x_offset, position.y_offset, position.x_advance)
                for info, position in zip(buffer.glyph_infos, buffer.glyph_positions, strict=True)
            ]
        return self._shapes[key]

    def ink(self, word: Word, em_px: float, language: str) -> Ink:
        """Rasterise a word at `em_px` pixels per em, with the CJK face of `language`."""
        import uharfbuzz

        raster, scale, pen = uharfbuzz.RasterDraw(), em_px / EM, 0
        for run in word.runs[::-1] if any(run.rtl for run in word.runs) else word.runs:
            start = pen
            font = self.sized(run.font, language)
            for glyph, x, y, width in self._shape(run, language):
                raster.transform = (scale, 0, 0, scale, (pen + x) * scale, y * scale)
                raster.draw_glyph(font, glyph)
                pen += width
            pen = max(pen, start + LEAST_WIDTH * len(run.text))
        image = raster.render()
        extents = image.extents
        if not extents.width or not extents.height:
            return Ink(np.zeros((0, 0), np.uint8), 0, 0)
        rows = np.frombuffer(image.buffer, np.uint8).reshape(extents.height, extents.stride)
        return Ink(np.ascontiguousarray(rows[::-1, : extents.width]), extents.x_origin, -(extents.y_origin + extents.height))


@cache
def _sized(name: str, cjk: CjkFont | None, face: int) -> uharfbuzz.Font:
    import uharfbuzz

    data = cjk.data() if name == CJK_FONT and cjk else font_bytes(name)
    sized = uharfbuzz.Font(uharfbuzz.Face(data, face if data[:4] == b"ttcf" else 0))
    sized.scale = (EM, EM)
    return sized


@cache
def fonts_of(mono: bool, cjk: CjkFont | None) -> Fonts:
    """The fonts of a style, loaded once per process."""
    return Fonts(mono, cjk)
