import hashlib

import numpy as np
import pytest

from palimpsest.pages.atlas import PAPER, Atlas, atlas
from palimpsest.pages.characters import LATIN, NARROW, WIDE, cell_widths
from palimpsest.pages.fonts import FONTS, font_bytes, unifont
from palimpsest.pages.layouts.grid import Grid, lay_out

MODES_PX = (512, 640, 1024, 1280)
TEXT = "Flowing text 0123 (é ß “quotes”)\n\tif x:\n        return 漢字 + かな\x07 — жзи αβγ\n" * 20
# What a page of TEXT on 80x40 cells is, pixel by pixel: it changes only with RENDER_VERSION, never with a version of Pillow.
PIXELS_SHA256 = {
    512: "49bbdbd42bff319c3f87516b128a5446129965ecc4e69829462b2134e3bd45e5",
    640: "5b79589a2e3e61a31e0625712c91d34dff4256f62b7dd3197622253fef46510a",
    1024: "f7665d1468f074b6132008e47306a6f9b88e687cfe2c06bd1fe8c9378ea68d50",
    1280: "12276a08772deccf8f614f867f6f603791fb8f2a7cd2af361c771a328eb976ba",
}


def _page(grid: Grid) -> np.ndarray:
    return next(lay_out(TEXT, grid)).cells


@pytest.mark.parametrize(("columns", "rows", "px"), [(128, 64, 512), (80, 40, 640), (80, 40, 512), (80, 40, 1024), (50, 30, 640)])
def test_a_page_is_its_glyphs_pasted_cell_by_cell(columns: int, rows: int, px: int) -> None:
    grid = Grid(columns, rows)
    cells = _page(grid)
    page = Atlas(grid, px).render(cells)[0]
    glyphs = Atlas(grid, px)
    slots = glyphs._slots(cells).reshape(rows, columns)
    expected = np.full((px, px), PAPER, np.uint8)
    for row in range(rows):
        for column in range(columns):
            top, left = row * px // rows, column * px // columns
            expected[top : top + glyphs.height, left : left + glyphs.width] = glyphs._glyphs[:, slots[row, column]]
    assert np.array_equal(page, expected)


def test_a_wide_character_is_one_glyph_across_two_cells() -> None:
    grid = Grid(16, 8)
    page = Atlas(grid, 256).render(next(lay_out("漢", grid)).cells)[0]
    assert (page[:32, :16] < 128).any() and (page[:32, 16:32] < 128).any()


@pytest.mark.parametrize("px", MODES_PX)
def test_pixels_are_the_recorded_ones(px: int) -> None:
    found = hashlib.sha256(atlas(Grid(80, 40), px).render(_page(Grid(80, 40))).tobytes()).hexdigest()
    assert found == PIXELS_SHA256[px], f"{px} px: if this is meant, change RENDER_VERSION and record {found}"


@pytest.mark.parametrize("grid", [Grid(80, 40), Grid(128, 64), Grid(64, 32)], ids=str)
def test_a_cell_lies_in_the_same_part_of_the_page_in_every_mode(grid: Grid) -> None:
    """A visual token sees 64 x 64 pixels; relative to the page, a cell begins at the same place but for a pixel."""
    for count in (grid.columns, grid.rows):
        places = np.array([[index * px // count / px for index in range(count)] for px in MODES_PX])
        assert (np.abs(places - np.arange(count) / count) <= 1 / np.array(MODES_PX)[:, None]).all()
    if str(grid) == "80x40":  # 10 x 5 cells for each of the 8 x 8 tokens of tiny, in every mode
        for px in MODES_PX:
            assert [column * px // 80 * 8 // px for column in range(80)] == [column // 10 for column in range(80)]


def test_rendering_into_a_buffer_is_the_same_and_two_pages_do_not_mix() -> None:
    grid = Grid(80, 40)
    cells = np.stack([page.cells for page in lay_out(TEXT * 4, grid)][:2])
    out = np.zeros((2, 512, 512), np.uint8)
    assert atlas(grid, 512).render(cells, out) is out
    assert np.array_equal(out, atlas(grid, 512).render(cells))
    assert np.array_equal(out[1], atlas(grid, 512).render(cells[1])[0])


def test_no_covered_character_is_cut_or_blank() -> None:
    """Ink of every glyph against the whole bitmap, or the whole outline."""
    widths, pages = cell_widths(), Atlas(Grid(80, 40), 640)
    codes, bits = unifont()
    bitmaps = dict(zip(codes.tolist(), np.unpackbits(bits, axis=1).reshape(-1, 16, 16), strict=True))
    height, width = pages.height, pages.width
    for code in np.flatnonzero((widths == NARROW) | (widths == WIDE))[1:].tolist():
        drawn = PAPER - pages._draw(code, width * int(widths[code])).astype(float)
        assert drawn.max() > 50, f"{code:x} is blank"
        if code in bitmaps:
            side = 16 if widths[code] == WIDE else 8
            scale = (height / 16) * (drawn.shape[1] / side)
            assert drawn.sum() == pytest.approx(255 * bitmaps[code].sum() * scale, rel=0.06), f"{code:x} is cut"
        elif chr(code) not in LATIN:
            left, top, right, bottom = pages._font.getbbox(chr(code), anchor="ls")
            whole = np.asarray(pages._font.getmask(chr(code)), np.uint8).astype(float).sum()
            wide = max(right, width) - min(left, 0)
            high = max(bottom + pages._baseline, height) - min(top + pages._baseline, 0)
            assert drawn.sum() > 0.88 * width / wide * height / high * whole, f"{code:x} is cut"


def test_cells_too_small_to_read_are_refused() -> None:
    with pytest.raises(ValueError, match="cells of 2x4 px; at least 3x6"):
        Atlas(Grid(256, 128), 512)


@pytest.mark.parametrize("name", FONTS)
def test_a_font_that_is_not_the_recorded_one_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    font_bytes.cache_clear()
    assert font_bytes(name)
    font_bytes.cache_clear()
    monkeypatch.setitem(FONTS, name, FONTS[name]._replace(sha256="0" * 64))
    with pytest.raises(RuntimeError, match="is not the recorded 0000"):
        font_bytes(name)
