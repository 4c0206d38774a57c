"""Pages to images."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from palimpsest.pages.grid import Grid
from palimpsest.pages.pagination import DocumentPage, render
from palimpsest.schemas import IMAGES, conform


class Render:
    """PAGES -> IMAGES: each page as large as its mode sees it."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid

    def __call__(self, table: pa.Table) -> pa.Table:
        sizes = table["image_px"].to_pylist()
        images: list[bytes | None] = [None] * table.num_rows
        for px in sorted({px for px in sizes if px is not None}):
            places = [place for place, size in enumerate(sizes) if size == px]
            drawn = table.filter(pc.equal(table["image_px"], px)).select(["char_start", "char_end", "cells", "lines"])
            pages = [DocumentPage(**row, escaped=0) for row in drawn.to_pylist()]
            for place, image in zip(places, render(pages, self.grid, px), strict=True):
                images[place] = image.tobytes()
        table = table.drop_columns(["cells", "lines", "stored_tier"]).append_column("image", pa.array(images, pa.large_binary()))
        return conform(table, IMAGES, "render")
