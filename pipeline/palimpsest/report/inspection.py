"""`palimpsest inspect` and `palimpsest report`: a corpus for people to look at, also before anything is published."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from palimpsest.corpus.page import render_row
from palimpsest.errors import UsageError
from palimpsest.report.committed import newest


@dataclass(frozen=True)
class Shown:
    """Something to print: as a table, or as JSON."""

    renderable: RenderableType
    values: dict[str, Any]

    def table(self) -> RenderableType:
        return self.renderable

    def to_json(self) -> dict[str, Any]:
        return self.values


def inspect_corpus(corpus: str) -> Shown:
    from palimpsest.report.summary import summarise
    from palimpsest.report.text_tables import summary_table

    summary = summarise(*newest(corpus))
    return Shown(summary_table(summary), summary.to_json())


def inspect_page(corpus: str, page_id: str, image: Path | None) -> Shown:
    """One page, by its id or the beginning of it; its image goes to `image` where that is given.

    Raises:
        ValueError: for an unknown page, or one in tier text whose image is asked for.
    """
    from PIL import Image

    from palimpsest.report.inspect_page import page_view
    from palimpsest.report.text_tables import page_panel

    view = page_view(*newest(corpus), page_id, render_row)
    if image is not None:
        if view.image is None:
            raise UsageError(f"page {page_id} is in tier text and has no image")
        Image.fromarray(view.image).save(image)
    differences = [asdict(span) for span in view.spans if span.tag != "equal"]
    return Shown(page_panel(view), {**view.row, "decoded": view.decoded, "ratio": view.ratio, "differences": differences})


def write_picture(corpus: str, page_id: str | None, out: Path) -> str:
    """Write the picture of a page, of the worst one where none is named; returns its path.

    Raises:
        ValueError: for an unknown page, one without an image, or a corpus of which no page was decoded.
    """
    from palimpsest.report.inspect_page import page_view
    from palimpsest.report.picture import picture
    from palimpsest.report.summary import summarise

    store, snapshot = newest(corpus)
    if page_id is None:
        worst = summarise(store, snapshot).exhibits.worst_pages
        if not worst:
            raise UsageError(f"corpus {corpus!r}: no page was decoded")
        page_id = worst[0].page_id
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(picture(page_view(store, snapshot, page_id, render_row)))
    return str(out)


def write_report(corpus: str, out: Path | None) -> str:
    """Write the HTML report; returns its path.

    Raises:
        UsageError: there is no corpus, or it is empty.
    """
    from palimpsest.report.html import report_html

    store, snapshot = newest(corpus)
    html = report_html(store, snapshot, render_row)
    if out is None:
        key = f"runs/{snapshot.run_id}/report.html"
        store.put(key, html.encode())
        return store.uri(key)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(html, "utf-8")
    return str(out)
