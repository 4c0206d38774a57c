"""`palimpsest inspect` and `palimpsest report`: a published corpus for people to look at."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import RenderableType

from pipeline.codecs.presets import find_preset
from pipeline.pages.grid import Grid
from pipeline.pages.pagination import paginate, render
from pipeline.store.corpus import open_corpus
from pipeline.store.object_store import ObjectStore, open_store
from pipeline.store.snapshots import Snapshot, latest


@dataclass(frozen=True)
class Shown:
    """Something to print: as a table, or as JSON."""

    renderable: RenderableType
    values: dict[str, Any]

    def table(self) -> RenderableType:
        return self.renderable

    def to_json(self) -> dict[str, Any]:
        return self.values


def published(corpus: str) -> tuple[ObjectStore, Snapshot]:
    """The store of a corpus and its newest snapshot.

    Raises:
        ValueError: where there is no corpus, or nothing is published.
    """
    store = open_store(corpus)
    open_corpus(store)
    snapshot = latest(store)
    if snapshot is None:
        raise ValueError(f"corpus {corpus!r} has no snapshot yet: run `palimpsest run … --out {corpus}` to its end")
    return store, snapshot


def render_row(row: dict[str, Any]) -> np.ndarray | None:
    """The image of a stored page, drawn again from its text: uint8 `[px, px]`, or None in tier text."""
    if row["image_px"] is None:
        return None
    grid = Grid(row["grid_w"], row["grid_h"], find_preset(row["codec"]).alphabet)
    pages = list(paginate(row["text"], grid))
    return render(pages[:1], grid, row["image_px"])[0]


def inspect_corpus(corpus: str) -> Shown:
    from pipeline.report.summary import summarise
    from pipeline.report.text_tables import summary_table

    summary = summarise(*published(corpus))
    return Shown(summary_table(summary), summary.to_json())


def inspect_page(corpus: str, page_id: str, image: Path | None) -> Shown:
    """One page, by its id or the beginning of it; its image goes to `image` where that is given.

    Raises:
        ValueError: for an unknown page, or one in tier text whose image is asked for.
    """
    from PIL import Image

    from pipeline.report.inspect_page import page_view
    from pipeline.report.text_tables import page_panel

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
    from pipeline.report.html import report_html

    store, snapshot = published(corpus)
    html = report_html(store, snapshot, render_row)
    if out is None:
        key = f"runs/{snapshot.run_id}/report.html"
        store.put(key, html.encode())
        return store.uri(key)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(html, "utf-8")
    return str(out)
