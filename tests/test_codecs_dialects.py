"""What decoders write around a page's text is undone, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.codecs.dialects import DIALECTS, find_dialect
from palimpsest.codecs.presets import PRESETS
from palimpsest.verification.reading import Cut, Decoded
from palimpsest.verification.verdict import judge

DOCUMENT, PLAIN = find_dialect("document"), find_dialect("plain")


@pytest.mark.parametrize(
    ("written", "page"),
    [
        ("## Rivers of the north\n\nThe **long** one is *cold*.", "Rivers of the north The long one is cold."),
        ("joined as it is shown.\\( ^{14} \\) Then", "joined as it is shown.14 Then"),
        ("\\( H_{2}O \\) at 4\\,\\( ^{\\circ} \\)C", None),
        ("water is \\(H_{2}O\\)", "water is H2O"),
        ("about \\( 3 \\times 10^{-6} \\) m", "about 3 × 10-6 m"),
        ("half is \\( \\frac{1}{2} \\), \\[ \\alpha \\leq \\text{one} \\]", "half is 1/2, α ≤ one"),
        ("note$^{3}$ and $_2$", "note3 and2"),
        ("<|ref|>title<|/ref|><|det|>[[10, 20, 300, 40]]<|/det|>\n# Contents\n", "Contents"),
        ("<|det|>12 34 56 78<|/det|>Contents", "Contents"),
        ("<table><tr><td>ab</td><td>cd</td></tr><tr><td>ef</td><td>gh</td></tr></table>", "ab cd ef gh"),
        ("| ab | cd |\n|:---|---:|\n| ef | gh |", "ab cd ef gh"),
        ("```python\nprint(1)\n```", "print(1)"),
        ("see [the list](https://example.org/list) &amp; more", "see the list & more"),
        ("one \\* two\\_three", "one * two_three"),
        ("the ac- quired lines", "the ac-\nquired lines"),
        ("the ac-quired lines", "the ac-\nquired lines"),
        ("first final office", "ﬁrst ﬁnal oﬃce"),
        ("lines\nbroken elsewhere", "lines broken\nelsewhere"),
    ],
)
def test_markup_is_no_misread_letter(written: str, page: str | None) -> None:
    if page is None:
        assert "\\" not in DOCUMENT.undo(written.replace("\\,", " "), "")
        return
    assert DOCUMENT.fold(DOCUMENT.undo(written, page)).text == DOCUMENT.fold(page).text


@pytest.mark.parametrize(
    "page",
    [
        "# a comment\nx = 2 ** 3 ** 2  # and **kwargs",
        "**bold** in Markdown source, `code`, [a](https://b) and \\( x^2 \\)",
        "| a | b |\n|---|---|\n| 1 | 2 |",
        "<table><tr><td>HTML</td></tr></table> &amp; entities",
        "it costs $5 and then $7; a_b_c stays, 3 - 4 too",
        "well-known, 3-4, end- 5",
    ],
)
def test_what_the_page_itself_says_is_compared_as_it_is(page: str) -> None:
    assert DOCUMENT.undo(page, page) == page
    for place in range(len(page)):
        if page[place].isalnum():
            wrong = page[:place] + ("x" if page[place] != "x" else "y") + page[place + 1 :]
            assert DOCUMENT.fold(DOCUMENT.undo(wrong, page)).text != DOCUMENT.fold(page).text


@given(text=st.text(st.characters(codec="utf-8") | st.sampled_from("ab- \n\tﬁ"), max_size=60))
def test_folding_knows_where_every_character_comes_from(text: str) -> None:
    for dialect in DIALECTS.values():
        folded = dialect.fold(text)
        assert len(folded.origin) == len(folded.text) and folded.origin == sorted(folded.origin)
        assert all(0 <= place < len(text) for place in folded.origin)
        assert dialect.fold(folded.text).text == folded.text
        assert all(
            a == text[place] or a == " " or text[place] in "ﬀﬁﬂﬃﬄﬅﬆ" for a, place in zip(folded.text, folded.origin, strict=True)
        )
    assert PLAIN.fold(text).text == " ".join(text.split())


def test_the_verdict_is_under_the_dialect() -> None:
    page = "The ﬁrst of many-\nlined pages.12 It ends\nhere."
    written = "**The first** of many-lined pages.\\( ^{12} \\) It ends hera."
    read = Decoded(ids=(5, 1), passes=1, disagreements=0, stopped="eos")
    under = {"dialect": DOCUMENT, "target_precision": 0.97}
    (folded,) = judge([page], [written], [read], score="folded", **under)  # type: ignore[arg-type]
    (raw,) = judge([page], [written], [read], score="raw", **under)  # type: ignore[arg-type]
    assert folded.status == "verified" and raw.status == "below_target" and raw.precision == folded.precision < 0.8
    assert folded.folded_precision is not None and 0.97 < folded.folded_precision < 1 and not folded.exact
    assert [page[span["start"] : span["end"]] for span in folded.misread or []] == ["e"] and folded.decoded_text == written
    (right,) = judge([page], [written.replace("hera", "here")], [read], **under)  # type: ignore[arg-type]
    assert right.exact and right.misread == [] and right.folded_precision == 1 and right.status == "below_target"
    (plain,) = judge([page], [page], [read], target_precision=1)
    assert plain.exact and plain.decoded_text is None
    cut = Decoded(ids=(5,), passes=1, disagreements=0, stopped="length", cut=Cut(length=1, reason="length"))
    assert judge([page], [page], [cut], target_precision=0.5)[0].status == "unfinished"


def test_every_preset_has_a_dialect() -> None:
    assert {name: preset.dialect for name, preset in PRESETS.items() if preset.dialect == "plain"} == {"embedded": "plain"}
    assert all(find_dialect(preset.dialect) for preset in PRESETS.values())
    with pytest.raises(ValueError, match=r"codec.dialect = 'latin': choose one of plain, document"):
        find_dialect("latin")
