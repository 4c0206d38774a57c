"""Layout `document`: pages cover the text, are self-contained, are broken alike in every mode, and lose no ink."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.config import ConfigError, LayoutConfig, parse
from palimpsest.errors import UsageError
from palimpsest.lab.bench import raqm
from palimpsest.lab.bench.render import invented_text
from palimpsest.pages import typesetting
from palimpsest.pages.fonts import FONTS, find_cjk, font_bytes
from palimpsest.pages.layouts.document import DocumentLayout
from palimpsest.pages.layouts.grid import Grid
from palimpsest.pages.layouts.protocol import Layout, page_id
from palimpsest.pages.layouts.registry import layout_of_row, make_layout
from palimpsest.pages.line_breaks import line_breaks
from palimpsest.pages.normalise import normalise
from palimpsest.pages.unicode_data import code_points
from palimpsest.pages.words import MONO, SANS, SCRIPT_FONTS, fonts_of

ENGLISH = "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience.\n"
ARABIC = "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق. (1948) English ٣٤\n"
HINDI = "सभी मनुष्यों को गौरव और अधिकारों के मामले में स्वतन्त्रता प्राप्त है।\n"
THAI = "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ\n"
CODE = "def f(x):\n    if x:\n        return [number for number in range(1000) if number % 7 == 0 and number not in (1, 2, x)]\n"
LAYOUT = DocumentLayout()
LARGE = DocumentLayout(font_size=60, padding=40, line_spacing=15)
LAYOUTS: list[Layout] = [Grid(32, 16), LAYOUT, LARGE, DocumentLayout(newline="glyph"), DocumentLayout(font="mono")]

_PARTS = [
    ENGLISH,
    ARABIC,
    HINDI,
    THAI,
    CODE,
    " ",
    "   ",
    "\t",
    "\n\n",
    "א(ב)",
    "x" * 300,
    "क्ष",
    "\ud800",
    "e\u0301" * 40,
    "漢字",
    "well-known ",
]
_TEXTS = st.lists(st.sampled_from(_PARTS), max_size=40).map("".join).map(normalise)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@given(text=_TEXTS)
def test_every_layout_keeps_its_contract(layout: Layout, text: str) -> None:
    pages = list(layout.paginate(text, "prose"))
    assert [page.char_start for page in pages] == [0, *(page.char_end for page in pages)][: len(pages)]
    assert (pages[-1].char_end if pages else 0) == len(text)
    for page in pages:
        own = text[page.char_start : page.char_end]
        assert layout.lay_out_again(own, "prose") == page._replace(char_start=0, char_end=len(own))
        assert "".join(layout.shown(own, page.drawing).split()).replace("¶", "") == "".join(own.split())


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_pages_are_drawn_in_their_order_into_what_is_given(layout: Layout) -> None:
    texts = [ENGLISH, ENGLISH * 2, "x"]
    drawings = [next(layout.paginate(text, "prose")).drawing for text in texts]
    texts = [text[: next(layout.paginate(text, "prose")).char_end] for text in texts]
    out = np.zeros((3, 640, 640), np.uint8)
    assert layout.render(texts, drawings, 640, out) is out
    for text, drawing, image in zip(texts, drawings, out, strict=True):
        assert np.array_equal(layout.render([text], [drawing], 640)[0], image)
        assert image.min() < 60 and image.max() == 255


def test_identities_change_with_what_changes_a_page() -> None:
    assert len({layout.identity for layout in (*LAYOUTS, Grid(32, 16, "latin"), DocumentLayout(line_spacing=5))}) == 7
    assert DocumentLayout().identity == LAYOUT.identity
    ids = {page_id("doc", 0, "a"), page_id("doc", 1, "a"), page_id("other", 0, "a"), page_id("doc", 0, "b")}
    assert len(ids) == 4 and page_id("doc", 0, "a") in ids


def test_a_layout_is_found_by_name_and_from_a_stored_page() -> None:
    for layout in LAYOUTS:
        columns, rows = (layout.sizes or ((None, None),))[0]
        row = {"layout": layout.described, "grid_w": columns, "grid_h": rows}
        assert layout_of_row(row, "unicode") == layout
    settings = LayoutConfig(name="document", font_size=20, cjk_font="none")
    assert make_layout(settings) == DocumentLayout(font_size=20)
    with pytest.raises(UsageError, match="'codec': choose one of grid, document"):
        make_layout(LayoutConfig())
    with pytest.raises(UsageError, match="this version knows grid, document"):
        layout_of_row({"layout": "scroll 3", "grid_w": None, "grid_h": None}, "unicode")
    with pytest.raises(ConfigError, match="half of layout.font_size"):
        parse({"layout": {"padding": 3}})


def test_lines_break_at_words_and_paragraphs_are_kept() -> None:
    text = "Everyone has the right to life, liberty and the security of person. " * 2 + "No one is left.\nArticle 4\n"
    (page,) = LAYOUT.paginate(text, "prose")
    assert [line.split()[0] for line in LAYOUT.shown(text, page.drawing).split("\n")] == ["Everyone", "security", "Article"]
    flowing = DocumentLayout(newline="glyph")
    (page,) = flowing.paginate(text, "prose")
    assert "is left.¶ Article 4¶" in flowing.shown(text, page.drawing)


def test_code_is_monospaced_and_its_long_lines_hang() -> None:
    def left_ink(text_class: str) -> list[int]:
        (page,) = LAYOUT.paginate(CODE, text_class)
        image = LAYOUT.render([CODE], [page.drawing], 900)[0]
        lines = [image[20 + 20 * line : 40 + 20 * line] for line in range(4)]
        return [int(np.flatnonzero((line < 128).any(0))[0]) for line in lines]

    code = left_ink("code")
    step = 16 * fonts_of(True, None).space / 1000
    assert np.allclose(np.diff(code), [4 * step, 4 * step, 2 * step], atol=3)  # def, if, return, and the rest of return


@pytest.mark.parametrize("text", [ENGLISH, ARABIC, HINDI, THAI], ids=["english", "arabic", "hindi", "thai"])
def test_breaks_are_the_same_in_every_mode(text: str) -> None:
    text = normalise(text * 9)
    page = next(LAYOUT.paginate(text, "prose"))
    own = text[: page.char_end]
    small, large = LAYOUT.render([own], [page.drawing], 640)[0], LAYOUT.render([own], [page.drawing], 1280)[0]
    assert _overlap(small, large.reshape(640, 2, 640, 2).mean((1, 3)).astype(np.uint8)) > 0.5


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Ink that two pages share over ink that either has."""
    ink_a, ink_b = 255.0 - a, 255.0 - b
    return float(np.minimum(ink_a, ink_b).sum() / np.maximum(ink_a, ink_b).sum())


