"""Words of scripts that need shaping: which font has them, how wide they are, and their ink.

HarfBuzz shapes and rasterises whole words, and the results are remembered, because text repeats its words. Arabic joins and Indic
conjuncts end at a space, so a word is shaped as in its line. No system library is involved: one wheel, the same pixels
everywhere.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from palimpsest.pages.fonts import font_bytes, unifont_bitmap

if TYPE_CHECKING:
    import uharfbuzz

EM = 1000  # units of all widths and positions
MONO, BITMAPS, ESCAPE = "DejaVuSansMono.ttf", "unifont.xz", "escape"
SCRIPT_FONTS = (
    "NotoNaskhArabic-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansHebrew-Regular.ttf",
    "NotoSansThai-Regular.ttf",
    "NotoSansBengali-Regular.ttf",
    "NotoSansTamil-Regular.ttf",
    "NotoSansTelugu-Regular.ttf",
    "NotoSansGurmukhi-Regular.ttf",
)
# Beside Noto, DejaVu and Unifont look large at the same size.
_SCALE = {MONO: 0.8, BITMAPS: 0.8}
_JOINERS = "\u200c\u200d"


class Run(NamedTuple):
    """Characters of one font; `font` is ESCAPE for a character that no font covers, and `text` then its escape."""

    font: str
    text: str


class Ink(NamedTuple):
    """A rasterised word: coverage uint8 `[h, w]`, 255 is ink; `left` and `top` count pixels from the pen on the baseline."""

    coverage: np.ndarray
    left: int
    top: int


@cache
def _face(font: str) -> tuple[uharfbuzz.Font, frozenset[int]]:
    import uharfbuzz

    face = uharfbuzz.Face(font_bytes(font))
    sized = uharfbuzz.Font(face)
    scale = round(EM * _SCALE.get(font, 1.0))
    sized.scale = (scale, scale)
    return sized, frozenset(face.unicodes)


@lru_cache(maxsize=1 << 16)
def font_of(char: str) -> str:
    """The first font of the chain that has `char`; ESCAPE when none has."""
    code = ord(char)
    if code > 0x7F:
        for font in SCRIPT_FONTS:
            if code in _face(font)[1]:
                return font
    if code in _face(MONO)[1]:
        return MONO
    return BITMAPS if code <= 0xFFFF and unifont_bitmap(code) is not None else ESCAPE


def split_by_font(word: str) -> list[Run]:
    """Split a word where its font changes; punctuation and digits stay with the script's font where that has them."""
    fonts = [font_of(char) for char in word]
    current = next((font for font in fonts if font in SCRIPT_FONTS), MONO)
    runs: list[Run] = []
    for char, font in zip(word, fonts, strict=True):
        if font in SCRIPT_FONTS and font != current and ord(char) not in _face(current)[1]:
            current = font
        covered = char in _JOINERS or ord(char) in _face(current)[1]
        chosen = current if covered else font
        if chosen == ESCAPE:
            runs.append(Run(ESCAPE, f"⟨{ord(char):x}⟩"))
        elif runs and runs[-1].font == chosen:
            runs[-1] = Run(chosen, runs[-1].text + char)
        else:
            runs.append(Run(chosen, char))
    return runs


@lru_cache(maxsize=1 << 14)
def _shape(font: str, text: str, rtl: bool) -> list[tuple[int, int, int, int]]:
    """Glyphs from left to right: id, x offset, y offset and advance in units of the em."""
    import uharfbuzz

    buffer = uharfbuzz.Buffer()
    buffer.add_str(text)
    buffer.guess_segment_properties()
    buffer.direction, buffer.language = "rtl" if rtl else "ltr", "und"  # the guess takes the language from the process's locale
    uharfbuzz.shape(_face(font)[0], buffer)
    return [
        (info.codepoint, position.x_offset, position.y_offset, position.x_advance)
        for info, position in zip(buffer.glyph_infos, buffer.glyph_positions, strict=True)
    ]


def advance(font: str, text: str, rtl: bool) -> int:
    """Width of a run, in thousandths of the em."""
    if font == BITMAPS:
        return sum(_bitmap_advance(char) for char in text)
    return sum(glyph[3] for glyph in _shape(MONO if font == ESCAPE else font, text, rtl))


def ink(font: str, text: str, rtl: bool, em_px: float) -> Ink:
    """Rasterise a run at `em_px` pixels per em."""
    import uharfbuzz

    if font == BITMAPS:
        return _bitmap_ink(text, em_px)
    if font == ESCAPE:
        font = MONO
    raster, scale, pen = uharfbuzz.RasterDraw(), em_px / EM, 0
    for glyph, x, y, width in _shape(font, text, rtl):
        raster.transform = (scale, 0, 0, scale, (pen + x) * scale, y * scale)
        raster.draw_glyph(_face(font)[0], glyph)
        pen += width
    image = raster.render()
    extents = image.extents
    if not extents.width or not extents.height:
        return Ink(np.zeros((0, 0), np.uint8), 0, 0)
    rows = np.frombuffer(image.buffer, np.uint8).reshape(extents.height, extents.stride)
    return Ink(np.ascontiguousarray(rows[::-1, : extents.width]), extents.x_origin, -(extents.y_origin + extents.height))


def _bitmap_advance(char: str) -> int:
    bitmap = unifont_bitmap(ord(char))
    assert bitmap is not None, char
    return round(EM * _SCALE[BITMAPS] * (1.0 if bitmap[:, 8:].any() else 0.5))


def _bitmap_ink(text: str, em_px: float) -> Ink:
    from PIL import Image

    bitmaps = [unifont_bitmap(ord(char)) for char in text]
    strip = np.concatenate([b if b[:, 8:].any() else b[:, :8] for b in bitmaps if b is not None], axis=1)
    height = max(1, round(em_px * _SCALE[BITMAPS]))
    width = max(1, round(height * strip.shape[1] / 16))
    coverage = np.asarray(Image.fromarray(strip * np.uint8(255)).resize((width, height), Image.Resampling.BOX))
    return Ink(coverage, 0, -round(height * 14 / 16))  # Unifont's baseline lies two pixels above the bottom
