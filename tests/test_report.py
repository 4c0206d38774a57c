"""The report on real corpora: its numbers against hand-computed ones, and what a browser and a terminal would get."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from pipeline.records import QUARANTINE, SHARD
from pipeline.report.gallery import choose
from pipeline.report.html import report_html
from pipeline.report.inspect_page import NoSuchPage, head, page_view, readable
from pipeline.report.measures import Measures, quantile
from pipeline.report.printable import preview, printable
from pipeline.report.summary import MAX_CLASSES, OTHER, summarise
from pipeline.report.text_tables import page_panel, summary_table
from pipeline.store.corpus import create_corpus
from pipeline.store.local import LocalStore
from pipeline.store.shards import write_quarantine, write_shards
from pipeline.store.snapshots import Snapshot, publish
from pipeline.store.units import CommitRecord, Counts, commit_unit, unit_id
from pipeline.verification import fidelity

DIM = 8
TOKENS = {"tiny": (64, 73, 512), "small": (100, 111, 640)}
EVIL = "<script>alert(1)</script>\"></svg>'><img src=x onerror=alert(2)>[bold]\x1b[31m"


def page(
    name: str, text: str, read: str | None = None, *, kind: str = "prose", mode: str = "tiny", **columns: Any
) -> dict[str, Any]:
    """A row of the contract as the flow would write it; `read` is what the decoder made of `text`, None for exactly that."""
    vision, context, px = TOKENS[mode]
    decoded = text if read is None else read
    row = {
        **{"page_id": name, "doc_id": f"d-{name}", "source_uri": "file:///in.txt", "page_number": 0, "num_pages": 1},
        **{"text": text, "num_text_tokens": 200, "text_tokenizer": "deepseek", "tier": mode, "mode": mode, "image_px": px},
        **{"num_vision_tokens": vision, "num_context_tokens": context, "tokens": bytes(vision * DIM), "token_dim": DIM},
        **{"token_dtype": "int8", "token_scales": bytes(vision * 4), "codec": "embedded", "codec_revision": "r1"},
        **{"fingerprint": "f" * 16, "text_class": kind, "decoder_passes": 1 if read is None else 3, "exact": decoded == text},
        "precision": float(fidelity.precision([text], [decoded])[0]),
        "word_precision": float(fidelity.word_precision([text], [decoded])[0]),
        "decoded_text": read,
        "status": "verified" if read is None else "below_target",
    }
    return {**row, **columns}


def text_page(name: str, text: str) -> dict[str, Any]:
    """A page that is kept as text."""
    kept = (
        "page_id",
        "doc_id",
        "source_uri",
        "page_number",
        "num_pages",
        "text",
        "num_text_tokens",
        "text_tokenizer",
        "fingerprint",
    )
    row = page(name, text)
    return {**{column: row[column] for column in kept}, "tier": "text", "status": "text", "reason": "not_covered"}


def corpus(root: Path, pages: Iterable[dict[str, Any]], broken: Iterable[dict[str, Any]] = (), duplicates: int = 0) -> Built:
    """A published corpus of one unit."""
    store = LocalStore(root)
    create_corpus(store)
    table = pa.Table.from_pylist(list(pages), schema=SHARD)
    unit = unit_id("in.txt", "v1", "", "f" * 16)
    lost = pa.Table.from_pylist([{"unit_id": unit, **row} for row in broken], schema=QUARANTINE)
    shards = write_shards(store, table, unit_id=unit, attempt="a", row_group_bytes=4000)
    documents = len(set(table["doc_id"].to_pylist()))
    counts = Counts(
        documents_in=documents + lost.num_rows + duplicates,
        documents_committed=documents,
        documents_quarantined=lost.num_rows,
        duplicates=duplicates,
        pages_in=table.num_rows,
        pages_committed=table.num_rows,
        rows=table.num_rows,
        bytes=sum(shard.bytes for shard in shards),
    )
    record = CommitRecord(
        unit_id=unit,
        run_id="run-1",
        attempt="a",
        source_uri="in.txt",
        source_version="v1",
        slice="",
        fingerprint="f" * 16,
        shards=shards,
        quarantine=write_quarantine(store, lost, unit_id=unit, attempt="a"),
        counts=counts,
    )
    return store, publish(store, "run-1", [commit_unit(store, record)])


Built = tuple[LocalStore, Snapshot]


def stripes(row: dict[str, Any]) -> np.ndarray | None:
    """A page image without a font: dark rows as many as its text has lines; none for pages kept as text."""
    if row["image_px"] is None:
        return None
    image = np.full((row["image_px"], row["image_px"]), 255, np.uint8)
    image[10 : 10 + 20 * (1 + row["text"].count("\n")) : 20] = 0
    return image


@pytest.fixture
def mixed(tmp_path: Path) -> Built:
    pages: list[dict[str, Any]] = [
        page("p1", "0123456789", blank_precision=0.25),
        page("p2", "0123456789", "012345678x"),
        page("p3", "0123456789", "01234", mode="small", status="below_target", reason="loop"),
        page("c1", "x = 1", kind="code", num_text_tokens=100),
        page("c2", "y = 2", "y", kind="code", reason="early_stop", word_precision=None, num_text_tokens=100),
        page(
            "u1",
            "never read",
            kind="code",
            precision=None,
            word_precision=None,
            exact=None,
            decoder_passes=None,
            status="unverified",
        ),
        text_page("t1", "kept as text"),
    ]
    broken: list[dict[str, Any]] = [
        {
            "source_uri": "in.txt",
            "source_id": "7",
            "reason": "invalid_utf8",
            "detail": "byte 3",
            "record": b"abc\xff\x00\x1b[31m",
        },
        {"source_uri": "in.txt", "reason": "invalid_utf8", "record": b"\xfe"},
        {"source_uri": "other.txt", "reason": "null_text"},
    ]
    return corpus(tmp_path / "corpus", pages, broken, duplicates=2)


def test_numbers_by_class_and_mode(mixed: Built) -> None:
    summary = summarise(*mixed)
    groups = {(group.text_class, group.mode): group for group in summary.groups}
    assert list(groups) == [("(none)", "text"), ("code", "tiny"), ("prose", "tiny"), ("prose", "small")]
    prose = groups["prose", "tiny"]
    assert (prose.pages, prose.text_tokens, prose.context_tokens, prose.vision_tokens) == (2, 400, 146, 128)
    assert prose.ratio == pytest.approx(400 / 146) and prose.paper_ratio == pytest.approx(400 / 128)
    assert prose.payload_bytes == 2 * 64 * (DIM + 4) and prose.text_bytes == 20
    assert prose.payload_bytes_per_text_token == pytest.approx(1536 / 400)
    spread = prose.precision
    assert spread is not None and spread.n == 2
    assert spread.mean == pytest.approx(0.95) and spread.median == pytest.approx(0.95) and spread.p05 == pytest.approx(0.905)
    assert spread.low == pytest.approx(0.9) and spread.high == pytest.approx(1)
    assert (prose.exact_share, prose.word_precision, prose.decoder_passes) == (0.5, 0.5, 2)
    assert (prose.blank_pages, prose.blank_precision, prose.blank_gain) == (1, 0.25, 0.75)
    code = groups["code", "tiny"]
    assert code.precision is not None and code.precision.n == 2 and code.pages == 3 and code.bounds == 1
    assert code.word_precision == 1, "a page cut by early stopping has no word precision"
    alone = groups["prose", "small"].precision
    assert alone is not None and (alone.n, alone.mean, alone.low) == (1, 0.5, None)
    kept = groups["(none)", "text"]
    assert (kept.ratio, kept.precision, kept.payload_bytes, kept.payload_bytes_per_text_token) == (None, None, 0, None)


def test_totals_and_counts(mixed: Built) -> None:
    store, snapshot = mixed
    summary = summarise(store, snapshot)
    assert summary.by_tier == {"tiny": 5, "small": 1, "text": 1}
    assert summary.by_status == {"below_target": 3, "verified": 2, "unverified": 1, "text": 1}
    assert summary.by_reason == {"loop": 1, "early_stop": 1, "not_covered": 1}
    assert summary.by_class == {"prose": 3, "code": 3, "(none)": 1}
    assert [group.mode for group in summary.modes] == ["tiny", "small", "text"]
    assert (summary.pages, summary.visual.pages, summary.text_tokens) == (7, 6, 1200)
    context = 5 * 73 + 111
    assert summary.visual.ratio == pytest.approx(1000 / context)
    assert summary.context_ratio == pytest.approx(1200 / (context + 200))
    assert summary.visual.precision is not None
    assert summary.visual.precision.mean == pytest.approx((1 + 0.9 + 0.5 + 1 + 0.2) / 5)
    stored = sum((store.root / shard.key).stat().st_size for unit in snapshot.units for shard in unit.shards)
    assert summary.shard_bytes == stored and summary.shard_bytes_per_text_token == pytest.approx(stored / 1200)
    assert summary.quarantine.reasons == {"invalid_utf8": 2, "null_text": 1}
    assert [record.record for record in summary.quarantine.samples] == [b"abc\xff\x00\x1b[31m", b"\xfe", None]
    assert [(maker.codec, maker.token_dtype, maker.pages) for maker in summary.makers] == [("embedded", "int8", 6)]
    assert (summary.counts.documents_in, summary.counts.duplicates, summary.counts.documents_quarantined) == (12, 2, 3)
    again = json.loads(json.dumps(summary.to_json(), allow_nan=False))
    assert again["visual"]["pages"] == 6 and again["quarantine"] == {"invalid_utf8": 2, "null_text": 1}


def test_an_unknown_class_column_is_bounded(tmp_path: Path) -> None:
    summary = summarise(*corpus(tmp_path, [page(f"p{n:03}", "text", kind=f"class {n:03}") for n in range(MAX_CLASSES + 30)]))
    assert len(summary.by_class) == MAX_CLASSES + 1 and summary.by_class[OTHER] == 30
    assert sum(group.pages for group in summary.groups) == summary.pages == MAX_CLASSES + 30


@given(st.lists(st.integers(0, 20), min_size=1, max_size=40), st.floats(0, 1))
@settings(deadline=None, max_examples=60)
def test_quantiles_equal_those_of_the_repeated_values(places: list[int], share: float) -> None:
    values, counts = np.unique(np.array(places) / 20, return_counts=True)
    assert quantile(values, counts, share) == pytest.approx(float(np.quantile(np.array(places) / 20, share)), abs=1e-9)


def test_the_interval_holds_the_mean_and_narrows_with_pages(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    widths = []
    for count in (20, 500):
        values = rng.uniform(0.8, 1, count).astype(np.float32)
        names = [*SHARD.names, "payload_bytes", "text_bytes"]
        table = pa.Table.from_pylist([{**dict.fromkeys(names), "precision": float(value)} for value in values])
        table = pa.table(
            {name: table[name].cast(SHARD.field(name).type if name in SHARD.names else pa.int64()) for name in names}
        )
        measures = Measures()
        measures.add(table)
        spread = measures.spread()
        assert spread is not None and spread.low is not None and spread.high is not None
        assert spread.low < spread.mean < spread.high and spread.mean == pytest.approx(values.mean(dtype=np.float64))
        error = values.std() / np.sqrt(count)
        assert spread.high - spread.low == pytest.approx(2 * 1.96 * error, rel=0.15)
        widths.append(spread.high - spread.low)
    assert widths[1] < widths[0] / 3


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
    assert (kept.image, kept.ratio, kept.token_grid, kept.spans) == (None, None, None, ())
    with pytest.raises(NoSuchPage, match=r"'p' is the beginning of several: p1, p2, p3"):
        page_view(*mixed, "p", stripes)
    with pytest.raises(NoSuchPage, match=r"'zz'.*snapshot 1 has 7 pages"):
        page_view(*mixed, "zz", stripes)
    with pytest.raises(ValueError, match=r"page p1 is float64 \[2, 2\], expected uint8"):
        page_view(*mixed, "p1", lambda row: np.zeros((2, 2)))


@given(st.text("ab \n", max_size=40), st.text("ab \n", max_size=40), st.integers(1, 50))
@settings(deadline=None, max_examples=80)
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
    assert all(value.startswith("data:image/png;base64,") for value in links)
    assert not re.search(r"url\(|@import", html)
    assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in reader.attributes
    identifiers = [value for name, value in reader.attributes if name == "id"]
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
        "2 min in all",
        "invalid_utf8",
        "abc\\xff\\x00\\x1b[31m",
        "95% interval",
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
    monkeypatch.setattr("pipeline.report.gallery.IMAGE_BUDGET", 600_000)
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


def test_printable_shows_what_hides() -> None:
    assert printable("a\u202eb\x00\n") == "a\\u202eb\\x00\n" and printable("a\n", keep="") == "a\\n"
    assert printable("می\u200cخواهم 漢字 é") == "می\u200cخواهم 漢字 é"
    assert preview(b"\xff{\n" + b"x" * 300, 5) == "\\xff{\\nxx …"