@pytest.mark.parametrize("script", ["latin", "arabic", "hebrew", "devanagari"])
def test_lines_look_as_pillow_draws_them(script: str) -> None:
    """The ink of each line, cut out of both pages: the same glyphs in the same order have about the same columns of ink."""
    text = normalise(invented_text(script, 60))
    page = next(LARGE.paginate(text, "prose"))
    own = text[: page.char_end]
    lines = LARGE.shown(own, page.drawing).split("\n")[:3]
    image = LARGE.render([own], [page.drawing], 1280)[0]
    pitch = round(1280 * 75 / 900)
    for number, line in enumerate(lines[:1]):
        reference = raqm.draw_lines([line], script, LARGE, 1280)
        ours = _columns(image[round(1280 * 40 / 900) + number * pitch :][:pitch])
        theirs = _columns(reference)
        assert len(ours) == pytest.approx(len(theirs), rel=0.01)
        same = np.corrcoef(np.resize(ours, 600), np.resize(theirs, 600))[0, 1]
        turned = np.corrcoef(np.resize(ours[::-1], 600), np.resize(theirs, 600))[0, 1]
        assert same > 0.5 > turned


def _columns(image: np.ndarray) -> np.ndarray:
    ink = (255.0 - image).sum(0)
    found = np.flatnonzero(ink)
    return ink[found[0] : found[-1] + 1]


