import numpy as np
import pytest

from palimpsest.pages.fonts import FONTS
from palimpsest.pages.grid import Grid
from palimpsest.pages.normalise import normalise
from palimpsest.pages.pagination import DocumentPage, layout_fingerprint, page_id, paginate, render

GRID = Grid(80, 40)
ENGLISH = "One line of plain text, and another.\n" * 200
HEBREW = normalise("כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.\n" * 120)
KHMER = "ខ្មែរ" * 40


@pytest.mark.parametrize(("text", "script"), [(ENGLISH, "grid"), (HEBREW, "shaped"), (KHMER, "grid"), ("漢字" * 900, "grid")])
def test_a_document_takes_one_path_and_its_pages_cover_it(text: str, script: str) -> None:
    pages = list(paginate(text, GRID))
    assert {page.script for page in pages} == {script}
    assert "".join(text[page.char_start : page.char_end] for page in pages) == text
    assert all((page.cells is None) != (page.lines is None) for page in pages)
    # Khmer has no font among those that ship: better exact escapes on the grid than a page of escapes in a row.
    assert (sum(page.escaped for page in pages) > 0) == (text == KHMER)


def test_an_empty_text_has_no_pages() -> None:
    assert list(paginate("", GRID)) == []


def test_pages_of_both_kinds_are_drawn_in_their_order() -> None:
    pages = [next(paginate(text, GRID)) for text in (ENGLISH, HEBREW, "x")]
    images = render(pages, GRID, 640)
    assert images.shape == (3, 640, 640) and images.dtype == np.uint8
    for page, image in zip(pages, images, strict=True):
        assert np.array_equal(render([page], GRID, 640)[0], image)
    inked = (images < 128).mean((1, 2))
    assert inked[0] > 0.05 and inked[1] > 0.05 and inked[2] < 0.01


def test_a_page_survives_the_columns_it_travels_in() -> None:
    page = next(paginate(HEBREW, GRID))
    copy = DocumentPage(page.char_start, page.char_end, page.cells, bytes(page.lines or b""), page.escaped)
    assert np.array_equal(render([page], GRID, 512), render([copy], GRID, 512))


def test_ids_change_with_what_changes_a_page_and_with_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = layout_fingerprint(GRID)
    assert layout == layout_fingerprint(Grid.parse("80x40"))
    assert len({layout, layout_fingerprint(Grid(128, 64)), layout_fingerprint(Grid(80, 40, "latin"))}) == 3
    ids = {page_id("doc", 0, layout), page_id("doc", 1, layout), page_id("other", 0, layout), page_id("doc", 0, "other")}
    assert len(ids) == 4 and page_id("doc", 0, layout) in ids
    monkeypatch.setitem(FONTS, "unifont.xz", FONTS["unifont.xz"]._replace(sha256="0"))
    assert layout_fingerprint(GRID) != layout
