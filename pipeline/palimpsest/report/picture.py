"""One page as a picture: what was drawn, what it costs as tokens, and what was read back, its first difference marked."""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib import resources

from PIL import Image, ImageDraw, ImageFont

from palimpsest.errors import UsageError
from palimpsest.report.inspect_page import PageView, readable
from palimpsest.report.printable import printable
from palimpsest.report.tables import ratio, share
from palimpsest.verification.fidelity import Span

SIDE = 512  # pixels of the page
GAP, COLUMNS, LEADING = 40, 46, 20  # margin in pixels, characters of a line of text, pixels between lines
PAPER, INK, SOFT = "#fffefb", "#23201b", "#5f594f"
MARKS = {"written": ("#b3261e", "#fbdcd7"), "read": ("#1f6f43", "#d5efdd")}


def picture(view: PageView) -> bytes:
    """The picture of a page that has an image and was decoded, as PNG.

    Raises:
        ValueError: for another page.
    """
    if view.image is None or view.decoded is None:
        raise UsageError(f"page {view.row['page_id']} has no image, or was never decoded")
    font, small = _font(15), _font(14)
    width = SIDE + 3 * GAP + round(font.getlength("x") * COLUMNS)
    canvas = Image.new("RGB", (width, SIDE + 3 * GAP), PAPER)
    draw = ImageDraw.Draw(canvas)
    page = Image.fromarray(view.image).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    canvas.paste(page, (GAP, GAP))
    draw.rectangle((GAP - 1, GAP - 1, GAP + SIDE, GAP + SIDE), outline="#c9c1b2")
    row, left = view.row, SIDE + 2 * GAP
    cost = ratio(row["num_text_tokens"], row["num_context_tokens"])
    draw.text((GAP, SIDE + GAP + 14), f"{row['num_text_tokens']:,} text tokens, drawn on {row['image_px']} px", SOFT, small)
    draw.text((left, GAP), f"{row['num_context_tokens']:,} context tokens ({cost})", INK, _font(22))
    errors = sum(span.tag != "equal" for span in view.spans)
    verdict = f"read back: {share(row['precision'])} of the characters, {errors} {'difference' if errors == 1 else 'differences'}"
    draw.text((left, GAP + 36), verdict, SOFT, small)
    _text(draw, _excerpt(readable(view.spans), (SIDE - 90) // LEADING), left, GAP + 76, font)
    sink = io.BytesIO()
    canvas.save(sink, "PNG", optimize=True)
    return sink.getvalue()


def _excerpt(spans: Sequence[Span], lines: int) -> list[tuple[str, str]]:
    """(kind, text) of the text around the first difference: "equal", "written" or "read"; not more than so many lines."""
    limit = lines * COLUMNS
    at = next((index for index, span in enumerate(spans) if span.tag != "equal"), len(spans))
    pieces = [("equal", spans[at - 1].reference[-limit // 2 :])] if at else []
    for span in spans[at:]:
        for kind, text in (
            (("equal", span.reference),) if span.tag == "equal" else (("written", span.reference), ("read", span.decoded))
        ):
            pieces.append((kind, text))
    return [(kind, printable(text).replace("\t", " ")) for kind, text in pieces if text]


def _text(draw: ImageDraw.ImageDraw, pieces: list[tuple[str, str]], left: int, top: int, font: ImageFont.FreeTypeFont) -> None:
    """Lay the pieces out character by character, lines broken at COLUMNS, down to the end of the page."""
    step, column, y = font.getlength("x"), 0, top
    for kind, text in pieces:
        for sign in text:
            if sign == "\n" or column == COLUMNS:
                column, y = 0, y + LEADING
            if y > GAP + SIDE - LEADING:
                return
            if sign == "\n":
                continue
            x = left + column * step
            colour, ground = MARKS.get(kind, (INK, None))
            if ground:
                draw.rectangle((x, y, x + step, y + LEADING - 1), fill=ground)
            draw.text((x, y), sign, colour, font)
            if kind == "written":
                draw.line((x, y + LEADING / 2, x + step, y + LEADING / 2), colour)
            column += 1


def _font(size: int) -> ImageFont.FreeTypeFont:
    data = resources.files("palimpsest.pages").joinpath("fonts/DejaVuSansMono.ttf").read_bytes()
    return ImageFont.truetype(io.BytesIO(data), size, layout_engine=ImageFont.Layout.BASIC)
