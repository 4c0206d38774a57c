"""Texts of the world on a layout: the share of pages that stay text because a font lacks their characters, named by script.

It lays texts out as a run does. That a covered character is drawn whole is shown by tests/test_document.py.
"""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from palimpsest.errors import UsageError
from palimpsest.flow.stages.paginate import why_not_covered
from palimpsest.pages.layouts.protocol import Layout
from palimpsest.pages.normalise import normalise
from palimpsest.pages.text_class import classify

_EXPECTED = "expected a folder of HTML files, or JSON lines of 'name' and 'text'"
_BLOCKS = {"p", "h1", "h2", "h3", "h4", "h5", "h6", "li", "div", "header", "article"}


def bench_coverage(texts: Path, layout: Layout, max_escaped_share: float) -> dict[str, Any]:
    """Lay texts out.

    Args:
        texts: a folder of HTML files, or JSON lines of `name` and `text`.
        max_escaped_share: of a page; above it the page stays text (`layout.max_escaped_share`).

    Returns:
        `{"layout", "texts", "pages", "kept_as_text", "share", "rows": [...]}`; a row is a text with such pages: `name`, `pages`,
        `kept_as_text`, and the `scripts` of the characters that no font covers.

    Raises:
        UsageError: for texts that cannot be read, or none.
    """
    pages = kept = 0
    rows: list[dict[str, Any]] = []
    found = read_texts(texts)
    for name, raw in found:
        text = normalise(raw)
        laid_out = [(page, text[page.char_start : page.char_end]) for page in layout.paginate(text, classify(text))]
        missing = [own for page, own in laid_out if why_not_covered(page, own, layout, max_escaped_share)]
        pages, kept = pages + len(laid_out), kept + len(missing)
        if missing:
            scripts = ", ".join(layout.uncovered("".join(missing)))
            rows.append({"name": name, "pages": len(laid_out), "kept_as_text": len(missing), "scripts": scripts})
    described = {"layout": layout.described, "texts": len(found), "pages": pages, "kept_as_text": kept}
    return {**described, "share": round(kept / max(pages, 1), 4), "rows": rows}


def read_texts(path: Path) -> list[tuple[str, str]]:
    try:
        if path.is_dir():
            found = [(file.stem, _text_of(file.read_text("utf-8"))) for file in sorted(path.glob("*.html"))]
        else:
            records = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
            found = [(str(record["name"]), str(record["text"])) for record in records]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{str(path)!r}: expected a folder of HTML files, or JSON lines of 'name' and 'text' ({error})"
        ) from error
    if not found:
        raise UsageError(
            f"{str(path)!r}: no HTML file there; expected a folder of HTML files, or JSON lines of 'name' and 'text'"
        )
    return found


class _Body(HTMLParser):
    """The text of an HTML body, a line for each block."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self._inside |= tag == "body"

    def handle_endtag(self, tag: str) -> None:
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.parts.append(data.replace("\n", " "))


def _text_of(html: str) -> str:
    body = _Body()
    body.feed(html)
    lines = (line.strip() for line in "".join(body.parts).split("\n"))
    return "".join(f"{line}\n" for line in lines if line)
