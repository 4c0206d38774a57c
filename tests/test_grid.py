import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.pages.characters import BLANK, END, ESC, MARK_BASE, NEWLINE, PAD, RUN, TAB, WIDE_TAIL, cell_widths
from palimpsest.pages.layouts import grid as grid_module
from palimpsest.pages.layouts.grid import Grid, lay_out, read_back

_PIECES = st.one_of(
    st.characters(),
    st.characters(categories=["Cs", "Co", "Cc", "Mn"]),
    st.sampled_from("the quick brown fox éàß αβγ жзи 漢字かな ｆｕｌｌ 한국어 שלום नमस्ते 😀"),
    st.sampled_from("\u0301\n\t\x00\ud800\U000f0000\U000f0004\U0010ffff"),
    st.integers(1, 150).map(lambda n: " " * n),
    st.text("abc, .\n", min_size=1, max_size=40),
    st.text("漢字ab", min_size=1, max_size=40),
)
_TEXTS = st.lists(_PIECES, max_size=120).map("".join)
_GRIDS = st.builds(Grid, st.integers(16, 40), st.integers(8, 12), st.sampled_from(["unicode", "latin"]))


@given(_TEXTS, _GRIDS)
def test_pages_give_the_text_back_cover_it_and_stand_alone(text: str, grid: Grid) -> None:
    pages = list(lay_out(text, grid))
    assert "".join(read_back(page.cells) for page in pages) == text
    assert [page.char_start for page in pages] == [0, *(page.char_end for page in pages)][: len(pages)]
    assert (pages[-1].char_end if pages else 0) == len(text)
    for page in pages:
        assert page.cells.shape == (grid.cells,) and page.cells.dtype == np.uint32
        (alone,) = lay_out(text[page.char_start : page.char_end], grid)
        assert np.array_equal(alone.cells, page.cells) and alone.escaped == page.escaped
        assert read_back("".join(map(chr, page.cells))) == text[page.char_start : page.char_end]


@given(_TEXTS, _GRIDS)
def test_a_wide_character_never_straddles_two_rows(text: str, grid: Grid) -> None:
    for page in lay_out(text, grid):
        assert WIDE_TAIL not in page.cells.reshape(grid.rows, grid.columns)[:, 0]


@pytest.mark.parametrize("grid", [Grid(16, 8), Grid(16, 128), Grid(17, 40)], ids=str)
@given(text=st.text("世世世a", min_size=100, max_size=3000))
def test_a_page_full_of_wide_characters_is_whole_and_self_contained(text: str, grid: Grid) -> None:
    for page in lay_out(text, grid):
        assert WIDE_TAIL not in page.cells.reshape(grid.rows, grid.columns)[:, 0]
        (alone,) = lay_out(text[page.char_start : page.char_end], grid)
        assert np.array_equal(alone.cells, page.cells)


def test_a_last_page_tears_no_wide_character() -> None:
    (page,) = lay_out("世a世世世世a世a世世世世世世世a世", Grid(16, 8))
    assert WIDE_TAIL not in page.cells.reshape(8, 16)[:, 0]


@given(_TEXTS, st.integers(1, 60))
def test_pages_do_not_depend_on_how_much_is_measured_at_a_time(text: str, chunk: int) -> None:
    grid = Grid(16, 8)
    whole = list(lay_out(text, grid))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid_module, "_CHUNK", chunk)
        pieces = list(lay_out(text, grid))
    assert [page[:2] for page in pieces] == [page[:2] for page in whole]
    assert all(np.array_equal(a.cells, b.cells) for a, b in zip(pieces, whole, strict=True))


@given(st.lists(st.integers(0, 2**32 - 1) | st.integers(MARK_BASE, MARK_BASE + 8) | st.sampled_from(list(b"0aF")), max_size=60))
def test_reading_back_is_total(codes: list[int]) -> None:
    text = read_back(np.array(codes, np.uint32))
    assert "".join(read_back(page.cells) for page in lay_out(text, Grid(16, 8))) == text


def _first_cells(text: str, count: int, grid: Grid | None = None) -> list[int]:
    return next(lay_out(text, grid or Grid(16, 8))).cells[:count].tolist()


def test_what_is_not_one_glyph_in_one_cell() -> None:
    a, b = ord("a"), ord("b")
    assert _first_cells("a\n\tb", 6) == [a, NEWLINE, TAB, b, END, BLANK]
    assert _first_cells("a  b", 4) == [a, 32, 32, b]
    assert _first_cells("a" + 3 * " " + "b", 4) == [a, RUN, ord("0"), b]
    assert _first_cells(68 * " ", 5) == [RUN, ord("-"), 32, 32, END]
    assert _first_cells("\u0301", 6) == [ESC, *map(ord, "301"), ESC, END]
    assert _first_cells("漢b", 3) == [ord("漢"), WIDE_TAIL, b]
    assert _first_cells(15 * "a" + "漢", 18)[15:] == [PAD, ord("漢"), WIDE_TAIL]
    # A run of spaces before a wide character at the end of a row, and cells that happen to be as many as characters.
    assert _first_cells(13 * "a" + "    漢", 18)[13:] == [RUN, ord("1"), PAD, ord("漢"), WIDE_TAIL]
    assert _first_cells("   \x07", 6) == [RUN, ord("0"), ESC, ord("7"), ESC, END]


def test_an_alphabet_escapes_what_its_codec_does_not_know() -> None:
    assert cell_widths("latin")[ord("ж")] == 0 and cell_widths("unicode")[ord("ж")] == 1
    (page,) = lay_out("жé", Grid(16, 8, "latin"))
    assert page.escaped == 1 and read_back(page.cells) == "жé"


def test_an_empty_text_has_no_pages() -> None:
    assert list(lay_out("", Grid(16, 8))) == []


@pytest.mark.parametrize(
    "text",
    ["a" + "\u0301" * 1_000_000, "lorem ipsum " * 170_000, " " * 2_000_000, "漢 字" * 300_000],
    ids=["a million marks", "2 MB in one line", "2 MB of spaces", "wide characters"],
)
def test_large_texts_take_seconds(text: str) -> None:
    start = time.process_time()
    pages = list(lay_out(text, Grid(128, 64)))
    assert time.process_time() - start < 10
    assert sum(page.char_end - page.char_start for page in pages) == len(text)
    assert read_back(pages[-1].cells) == text[pages[-1].char_start :]


@pytest.mark.parametrize(("setting", "named"), [("8x8", "columns must be"), ("80", "COLUMNSxROWS"), ("80x400", "rows 8..128")])
def test_a_bad_grid_is_named(setting: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Grid.parse(setting)


def test_an_unknown_alphabet_is_named_with_the_choices() -> None:
    with pytest.raises(ValueError, match="'klingon': choose one of unicode, latin"):
        Grid(80, 40, "klingon")