def test_missing_raqm_is_named_with_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import features

    monkeypatch.setattr(features, "check", lambda feature: feature != "fribidi")
    with pytest.raises(RuntimeError, match="no fribidi: install the system package libfribidi0"):
        raqm.require_raqm()


@pytest.mark.parametrize("font", [SANS, MONO, *SCRIPT_FONTS])
def test_no_covered_character_is_cut_blank_or_missing(font: str) -> None:
    """Every character that a font draws: its ink on a page, against its ink alone on nothing."""
    fonts = fonts_of(font == MONO, None)
    number = fonts.names.index(font)
    chars = [chr(code) for code in sorted(fonts._cmap(number)) if code > 32 and fonts.font_of(chr(code)) == number]
    chars = [char for char in chars if normalise(char) == char]
    layout = DocumentLayout(font="mono" if font == MONO else "sans")
    for start in range(0, len(chars), 400):
        text = " ".join(chars[start : start + 400]) + "\n"
        for page in layout.paginate(text, "prose"):
            own = text[page.char_start : page.char_end]
            assert page.escaped == 0
            drawn = 255.0 - layout.render([own], [page.drawing], 1024)[0]
            alone = [fonts.ink(fonts.measure(char), 1024 * 16 / 900, "zh").coverage for char in own.split()]
            assert all(coverage.size and coverage.max() > 40 for coverage in alone), own
            expected = sum(float(coverage.sum()) for coverage in alone)
            assert drawn.sum() > 0.93 * expected  # ink of neighbours and of marks in the next line overlaps a little


def test_cjk_has_the_face_of_its_language_and_no_page_without_the_font() -> None:
    cjk = find_cjk("auto")
    if cjk is None:
        pytest.skip("no Noto Sans CJK: install palimpsest[cjk] or Debian's fonts-noto-cjk")
    layout = DocumentLayout(cjk=cjk)
    chinese, japanese = "直\n" * 3, "直\nの\n直\n"
    drawn = [layout.render([text], [next(layout.paginate(text, "prose")).drawing], 1024)[0] for text in (chinese, japanese)]
    assert not np.array_equal(drawn[0][20:48], drawn[1][20:48])  # the two faces differ in this character
    assert layout.paginate(chinese, "prose").__next__().escaped == 0
    bare = DocumentLayout()
    assert next(bare.paginate(chinese, "prose")).escaped == 3 and bare.uncovered(chinese) == ["CJK"]
    assert layout.identity != bare.identity
    with pytest.raises(UsageError, match="no font with sha256 abc here; install palimpsest"):
        find_cjk("auto", "abc")


def test_lines_of_full_width_characters_are_cells_side_by_side() -> None:
    """Alone on whole pixels, with others as they are: no ink is lost in any line, and each line has the ink of its characters."""
    cjk = find_cjk("auto")
    if cjk is None:
        pytest.skip("no Noto Sans CJK: install palimpsest[cjk] or Debian's fonts-noto-cjk")
    layout = DocumentLayout(cjk=cjk)
    lines = ["人人生而自由，在尊嚴和權利上一律平等。", "他們賦有理性和良心", "第 1 條 abc 人人有權", "，", "「人」（權）", "x 人"]
    for px in (512, 640, 1024, 1280):
        em = 16 * px / 900
        fonts = fonts_of(False, cjk)
        for line in lines:
            image = layout.render([line + "\n"], [next(layout.paginate(line + "\n", "prose")).drawing], px)[0]
            alone = sum(float(fonts.ink(fonts.measure(char), em, "zh").coverage.sum()) for char in line if char != " ")
            assert (255.0 - image).sum() == pytest.approx(alone, rel=0.03)
    text = lines[1] * 12
    image = layout.render([text], [next(layout.paginate(text, "prose")).drawing], 1024)[0]
    first = image[:48, 23 : 23 + 18 * 45]
    assert np.array_equal(first[:, : 18 * 9], first[:, 18 * 9 : 18 * 18]) and first.min() == 0


