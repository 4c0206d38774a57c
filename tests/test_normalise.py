import time

import pytest
import unicodedata2
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.pages.normalise import _CHANGES, normalise


@pytest.mark.parametrize(
    ("raw", "becomes"),
    [
        ("plain ASCII\n\tand a tab", "plain ASCII\n\tand a tab"),
        ("e\u0301", "é"),
        ("ﬁ ² Ａ", "ﬁ ² Ａ"),  # NFC, not NFKC
        ("a\r\nb\rc\x0bd\x0ce\x85f\u2028g\u2029h", "a\nb\nc\nd\ne\nf\ng\nh"),
        ("\r\r\n\n", "\n\n\n"),
        ("a\xa0b\u2003c\u202fd\u3000e", "a b c d e"),
        ("\ufeffa\u200bb\xadc\u2060d\u200ee\u202af\u2069g\u061ch", "abcdefgh"),
        ("☀\ufe0f ︎x\U000e0101", "☀ x"),
        ("a\u200db\u200cc", "abc"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"),
        ("\u0915\u094d\u200d\u0937", "\u0915\u094d\u200d\u0937"),
        ("👩\u200d💻", "👩\u200d💻"),
        ("🐈\u200d⬛ 🙂\u200d↔\ufe0f", "🐈\u200d⬛ 🙂\u200d↔"),
        *(  # Javanese, Balinese, Tibetan, Tirhuta and Brahmi
            (text, text)
            for text in ("ꦏ\u200dꦏ", "ᬓ\u200dᬓ", "ཀ\u200dཀ", "\U0001148f\u200d\U0001148f", "\U00011013\u200c\U00011013")
        ),
        ("\u0915\u200d and \u200d\u0915", "\u0915 and \u0915"),
        ("a\u200b\u0301", "á"),  # what is deleted may stand between what composes
        ("nul \x00 bell \x07 \ue000 \ud800", "nul \x00 bell \x07 \ue000 \ud800"),
    ],
)
def test_each_class_becomes_what_the_rule_says(raw: str, becomes: str) -> None:
    assert normalise(raw) == becomes


_ANY = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from("ae \r\n\t\xa0\xad\u0301\u0316\u0323\u0f73\u0344\u1100\u1161"),
        st.sampled_from("\u200b\u200c\u200d\u0915\u0645\u2028\ufeff👩"),
        st.characters(categories=["Cs"]),
    ),
    max_size=80,
)


@given(_ANY)
def test_normalising_is_idempotent_and_gives_nfc(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert unicodedata2.normalize("NFC", once) == once


@given(st.text(st.sampled_from("a\u0301\u0316\u0323\u0345\u0344\u0f73\u0f71-"), min_size=70, max_size=300))
def test_long_runs_of_marks_get_the_order_that_nfc_gives_them(text: str) -> None:
    assert normalise(text) == unicodedata2.normalize("NFC", text)


@pytest.mark.parametrize(
    "text",
    ["a" + "\u0301\u0316" * 250_000, "\u0915" + "\u200d" * 500_000 + "\u0915", "\r\n\xa0" * 170_000],
    ids=["marks in the wrong order", "joiners", "line ends and spaces"],
)
def test_half_a_million_of_anything_takes_seconds_not_minutes(text: str) -> None:
    start = time.process_time()
    normalise(text)
    assert time.process_time() - start < 8


@pytest.mark.parametrize("before", ["a", "क", "ᄀ"])
def test_no_character_keeps_what_the_rule_changes(before: str) -> None:
    for code in range(0x80, 0x10000):
        text = normalise(before + chr(code) + "\u0301")
        assert unicodedata2.normalize("NFC", text) == text and not _CHANGES.search(text)


def test_unicode_data_are_the_pinned_ones_whatever_python_has() -> None:
    assert normalise("\U00011382\U000113c9") == "\U00011383"  # composes since Unicode 16, which Python 3.11 does not know
