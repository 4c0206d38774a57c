"""Layout `document`: what a document model was trained to read. Word wrap, margins, leading, outline fonts of every script.

The defaults are the one layout for which DeepSeek-OCR's readings of rendered text are public: Noto Sans of 16 px on a page 900 px
wide, 20 px of padding, 4 px between lines. Unlike there, paragraphs are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from palimpsest.pages.drawing import DRAWING_VERSION, Lines, draw
from palimpsest.pages.fonts import FONTS, CjkFont
from palimpsest.pages.layouts.protocol import LaidOutPage, digest
from palimpsest.pages.line_breaks import LINE_BREAK_VERSION
from palimpsest.pages.normalise import NORMALISE_VERSION
from palimpsest.pages.typesetting import Measures, TypesetPage, Vocabulary, typeset
from palimpsest.pages.unicode_data import scripts_of
from palimpsest.pages.words import EM, WORDS_VERSION, fonts_of

DOCUMENT_VERSION = "d1"
WIDTH = 900  # the page's width in the units of the settings
MONO_CLASSES = ("code", "tables")


@dataclass(frozen=True)
class DocumentLayout:
    """Pages of a document model, drawn at any resolution from breaks that were computed once.

    Args:
        font_size, padding, line_spacing: in 1/900 of the page's width.
        newline: "break", or "glyph": a pilcrow, and text flows on.
        font: "class" (monospaced for code and tables), "sans" or "mono".
        cjk: the font of ideographs, kana and Hangul; None: pages of them stay text.
    """

    font_size: float = 16.0
    padding: float = 20.0
    line_spacing: float = 4.0
    newline: str = "break"
    font: str = "class"
    cjk: CjkFont | None = None
    name: str = "document"

    @property
    def identity(self) -> str:
        settings = (f"{self.font_size:g}", f"{self.padding:g}", f"{self.line_spacing:g}", self.newline, self.font)
        versions = (DOCUMENT_VERSION, NORMALISE_VERSION, LINE_BREAK_VERSION, WORDS_VERSION, DRAWING_VERSION)
        fonts = (f"{name}={font.sha256}" for name, font in sorted(FONTS.items()) if name.endswith((".ttf", "breaks.z")))
        return digest((self.name, *versions, *settings, *fonts, f"cjk={self.cjk.sha256 if self.cjk else ''}"))

    @property
    def described(self) -> str:
        sizes = f"font_size={self.font_size:g} padding={self.padding:g} line_spacing={self.line_spacing:g}"
        cjk = self.cjk.sha256 if self.cjk else "none"
        return f"{self.name} {sizes} newline={self.newline} font={self.font} cjk={cjk}"

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        return ()

    @property
    def capacity(self) -> int:
        """Of English prose, in which a character is about half an em wide."""
        room = WIDTH - 2 * self.padding
        return int(2 * room / self.font_size * room / (self.font_size + self.line_spacing))

    def __str__(self) -> str:
        return f"document {self.font_size:g}/{WIDTH}"

    def paginate(self, text: str, text_class: str) -> Iterator[LaidOutPage]:
        """Lay a normalised document out; the spans of its pages cover it without a gap. An empty text has no pages."""
        mono = self.font == "mono" or (self.font == "class" and text_class in MONO_CLASSES)
        for page in typeset(text, self._vocabulary(mono)):
            yield LaidOutPage(page.char_start, page.char_end, _pack(page, mono), page.escaped)

    def lay_out_again(self, text: str, text_class: str) -> LaidOutPage | None:
        """The page of a stored slice of a document; None where it is not one page, as under other settings."""
        pages = list(self.paginate(text, text_class))
        return pages[0] if len(pages) == 1 else None

    def render(self, texts: Sequence[str], drawings: Sequence[bytes], px: int, out: np.ndarray | None = None) -> np.ndarray:
        """Draw pages: black on white, uint8 `[n, px, px]`, into `out` if that is given.

        Args:
            texts: the slices of the document.
            drawings: of each, what `paginate` returned.
            px: side of the page in pixels.
        """
        images = np.empty((len(texts), px, px), np.uint8) if out is None else out
        for image, text, drawing in zip(images, texts, drawings, strict=True):
            lines, mono = _unpack(text, drawing)
            draw(lines, self._vocabulary(mono), px, image)
        return images

    def shown(self, text: str, drawing: bytes) -> str:
        """A page's text as it is drawn: with its soft line breaks, and newlines as this layout draws them."""
        lines, _ = _unpack(text, drawing)
        cuts = [0, *lines.bounds[lines.stops].tolist()]
        shown = (text[start:stop] for start, stop in zip(cuts, cuts[1:], strict=False))
        if self.newline == "break":
            return "\n".join(line.removesuffix("\n").rstrip(" ") for line in shown)
        return "\n".join(line.replace("\n", "¶ ").rstrip(" ") for line in shown)

    def uncovered(self, text: str) -> list[str]:
        """The scripts of the characters of a page that no font covers, most frequent first."""
        fonts = self._vocabulary(False).fonts
        return scripts_of(char for char in text if char not in " \t\n" and fonts.font_of(char) < 0)

    def is_drawable(self, px: int) -> bool:
        """Whether letters are large enough to be drawn: at least 6 px to the em."""
        return px * self.font_size >= 6 * WIDTH

    def _vocabulary(self, mono: bool) -> Vocabulary:
        page, padding, pitch = (
            round(size / self.font_size * EM) for size in (WIDTH, self.padding, self.font_size + self.line_spacing)
        )
        return _vocabulary(mono, self.cjk, Measures(page, padding, pitch, self.newline == "glyph"))


@lru_cache(maxsize=8)
def _vocabulary(mono: bool, cjk: CjkFont | None, measures: Measures) -> Vocabulary:
    return Vocabulary(fonts_of(mono, cjk), measures)


def _pack(page: TypesetPage, mono: bool) -> bytes:
    """The lines of a page as bytes: whether they are monospaced, their number, then of each its units, indentation and grade,
    then the lengths of all units; little-endian."""
    head = np.array([mono, len(page.lines)], "<u4")
    return head.tobytes() + page.lines.astype("<u4").tobytes() + page.lengths.astype("<u4").tobytes()


def _unpack(text: str, drawing: bytes) -> tuple[Lines, bool]:
    """The inverse of `_pack`, given the text of the page."""
    mono, count = np.frombuffer(drawing, "<u4", 2).tolist()
    of_lines = np.frombuffer(drawing, "<u4", 3 * count, 8).reshape(count, 3).astype(np.int64)
    lengths = np.frombuffer(drawing, "<u4", -1, 8 + 12 * count)
    bounds = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
    stops = np.cumsum(of_lines[:, 0])
    return Lines(text, bounds, stops, of_lines[:, 1], of_lines[:, 2]), bool(mono)
