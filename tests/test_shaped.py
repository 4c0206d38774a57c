import ctypes
import ctypes.util
import random
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.lab.bench import raqm
from palimpsest.lab.bench.render import invented_text
from palimpsest.pages.bidi import is_rtl, levels, visual_order
from palimpsest.pages.grid import Grid
from palimpsest.pages.scripts import needs_shaping
from palimpsest.pages.shaped import lay_out_shaped, lines_from_json, lines_per_page, render_shaped, to_json
from palimpsest.pages.shaping import BITMAPS, ESCAPE, MONO, font_of, split_by_font

ARABIC = "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق. (1948) English 漢字 😀\n"
HINDI = "सभी मनुष्यों को गौरव और अधिकारों के मामले में स्वतन्त्रता प्राप्त है।\n"
THAI = "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ\n"
GRID = Grid(32, 16)


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Ink that two pages share over ink that either has."""
    ink_a, ink_b = 255.0 - a, 255.0 - b
    return float(np.minimum(ink_a, ink_b).sum() / np.maximum(ink_a, ink_b).sum())


@pytest.mark.parametrize("script", ["arabic", "hebrew", "devanagari"])
def test_lines_look_as_pillow_with_raqm_draws_them(script: str) -> None:
    text = invented_text(script, 120)
    page = next(lay_out_shaped(text, GRID))
    drawn, reference = render_shaped(page, GRID, 1280), raqm.render_raqm(text, page, GRID, 1280)
    # Pillow hints its glyphs and rounds their places to whole pixels; wrong joins or a wrong order are below 0.5.
    assert _overlap(drawn, reference) > 0.8
    assert _overlap(drawn, np.flip(reference, 1)) < 0.5


def test_missing_raqm_is_named_with_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import features

    monkeypatch.setattr(features, "check", lambda feature: feature != "fribidi")
    with pytest.raises(RuntimeError, match="no fribidi: install the system package libfribidi0"):
        raqm.require_raqm()


def test_levels_are_those_of_fribidi() -> None:
    name = ctypes.util.find_library("fribidi")
    if not name:
        pytest.skip("libfribidi is not installed")
    fribidi = ctypes.CDLL(name)
    draw = random.Random(7)
    for _ in range(4000):
        # Without marks: FriBidi 1.0 loses a pair of brackets where a mark follows one that has no partner.
        text = "".join(draw.choices("abאבعم12٣٤+-$%,.:/ !&()[]{}\t⟨⟩", k=draw.randint(1, 14))).rstrip()
        for rtl in (False, True) if text else ():
            found = (ctypes.c_int8 * len(text))()
            codes, base = (ctypes.c_uint32 * len(text))(*map(ord, text)), ctypes.c_int(0x111 if rtl else 0x110)
            fribidi.fribidi_log2vis(codes, len(text), ctypes.byref(base), None, None, None, found)
            assert levels(text, rtl) == bytes(found), (text, rtl)


@given(st.lists(st.integers(0, 4), max_size=30))
def test_visual_order_is_a_permutation_that_turns_only_odd_runs(depth: list[int]) -> None:
    order = visual_order(depth)
    assert sorted(order) == list(range(len(depth)))
    if all(level == 1 for level in depth):
        assert order == list(range(len(depth)))[::-1]
    if all(level % 2 == 0 for level in depth):
        assert order[:1] == ([0] if depth and depth[0] == min(depth) else order[:1])


_PARTS = [ARABIC, HINDI, THAI, " ", "   ", "\t", "א(ב)", "x" * 90, "क्ष", "\ud800", "\u0650" * 30]


@given(st.lists(st.sampled_from(_PARTS), max_size=25))
def test_spans_cover_the_text_and_ink_stays_on_the_page(parts: list[str]) -> None:
    text = "".join(parts)
    pages = list(lay_out_shaped(text, GRID))
    assert [page.char_start for page in pages] == [0, *(page.char_end for page in pages)][: len(pages)]
    assert (pages[-1].char_end if pages else 0) == len(text)
    assert sum(page.uncovered for page in pages) == sum(font_of(c) == ESCAPE for c in text if c not in " \t\n")
    for page in pages:
        assert 0 < len(page.lines) <= lines_per_page(GRID)
        assert page.char_end - page.char_start <= 2 * GRID.cells
        assert lines_from_json(to_json(page.lines)) == page.lines
        assert all(x >= 0 for line in page.lines for x, *_ in line.pieces)


def test_the_layout_is_the_same_in_every_mode_and_pixels_are_repeatable() -> None:
    page = next(lay_out_shaped(ARABIC * 9, GRID))
    small, large = render_shaped(page, GRID, 640), render_shaped(page, GRID, 1280)
    shrunk = large.reshape(640, 2, 640, 2).mean((1, 3))
    assert _overlap(small, shrunk) > 0.75
    assert np.array_equal(small, render_shaped(page, GRID, 640))


def test_a_character_without_a_font_is_drawn_as_a_gray_escape_and_counted() -> None:
    assert font_of("😀") == ESCAPE and font_of("漢") == BITMAPS and font_of("x") == MONO
    assert [run.text for run in split_by_font("م😀")] == ["م", "⟨1f600⟩"]
    (page,) = lay_out_shaped("م 😀", GRID)
    assert page.uncovered == 1
    drawn = render_shaped(page, GRID, 640)
    escape_side, letter_side = drawn[:, :600], drawn[:, 600:]
    assert letter_side.min() < 40 and 90 <= escape_side.min() < 160


def test_line_feeds_are_gray_boxes() -> None:
    with_box = render_shaped(next(lay_out_shaped("م\nم", GRID)), GRID, 640)
    assert (with_box == 255 - 105).sum() > 200


@pytest.mark.parametrize(
    "text", ["م" + "\u0650" * 300_000, "ا" * 300_000, "شكرا " * 60_000, " " * 300_000, "(a)א" * 50_000], ids=range(5)
)
def test_large_texts_take_seconds(text: str) -> None:
    start = time.process_time()
    pages = list(lay_out_shaped(text, Grid(128, 64)))
    assert time.process_time() - start < 15
    assert pages[-1].char_end == len(text)


def test_direction_and_path_follow_the_text() -> None:
    assert is_rtl("שלום abc שלום") and not is_rtl("abc שלום abcdefgh") and not is_rtl("")
    assert needs_shaping(HINDI) and needs_shaping("שלום") and not needs_shaping("plain é 漢字 жзи") and not needs_shaping("")
