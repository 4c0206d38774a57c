"""`palimpsest inspect` and `palimpsest report`: a published corpus for people to look at."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from palimpsest.corpus.page import render_row
from palimpsest.corpus.reader import published


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

    summary = summarise(*published(corpus))
    return Shown(summary_table(summary), summary.to_json())


def inspect_page(corpus: str, page_id: str, image: Path | None) -> Shown:
    """One page, by its id or the beginning of it; its image goes to `image` where that is given.

    Raises:
        ValueError: for an unknown page, or one in tier text whose image is asked for.
    """
    from PIL import Image

    from palimpsest.report.inspect_page import page_view
    from palimpsest.report.text_tables import page_panel

    view = page_view(*published(corpus), page_id, render_row)
    if image is not None:
        if view.image is None:
            raise ValueError(f"page {page_id} is in tier text and has no image")
        Image.fromarray(view.image).save(image)
    differences = [asdict(span) for span in view.spans if span.tag != "equal"]
    return Shown(page_panel(view), {**view.row, "decoded": view.decoded, "ratio": view.ratio, "differences": differences})


def write_report(corpus: str, out: Path | None) -> str:
    """Write the HTML report; returns its path.

    Raises:
        ValueError: where there is no corpus, or nothing is published.
    """
    from palimpsest.report.html import report_html

    store, snapshot = published(corpus)
    html = report_html(store, snapshot, render_row)
    if out is None:
        key = f"runs/{snapshot.run_id}/report.html"
        store.put(key, html.encode())
        return store.uri(key)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(html, "utf-8")
    return str(out)
