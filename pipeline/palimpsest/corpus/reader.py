"""A published corpus, read."""

from __future__ import annotations

from typing import Any

import numpy as np

from palimpsest.codecs.presets import find_preset
from palimpsest.corpus.format import open_corpus
from palimpsest.corpus.snapshots import Snapshot, latest
from palimpsest.pages.grid import Grid
from palimpsest.pages.pagination import paginate, render
from palimpsest.storage.object_store import ObjectStore
from palimpsest.storage.opening import open_store


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