def test_a_last_word_without_a_blank_is_drawn_where_one_with_a_blank_is() -> None:
    """Also where it is written from right to left in characters of a high plane: Hebrew presentation forms, Adlam."""
    for word in ("hello", "שלום", "\ufb2a\u05dc\u05d5\u05dd", "\U0001e900\U0001e901", "\ufef7"):
        images = [
            LAYOUT.render([text], [next(LAYOUT.paginate(text, "prose")).drawing], 1024)[0]
            for text in (word, word + " ", word + "\n")
        ]
        assert np.array_equal(images[0], images[1]) and np.array_equal(images[0], images[2])


def test_a_font_that_is_missing_damaged_or_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"layout.cjk_font = '.*absent.ttc': cannot be read"):
        find_cjk(str(tmp_path / "absent.ttc"))
    (tmp_path / "bad.ttc").write_bytes(b"no font")
    with pytest.raises(UsageError, match="is no TrueType or OpenType font"):
        find_cjk(str(tmp_path / "bad.ttc"))
    assert find_cjk("none") is None
    monkeypatch.setitem(FONTS, "gone.ttf", FONTS[SANS])
    with pytest.raises(RuntimeError, match="font gone.ttf cannot be read"):
        font_bytes("gone.ttf")


def test_an_uncovered_character_is_written_as_its_code_point_and_counted() -> None:
    (page,) = LAYOUT.paginate("a\U000e0001b \ue000\n", "prose")
    assert page.escaped == 2
    assert LAYOUT.uncovered("a\U000130b8") == ["EGYPTIAN"]


@pytest.mark.parametrize(
    "text",
    [
        "a" + "\u0301" * 1_000_000,
        "a" * 1_000_000,
        "شكرا " * 100_000,
        " " * 1_000_000,
        "(a)א" * 50_000,
        "漢" * 200_000,
        "\n" * 200_000,
    ],
    ids=["a million marks", "a word longer than a page", "arabic", "spaces", "mixed", "ideographs", "newlines"],
)
def test_large_texts_take_seconds(text: str) -> None:
    start = time.process_time()
    pages = list(LAYOUT.paginate(text, "prose"))
    assert time.process_time() - start < 30
    assert pages[-1].char_end == len(text)
    own = text[pages[0].char_start : pages[0].char_end]
    assert LAYOUT.render([own], [pages[0].drawing], 512).shape == (1, 512, 512)


@given(_TEXTS, st.integers(600, 3000))
def test_pages_do_not_depend_on_how_much_is_measured_at_a_time(text: str, chunk: int) -> None:
    whole = list(LARGE.paginate(text, "prose"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typesetting, "_CHUNK", chunk)
        assert list(LARGE.paginate(text, "prose")) == whole


_ENGLISH_BREAKS = "The cost (1948) is $5,000.50 — or 5%; see “this” (and that)!\nA well-known fact: 3/4, x=y. 'Tis /usr/bin -v"
_BREAKS = {
    "english": _ENGLISH_BREAKS,
    "french": "« Bonjour ! » dit-il : l'ami.",
    "chinese": "世界人权宣言，“第一条”（人人）生而自由、平等。3个",
    "russian": "Привет, мир! №5 — да.",
    "hindi": "नमस्ते दुनिया। यह है।",
}


@pytest.mark.parametrize("text", _BREAKS.values(), ids=_BREAKS)
def test_breaks_are_those_of_the_annex(text: str) -> None:
    uniseg = pytest.importorskip("uniseg.linebreak")
    found = np.flatnonzero(line_breaks(code_points(text))).tolist()
    assert found[1:] == list(uniseg.line_break_boundaries(text))[-len(found[1:]) :]
    assert len(found) - 1 in (len(list(uniseg.line_break_boundaries(text))), len(list(uniseg.line_break_boundaries(text))) - 1)
