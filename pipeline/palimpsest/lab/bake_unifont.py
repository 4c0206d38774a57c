"""Bake what the grid path ships: the table of cell widths and the bitmaps of the fallback font.

    python -m palimpsest.lab.bake_unifont UNIFONT.otf

Needs fonttools. The results are committed; `fonts.py` checks their hashes. Unifont (OFL-1.1) covers what DejaVu Sans Mono
lacks: its glyphs are 8x16 or 16x16 bitmaps, packed to one bit a pixel.
"""

from __future__ import annotations

import lzma
import re
import sys
import unicodedata
import zlib
from pathlib import Path

import numpy as np

from palimpsest.pages import fonts
from palimpsest.pages.characters import ESCAPE, NARROW, WIDE

FONTS = Path(fonts.__file__).parent / "fonts"
# Scripts that need shaping or bidi, and have no cells: Hebrew .. Arabic Extended, the Indic blocks to Sinhala, Thai, Lao,
# Tibetan, Myanmar, Khmer, Mongolian, presentation forms.
SHAPED = re.compile(
    "[\u0590-\u08ff\u0900-\u0dff\u0e00-\u0fff\u1000-\u109f\u1780-\u18af\u1900-\u1aaf\u1b00-\u1cff"
    "\ua8e0-\ua8ff\uaa60-\uaadf\ufb1d-\ufdff\ufe70-\ufefe]"
)
BLANK_IN_MONO = 0xFFFC  # OBJECT REPLACEMENT CHARACTER: DejaVu Sans Mono has it, without ink


def bake(unifont: Path) -> None:
    from fontTools.ttLib import TTFont
    from PIL import Image, ImageDraw, ImageFont

    mono = set(TTFont(FONTS / "DejaVuSansMono.ttf").getBestCmap())
    fallback = set(TTFont(unifont).getBestCmap())
    widths = np.zeros(65536, np.uint8)
    for code in range(0x20, 0x10000):
        char = chr(code)
        drawable = unicodedata.category(char)[0] in "LNPS" or char == " "
        if not drawable or SHAPED.search(char) or (code not in mono and code not in fallback):
            continue
        widths[code] = WIDE if unicodedata.east_asian_width(char) in "WF" else NARROW
    font = ImageFont.truetype(str(unifont), 16, layout_engine=ImageFont.Layout.BASIC)
    codes = [c for c in range(0x10000) if widths[c] != ESCAPE and (c not in mono or widths[c] == WIDE)]
    bitmaps = np.zeros((len(codes), 16, 16), np.uint8)
    for slot, code in enumerate(codes):
        cell = Image.new("1", (16, 16))
        ImageDraw.Draw(cell).text((0, 0), chr(code), fill=1, font=font)
        bitmaps[slot] = np.asarray(cell)
    drawn = {code: bitmap for code, bitmap in zip(codes, bitmaps, strict=True)}
    for code, bitmap in drawn.items():  # the glyph decides: one that needs both halves takes two cells, one without ink none
        widths[code] = ESCAPE if not bitmap.any() else WIDE if bitmap[:, 8:].any() else widths[code]
    widths[BLANK_IN_MONO] = ESCAPE
    (FONTS / "cell_widths.z").write_bytes(zlib.compress(widths.tobytes(), 9))
    packed = np.asarray(codes, "<u2").tobytes() + np.packbits(bitmaps).tobytes()
    (FONTS / "unifont.xz").write_bytes(lzma.compress(len(codes).to_bytes(4, "little") + packed, preset=9))
    print(f"{(widths == NARROW).sum()} narrow, {(widths == WIDE).sum()} wide, {len(codes)} from the fallback font")


if __name__ == "__main__":
    bake(Path(sys.argv[1]))
