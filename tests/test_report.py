"""The report on real corpora: what a browser and a terminal would get."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from palimpsest.corpus.format import create_corpus
from palimpsest.corpus.snapshots import publish
from palimpsest.report import html as html_module
from palimpsest.report.gallery import choose
from palimpsest.report.html import from_first_difference, report_html
from palimpsest.report.inspect_page import NoSuchPage, head, page_view, readable
from palimpsest.report.printable import preview, printable
from palimpsest.report.summary import summarise
from palimpsest.report.text_tables import page_panel, summary_table
from palimpsest.storage.local_store import LocalStore
from palimpsest.verification import fidelity
from tests.report_corpora import Built, corpus, mixed, page, text_page

__all__ = ["mixed"]  # the fixture

EVIL = "<script>alert(1)</script>\"></svg>'><img src=x onerror=alert(2)>[bold]\x1b[31m"


def stripes(row: dict[str, Any]) -> np.ndarray | None:
    """A page image without a font: dark rows as many as its text has lines; none for pages kept as text."""
    if row["image_px"] is None:
        return None
    image = np.full((row["image_px"], row["image_px"]), 255, np.uint8)
    image[10 : 10 + 20 * (1 + row["text"].count("\n")) : 20] = 0
    return image


def test_a_page_is_found_by_its_id_or_the_beginning_of_it(mixed: Built) -> None:
    view = page_view(*mixed, "p2", stripes)
    assert view.row["page_id"] == "p2" and view.decoded == "012345678x" and "tokens" not in view.row
    assert view.image is not None and view.image.shape == (512, 512) and view.token_grid == 8
    assert view.ratio == pytest.approx(200 / 73)
    assert [(span.tag, span.reference, span.decoded) for span in view.spans] == [
        ("equal", "012345678", "012345678"),
        ("replace", "9", "x"),
    ]
    exact = page_view(*mixed, "p1", stripes)
    assert exact.decoded == exact.text and all(span.tag == "equal" for span in exact.spans)
    assert page_view(*mixed, "u", stripes).decoded is None
    kept = page_view(*mixed, "t", stripes)
    assert (kept.image, kept.ratio, kept.token_grid, kept.spans) == (None, 1.0, None, ())
    with pytest.raises(NoSuchPage, match=r"'p' is the beginning of several: p1, p2, p3"):
        page_view(*mixed, "p", stripes)
    with pytest.raises(NoSuchPage, match=r"'zz'.*snapshot 1 has 7 pages"):
        page_view(*mixed, "zz", stripes)
    with pytest.raises(ValueError, match=r"page p1 is float64 \[2, 2\], expected uint8"):
        page_view(*mixed, "p1", lambda row: np.zeros((2, 2)))


@given(st.text("ab \n", max_size=40), st.text("ab \n", max_size=40), st.integers(1, 50))
def test_spans_for_the_eye_still_hold_both_texts(reference: str, decoded: str, limit: int) -> None:
    spans = readable(fidelity.diff_spans(reference, decoded))
    assert "".join(span.reference for span in spans) == reference
    assert "".join(span.decoded for span in spans) == decoded
    assert all(span.tag != "equal" or span.reference == span.decoded for span in spans)
    shown, cut = head(spans, limit)
    assert reference.startswith("".join(span.reference for span in shown))
    assert decoded.startswith("".join(span.decoded for span in shown))
    assert cut or "".join(span.reference for span in shown) == reference


def test_the_gallery_takes_the_worst_the_median_and_the_best(tmp_path: Path) -> None:
    pages = [page(f"p{n}", "0123456789", "0123456789"[:n]) for n in (3, 5, 6, 9)] + [page("p7", "0123456789", "0123456")]
    chosen = [(role, point.page_id) for role, point in choose(summarise(*corpus(tmp_path, pages)))]
    assert chosen == [("worst of prose", "p3"), ("median of prose", "p6"), ("best of prose", "p9")]


class Reader(HTMLParser):
    """Checks that tags balance, and collects what a browser would act on."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        raw = self.get_starttag_text() or ""
        if tag not in ("meta", "img", "input", "br") and not raw.endswith("/>"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def check_harmless(html: str) -> Reader:
    """Valid, no script, nothing loaded from anywhere, small."""
    reader = Reader(html)
    assert not {"script", "iframe", "object", "link", "base", "form"} & set(reader.tags)
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    links = [value for name, value in reader.attributes if name in ("src", "href", "xlink:href", "action", "srcset")]
    identifiers = [value for name, value in reader.attributes if name == "id"]
    assert all(value.startswith("data:image/png;base64,") or value.lstrip("#") in identifiers for value in links)
    assert not re.search(r"url\(|@import", html)
    assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in reader.attributes
    assert len(identifiers) == len(set(identifiers))
    assert len(html.encode()) < 5_000_000
    return reader


def test_the_report_shows_its_figures(mixed: Built) -> None:
    store, snapshot = mixed
    stats = {"pages_per_second": 3.21, "seconds": 100.0, "total_seconds": 130.0}
    store.put("runs/run-1/stats.json", json.dumps(stats).encode())
    store.put("runs/run-1/config.toml", b'sources = ["<in>"]\n')
    html = report_html(store, snapshot, stripes, title="My corpus")
    reader = check_harmless(html)
    text = " ".join(" ".join(reader.text).split())
    for expected in (
        "My corpus",
        "2.10×",
        "72.00%",
        "3.21",
        "2 min 10 s in all",
        "invalid_utf8",
        "abc\\xff\\x00\\x1b[31m",
        "95% interval",
        "in.txt",
        "other.txt",
        "The worst pages",
        "Pages kept as text",
    ):
        assert expected in text
    assert 'sources = ["<in>"]' in text and "Read, or guessed?" in text
    assert reader.tags.count("img") == 5, "one image for each of the pages chosen, none for pages that stand twice"
    assert re.search(r"<mark>9</mark>.*<mark>x</mark>", html, re.DOTALL)
    assert report_html(store, snapshot, stripes, title="My corpus") == html


def test_nothing_in_a_document_can_act(tmp_path: Path) -> None:
    pages = [
        page(EVIL, EVIL * 3, EVIL.replace("script", "scrypt"), kind=EVIL, codec=EVIL, codec_revision=EVIL, reason=EVIL),
        page("p2", EVIL, kind="prose"),
    ]
    broken = [{"source_uri": EVIL, "source_id": EVIL, "reason": EVIL, "detail": EVIL, "record": EVIL.encode()}]
    store, snapshot = corpus(tmp_path, pages, broken)
    store.put("runs/run-1/config.toml", EVIL.encode())
    store.put("runs/run-1/environment.json", json.dumps({EVIL: {EVIL: EVIL}}).encode())
    html = report_html(store, snapshot, stripes, title=EVIL)
    check_harmless(html)
    assert "<script" not in html and "<img src=x" not in html and "&lt;script&gt;" in html
    console = Console(width=400, record=True, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(summary_table(summarise(store, snapshot)))
        console.print(page_panel(page_view(store, snapshot, "p2", stripes)))
    shown = capture.get()
    assert "\x1b" not in shown and "[bold]" in shown and "\\x1b[31m" in shown


def test_reports_without_pages_without_tokens_and_with_nothing_read(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "empty")
    create_corpus(store)
    empty = check_harmless(report_html(store, publish(store, "run-1", []), stripes))
    assert "This corpus holds no pages." in empty.text
    broken = [{"source_uri": "in", "reason": "null_text"}]
    lost = check_harmless(report_html(*corpus(tmp_path / "lost", [], broken), stripes))
    assert any("records are all quarantined" in text for text in lost.text) and "null_text" in lost.text
    kept = check_harmless(report_html(*corpus(tmp_path / "kept", [text_page("t1", "text")]), stripes))
    assert any("kept as text" in text for text in kept.text) and "svg" not in kept.tags
    unread = page("p", "x", precision=None, word_precision=None, exact=None, decoder_passes=None, status="unverified")
    unknown = check_harmless(report_html(*corpus(tmp_path / "unread", [unread]), stripes))
    assert any("no page was decoded" in text for text in unknown.text)
    perfect = check_harmless(report_html(*corpus(tmp_path / "perfect", [page("p", "read")]), stripes))
    assert any("reads every character right" in text for text in perfect.text) and perfect.tags.count("svg") == 3
    for name in ("empty", "lost", "kept", "unread", "perfect"):
        store = LocalStore(tmp_path / name)
        console = Console(width=120)
        with console.capture() as capture:
            console.print(summary_table(summarise(store, publish(store, "run-1", []))))
        assert "documents" in capture.get()


def test_images_that_would_make_the_report_too_large_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palimpsest.report.gallery.IMAGE_BUDGET", 600_000)
    rng = np.random.default_rng(0)  # noise: 262 kB a page, whatever the compression
    pages = [page(f"p{n}", "0123456789", "0123456789"[:n], kind=f"class {n % 4}") for n in range(10)]
    html = report_html(*corpus(tmp_path, pages), lambda row: rng.integers(0, 256, (512, 512)).astype(np.uint8))
    reader = check_harmless(html)
    assert reader.tags.count("img") == 2 and any("left out" in text for text in reader.text)


def test_the_terminal_shows_the_figures_and_the_difference(mixed: Built) -> None:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(summary_table(summarise(*mixed)))
        console.print(page_panel(page_view(*mixed, "p2", stripes)))
        console.print(page_panel(page_view(*mixed, "u1", stripes)))
    shown = capture.get()
    for expected in (
        "2.74×",
        "95.00%",
        "early_stop 1",
        "invalid_utf8 2",
        "012345678[-9-]{+x+}",
        "never decoded",
    ):
        assert expected in shown


def test_misread_words_that_are_kept_are_counted_and_shown(tmp_path: Path) -> None:
    errata = [{"position": 4, "read": "<b>7f3b", "written": "7f3a"}]
    store, snapshot = corpus(tmp_path / "c", [page("p1", "the 7f3a", "the <b>7f3b", errata=errata), page("p2", "plain")])
    summary = summarise(store, snapshot)
    group = summary.groups[0]
    assert (group.errata_pages, group.errata_words) == (1, 1) and 5 < group.errata_tokens < 25
    assert group.set_precision == pytest.approx(0.75)
    html = report_html(store, snapshot, stripes, summary=summary)
    check_harmless(html)
    assert "misread words kept as text" in html and "[errata: &lt;b&gt;7f3b → 7f3a]" in html and "75.00%" in html
    console = Console(width=200, record=True)
    console.print(summary_table(summary))
    assert "1 misread words kept with 1 pages" in console.export_text()


def test_every_quarantined_source_is_in_the_report_below_its_reason(tmp_path: Path) -> None:
    broken = [{"source_uri": f"in/{n:03}.jsonl", "reason": "invalid_json", "detail": f"line {n}"} for n in range(60)]
    html = report_html(*corpus(tmp_path, [page("p", "read")], broken), stripes)
    assert all(f"in/{n:03}.jsonl" in html and f"line {n}" in html for n in range(60))
    assert "60 records of 60 sources" in html


def test_the_first_difference_of_a_long_page_is_in_view() -> None:
    text = "same " * 1000
    spans, skipped = from_first_difference(fidelity.diff_spans(text + "end", text + "eNd"))
    assert skipped > 4000 and len(spans[0].reference) + skipped == len(text) + 1
    assert from_first_difference(fidelity.diff_spans("same end", "same eNd"))[1] == 0


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2.2 between two colours #rrggbb."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_enough_contrast(scheme: int) -> None:
    css = (Path(html_module.__file__).parent / "templates" / "report.css").read_text("utf-8")
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", css.split("@media (prefers-color-scheme: dark)")[scheme]))
    for name in ("ink", "soft", "faint", "accent", *(f"c{n}" for n in range(8))):
        assert min(contrast(colours[name], colours[ground]) for ground in ("paper", "sheet")) >= 4.5, name
    for name in ("del", "ins", "rep"):
        assert contrast(colours[name], colours[f"{name}-bg"]) >= 4.5, name


def test_printable_shows_what_hides() -> None:
    assert printable("a\u202eb\x00\n") == "a\\u202eb\\x00\n" and printable("a\n", keep="") == "a\\n"
    assert printable("می\u200cخواهم 漢字 é") == "می\u200cخواهم 漢字 é"
    assert preview(b"\xff{\n" + b"x" * 300, 5) == "\\xff{\\nxx …"
