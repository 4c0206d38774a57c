"""The layouts, found by name: from settings, or from the columns of a stored page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from palimpsest.config import LayoutConfig, parse
from palimpsest.errors import UsageError
from palimpsest.pages.fonts import find_cjk
from palimpsest.pages.layouts.document import DocumentLayout
from palimpsest.pages.layouts.fitted_grid import FittedGrid
from palimpsest.pages.layouts.grid import Grid
from palimpsest.pages.layouts.protocol import Layout

LAYOUTS = ("grid", "document")
_DESCRIBED = {"font_size", "padding", "line_spacing", "newline", "font", "cjk"}


def make_layout(settings: LayoutConfig) -> Layout:
    """The layout that settings describe; `settings.name` and `settings.alphabet` are no longer "codec".

    Raises:
        UsageError: for an unknown name, or a CJK font that cannot be used.
    """
    if settings.name == "grid":
        grids = [Grid.parse(grid, settings.alphabet) for grid in settings.grid.split("+")]
        return grids[0] if len(grids) == 1 else FittedGrid(tuple(grids))
    if settings.name == "document":
        sizes = {name: getattr(settings, name) for name in ("font_size", "padding", "line_spacing")}
        return DocumentLayout(**sizes, newline=settings.newline, font=settings.font, cjk=find_cjk(settings.cjk_font))
    raise UsageError(f"layout.name = {settings.name!r}: choose one of {', '.join(LAYOUTS)}")


def layout_of_row(row: Mapping[str, Any], alphabet: str) -> Layout:
    """The layout of a stored page.

    Args:
        row: the columns layout, grid_w and grid_h.
        alphabet: of the codec, for a grid.

    Raises:
        UsageError: for a layout of another version, or a font that this machine lacks.
    """
    name, *described = (row["layout"] or "none").split(maxsplit=len(_DESCRIBED) + 1)
    if name == "grid":
        return Grid(row["grid_w"] or 0, row["grid_h"] or 0, alphabet)
    values = dict(part.partition("=")[::2] for part in described)
    if name != "document" or values.keys() != _DESCRIBED:
        raise UsageError(f"layout {row['layout']!a:.200} of a page: this version knows {', '.join(LAYOUTS)}")
    sizes = [f"layout.{name}={values[name]}" for name in ("font_size", "padding", "line_spacing")]
    settings = parse({"layout": {"newline": values["newline"], "font": values["font"]}}, sizes).layout
    cjk = find_cjk("auto", values["cjk"]) if values["cjk"] != "none" else None
    return DocumentLayout(settings.font_size, settings.padding, settings.line_spacing, settings.newline, settings.font, cjk)
