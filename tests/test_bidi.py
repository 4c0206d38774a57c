import ctypes
import ctypes.util
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.pages.bidi import first_direction, levels, strengths, visual_order
from palimpsest.pages.unicode_data import code_points


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


def test_the_direction_is_that_of_the_first_strong_character() -> None:
    found = [first_direction(strengths(code_points(text))) for text in ("12 (שלום abc", "abc שלום", "12 !")]
    assert found == [True, False, None]
