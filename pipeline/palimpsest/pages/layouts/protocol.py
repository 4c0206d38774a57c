"""The protocol between documents and page images.

`grid` is for codecs that were trained on its cells, `document` for models that read documents. Adding one means a class of this
protocol and a line in `registry.make_layout`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np


class LaidOutPage(NamedTuple):
    """One page of a document.

    Attributes:
        char_start, char_end: its span in the normalised document.
        drawing: what `render` needs besides the text of the span; only the layout that made it understands it.
        escaped: characters that are drawn as their code point because no font covers them.
        size: columns and rows of its grid; None on other layouts.
    """

    char_start: int
    char_end: int
    drawing: bytes
    escaped: int
    size: tuple[int, int] | None = None


class Layout(Protocol):
    """How text is placed on pages.

    A page is self-contained: laid out again from its own text it is the same page. Breaks do not depend on the resolution.

    Attributes:
        name: "grid" or "document".
        described: the name and settings, as the column `layout` of a page states them.
        sizes: columns and rows of the grids that its pages may have; empty for other layouts.
        capacity: about how many characters a full page holds.
        identity: 16 hexadecimal digits that change with anything that can change which text is on a page, or a pixel of it.
    """

    @property
    def name(self) -> str: ...

    @property
    def described(self) -> str: ...

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]: ...

    @property
    def capacity(self) -> int: ...

    @property
    def identity(self) -> str: ...

    def paginate(self, text: str, text_class: str) -> Iterator[LaidOutPage]:
        """Lay a normalised document out; the spans of its pages cover it without a gap. An empty text has no pages."""
        ...

    def lay_out_again(self, text: str, text_class: str) -> LaidOutPage | None:
        """The page of a stored slice of a document; None where it is not one page, as under other settings."""
        ...

    def render(self, texts: Sequence[str], drawings: Sequence[bytes], px: int, out: np.ndarray | None = None) -> np.ndarray:
        """Draw pages: black on white, uint8 `[n, px, px]`, into `out` if that is given."""
        ...

    def shown(self, text: str, drawing: bytes) -> str:
        """A page's text as a reader of its lines sees it."""
        ...

    def uncovered(self, text: str) -> list[str]:
        """The scripts of the characters of a page that no font covers, most frequent first."""
        ...

    def is_drawable(self, px: int) -> bool:
        """Whether letters are large enough to be drawn on a page of `px` pixels a side."""
        ...


def page_id(doc_id: str, page_number: int, layout: str) -> str:
    """The id of a page: 24 hexadecimal digits, the same in every mode. `layout` is a layout's identity."""
    return digest((doc_id, str(page_number), layout), 24)


def digest(parts: Iterable[str], digits: int = 16) -> str:
    """The first hexadecimal digits of a hash of all parts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:digits]
