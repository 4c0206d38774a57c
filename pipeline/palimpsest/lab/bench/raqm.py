"""Pages of layout `document` as Pillow draws them, line by line: the yardstick of `bench render`.

Latin and CJK with Pillow's basic layout; Arabic, Hebrew and Indic with raqm (HarfBuzz, FriBidi and FreeType), which needs a
system library. Each line is drawn whole, in one font.
"""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from palimpsest.pages.fonts import font_bytes
from palimpsest.pages.layouts.document import WIDTH, DocumentLayout

if TYPE_CHECKING:
    from PIL import ImageFont

FONT_OF = {
    "latin": "NotoSans-Regular.ttf",
    "arabic": "NotoNaskhArabic-Regular.ttf",
    "hebrew": "NotoSansHebrew-Regular.ttf",
    "devanagari": "NotoSansDevanagari-Regular.ttf",
}


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
def _font(script: str, layout: DocumentLayout, px: int) -> ImageFont.FreeTypeFont:
    from PIL import ImageFont

    engine = ImageFont.Layout.RAQM if script not in ("latin", "cjk") else ImageFont.Layout.BASIC
    data = layout.cjk.data() if script == "cjk" and layout.cjk else font_bytes(FONT_OF[script])
    return ImageFont.truetype(
        BytesIO(data), px * layout.font_size / WIDTH, index=2 if script == "cjk" else 0, layout_engine=engine
    )


def draw_lines(lines: list[str], script: str, layout: DocumentLayout, px: int) -> np.ndarray:
    """Draw lines that were broken before, uint8 `[px, px]`."""
    from PIL import Image, ImageDraw

    shaped = script not in ("latin", "cjk")
    if shaped:
        require_raqm()
    image = Image.new("L", (px, px), 255)
    draw = ImageDraw.Draw(image)
    right = script in ("arabic", "hebrew")
    padding = px * layout.padding / WIDTH
    x, anchor = (px - padding, "ra") if right else (padding, "la")
    direction = ("rtl" if right else "ltr") if shaped else None
    pitch = (px - 2 * padding) / max(1, len(lines))
    for number, line in enumerate(lines):
        draw.text((x, padding + number * pitch), line, fill=0, font=_font(script, layout, px), anchor=anchor, direction=direction)
    return np.asarray(image)
