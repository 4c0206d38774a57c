"""Shaped pages as Pillow draws them with raqm (HarfBuzz, FriBidi and FreeType): the yardstick of the shaped path.

Slow, one font a page, and it needs a system library; the pipeline draws with `shaped.py`, whose pages the tests and the benchmark
hold against these.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from palimpsest.pages.fonts import font_bytes
from palimpsest.pages.grid import Grid
from palimpsest.pages.shaped import BASELINE, LINE_HEIGHT, ShapedPage, lines_per_page
from palimpsest.pages.shaping import EM, SCRIPT_FONTS

if TYPE_CHECKING:
    from PIL import ImageFont


def require_raqm() -> None:
    """Check that Pillow can shape.

    Raises:
        RuntimeError: where it would silently draw unjoined letters in logical order.
    """
    from PIL import features

    for feature in ("raqm", "fribidi", "harfbuzz"):
        if not features.check(feature):
            raise RuntimeError(f"Pillow has no {feature}: install the system package libfribidi0 (fribidi on other systems)")


@lru_cache(maxsize=32)
def _font(name: str, size: float) -> ImageFont.FreeTypeFont:
    from PIL import ImageFont

    return ImageFont.truetype(BytesIO(font_bytes(name)), size, layout_engine=ImageFont.Layout.RAQM)


def render_raqm(text: str, page: ShapedPage, grid: Grid, px: int) -> np.ndarray:
    """Draw the lines of `page` out of `text`, the normalised document, with `ImageDraw.text`: uint8 `[px, px]`.

    Every line is drawn whole, in the font that most of the page is set in.
    """
    from PIL import Image, ImageDraw

    require_raqm()
    count = lines_per_page(grid)
    fonts = Counter(font for line in page.lines for _, font, _, _ in line.pieces if font in SCRIPT_FONTS)
    font = _font(fonts.most_common(1)[0][0], px * EM / (count * LINE_HEIGHT))
    image = Image.new("L", (px, px), 255)
    draw = ImageDraw.Draw(image)
    ends = [line.char_start for line in page.lines[1:]] + [page.char_end]
    x, direction, anchor = (px, "rtl", "rs") if page.rtl else (0, "ltr", "ls")
    for number, (line, end) in enumerate(zip(page.lines, ends, strict=True)):
        baseline = round((number + BASELINE) * px / count)
        words = text[line.char_start : end].replace("\n", " ").rstrip()
        draw.text((x, baseline), words, fill=0, font=font, direction=direction, anchor=anchor)
    return np.asarray(image)
