"""Pages to images."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from palimpsest.pages.layouts.protocol import Layout
from palimpsest.schemas import IMAGES, conform


class Render:
    """PAGES -> IMAGES: each page as large as its mode sees it."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def __call__(self, table: pa.Table) -> pa.Table:
        sizes = table["image_px"].to_pylist()
        images: list[bytes | None] = [None] * table.num_rows
        for px in sorted({px for px in sizes if px is not None}):
            rows = [number for number, size in enumerate(sizes) if size == px]
            drawn = table.filter(pc.equal(table["image_px"], px))
            made = self.layout.render(drawn["text"].to_pylist(), drawn["drawing"].to_pylist(), px)
            for number, image in zip(rows, made, strict=True):
                images[number] = image.tobytes()
        table = table.drop_columns(["drawing", "stored_tier"]).append_column("image", pa.array(images, pa.large_binary()))
        return conform(table, IMAGES, "render")
