"""The pages that a report shows: of each class the worst, the median and the best, the same ones every time."""

from __future__ import annotations

import io
from base64 import b64encode
from dataclasses import dataclass

import numpy as np
from PIL import Image

from palimpsest.corpus.snapshots import Snapshot
from palimpsest.report.inspect_page import PageView, RenderPage, find_rows, view
from palimpsest.report.measures import quantile
from palimpsest.report.summary import PagePoint, Summary
from palimpsest.storage.object_store import ObjectStore

MAX_CLASSES = 8
IMAGE_BUDGET = 2 << 20  # bytes of all images, before base64


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """A page of the gallery: why it was chosen (e.g. "worst of prose"), and its image as a data URI, None without one."""

    roles: tuple[str, ...]
    view: PageView
    image_uri: str | None


def hang(store: ObjectStore, snapshot: Snapshot, summary: Summary, render_page: RenderPage) -> list[Exhibit]:
    """Find and draw the chosen pages. Images that would make the report too large are left out, the last ones first.

    Raises:
        NoSuchObject, Damaged: from the store.
        ValueError: for an image that is none.
    """
    roles: dict[str, list[str]] = {}
    for role, point in choose(summary):
        roles.setdefault(point.page_id, []).append(role)
    rows = find_rows(store, snapshot, roles)
    exhibits, left = [], IMAGE_BUDGET
    for page_id, reasons in roles.items():
        page = view(rows[page_id], render_page)
        png = b"" if page.image is None else png_bytes(page.image)
        left -= len(png)
        uri = f"data:image/png;base64,{b64encode(png).decode()}" if png and left >= 0 else None
        exhibits.append(Exhibit(roles=tuple(reasons), view=page, image_uri=uri))
    return exhibits


def choose(summary: Summary) -> list[tuple[str, PagePoint]]:
    """(role, page), class by class. The median is the page nearest to the class's median among those that are sampled."""
    shown = summary.exhibits
    sizes = {name: count for name, count in summary.by_class.items() if name in shown.worst}
    chosen = []
    for name in sorted(sorted(sizes, key=lambda name: (-sizes[name], name))[:MAX_CLASSES]):
        curves = [curve for (of, _), curve in shown.curves.items() if of == name]
        values, counts = (np.concatenate(parts) for parts in zip(*curves, strict=True))
        order = np.argsort(values)
        middle = quantile(values[order], counts[order], 0.5)
        points = [point for point in shown.points if point.text_class == name]
        median = min(points, key=lambda point: (abs(point.precision - middle), point.page_id))
        chosen += [(f"worst of {name}", shown.worst[name]), (f"median of {name}", median), (f"best of {name}", shown.best[name])]
    return chosen


def png_bytes(image: np.ndarray) -> bytes:
    """A grey image as PNG, without loss."""
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, "PNG", optimize=True)
    return sink.getvalue()
