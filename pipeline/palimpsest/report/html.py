"""The report: one HTML file without scripts, without network, with everything that comes from a corpus escaped.

A content security policy in the file forbids the browser to run or to load anything, so that even a mistake here could not make a
document do so.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from palimpsest.corpus.run_records import RunRecord, read_run
from palimpsest.corpus.snapshots import Snapshot
from palimpsest.flow.supply import described
from palimpsest.report import plots
from palimpsest.report.gallery import hang
from palimpsest.report.inspect_page import PageView, RenderPage, find_rows, head, readable, view
from palimpsest.report.printable import preview, printable
from palimpsest.report.rate_control import rate_control
from palimpsest.report.summary import Summary, summarise
from palimpsest.report.tables import NONE, duration, share
from palimpsest.storage.object_store import ObjectStore
from palimpsest.verification.errata import as_text, of_row
from palimpsest.verification.fidelity import Span

TEXT_LIMIT = 6000  # characters of a page that the gallery shows
BEFORE = 600  # equal characters before the first difference that are shown whole
AROUND = 30  # characters on each side of a difference in the list of the worst pages
_TEMPLATES = Path(__file__).parent / "templates"
_MARKED = {"delete": "del", "insert": "ins", "replace": "mark"}


def report_html(
    store: ObjectStore, snapshot: Snapshot, render_page: RenderPage, *, summary: Summary | None = None, title: str | None = None
) -> str:
    """The report on a snapshot: the same bytes every time.

    Args:
        summary: of the same snapshot, if there is one already.
        title: by default the last part of the corpus's name.

    Raises:
        NoSuchObject, Damaged: from the store.
        ValueError: for an image from `render_page` that is no uint8 `[px, px]`.
    """
    summary = summarise(store, snapshot) if summary is None else summary
    run = read_run(store, snapshot.run_id)
    shown = summary.exhibits
    rows = find_rows(store, snapshot, {*(point.page_id for point in shown.worst_pages), *shown.text_pages})
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            s=summary,
            title=title or summary.corpus.replace("\\", "/").rpartition("/")[2] or "corpus",
            run=run,
            cards=cards(summary, run),
            rate=rate_control(summary.modes, summary.trials),
            meaning=meaning(summary),
            exhibits=hang(store, snapshot, summary, render_page),
            worst=[(point, view(rows[point.page_id], lambda row: None)) for point in shown.worst_pages if point.precision < 1],
            text_pages=[rows[page_id] for page_id in shown.text_pages],
            colours=plots.colours(summary),
            shapes=plots.shapes(summary),
            rate_distortion=plots.rate_distortion(summary),
            survival=[(group, plots.survival(summary, group.mode)) for group in summary.modes if group.precision],
            css=Markup((_TEMPLATES / "report.css").read_text("utf-8")),
        )
    )


def cards(summary: Summary, run: RunRecord) -> list[tuple[str, str, str]]:
    """The headline figures: (label, figure, small print)."""
    v, counts = summary.visual, summary.counts
    kept = [f"{counts.documents_quarantined:,} quarantined", f"{counts.duplicates:,} duplicates"]
    text = summary.text_tokens - v.text_tokens
    out = [
        ("documents", f"{counts.documents_committed:,}", f"of {counts.documents_in:,}; {', '.join(kept)}"),
        ("pages", f"{summary.pages:,}", f"{v.pages:,} as visual tokens, {summary.pages - v.pages:,} as text"),
    ]
    if summary.context_ratio:
        note = f"text tokens per context token; {text:,} are kept as text"
        out.append(("compression, all pages", f"{summary.context_ratio:.2f}×", note))
    if v.ratio and v.paper_ratio:
        out.append(("compression, visual pages", f"{v.ratio:.2f}×", f"{v.paper_ratio:.2f}× without newline and separator rows"))
    if v.precision:
        p = v.precision
        sure = "one page" if p.low is None else f"95%: {share(p.low)} to {share(p.high)}, n = {p.n:,}"
        label = "mean precision" if not v.bounds else "mean precision, at most"
        out.append((label, share(v.precision.mean), sure))
        out.append(("exact pages", share(v.exact_share or 0), "read back without a single error"))
    if summary.shard_bytes_per_text_token:
        plain = f"of text; the text alone takes {summary.text_bytes_per_text_token or 0:.1f}"
        out.append(("bytes per token", f"{summary.shard_bytes_per_text_token:.1f}", plain))
    if v.errata_pages:
        cost = f"{v.errata_tokens:,} context tokens, on {v.errata_pages:,} of {v.pages:,} visual pages"
        out.append(("misread words kept as text", f"{v.errata_words:,}", cost))
    speed, wall = run.seconds("pages_per_second"), run.seconds("total_seconds") or run.seconds("seconds")
    if speed and wall:
        out.append(("pages per second", f"{speed:,.2f}", f"{duration(wall)} in all, last run"))
    known = run.stats.get("supply")
    if isinstance(known, dict) and isinstance(rate := known.get("supply_pages_per_core_second"), int | float):
        out.append(("pages/s from a core", f"{rate:,.0f}", "; ".join(described(known)[1:]) or "read, laid out, drawn, written"))
    return out


def meaning(summary: Summary) -> list[str]:
    """The figures in plain words."""
    v, lost = summary.visual, summary.counts.documents_quarantined
    if not summary.pages:
        return [
            "This corpus holds no pages." + (f" Its {lost:,} records are all quarantined; the reasons are below." if lost else "")
        ]
    if not v.pages or not v.ratio:
        return ["Every page of this corpus is kept as text: there are no visual tokens, and nothing to read back."]
    became = f"On visual pages 1,000 tokens of text became {1000 / v.ratio:,.0f} context tokens on average"
    if v.precision is None:
        return [f"{became}; no page was decoded, so how much of it can be read back is not known.", _price(summary)]
    wrong = 1 - v.precision.mean
    if wrong > 0.1:
        errors = f"gets {share(wrong)} of the characters wrong"
    else:
        errors = f"gets about one character in {1 / wrong:,.0f} wrong" if wrong else "reads every character right"
    whole = f"{share(v.exact_share or 0)} of the pages come back exactly as they were written."
    return [f"{became}; reading them back, the decoder {errors}, and {whole}", _price(summary)]


def _price(summary: Summary) -> str:
    """The cost in bytes, and the blank-page control."""
    grows = (summary.shard_bytes_per_text_token or 0) / (summary.text_bytes_per_text_token or 1)
    price = f"What shrinks is the context that a model spends; on disk the corpus takes {grows:,.1f} times its plain text"
    if grows <= 1:
        price = "The context that a model spends shrinks, and so do the bytes on disk"
    blank, gain = summary.visual.blank_precision, summary.visual.blank_gain
    if blank is None or gain is None:
        return f"{price}."
    return f"{price}. From an empty page the decoder gets {share(blank)} right; seeing the page adds {100 * gain:.1f} points."


def marked(view: PageView, side: str) -> Markup:
    """One side ("reference" or "decoded") of a page's difference, its differing parts in `<del>`, `<ins>` or `<mark>`."""
    whole, skipped = from_first_difference(readable(view.spans) if view.spans else [Span("equal", view.text, "")])
    spans, cut = head(whole, TEXT_LIMIT)
    parts = [Markup(_piece(span.tag, getattr(span, side))) for span in spans]
    if skipped:
        parts.insert(0, Markup(f'<span class="more">{skipped:,} characters are the same … </span>'))
    if cut:
        parts.append(Markup('<span class="more"> … the rest of the page is not shown</span>'))
    return Markup("").join(parts)


def from_first_difference(spans: list[Span]) -> tuple[list[Span], int]:
    """The spans from shortly before the first difference on, to have it in view, and the number of characters left out."""
    if len(spans) < 2 or spans[0].tag != "equal" or len(spans[0].reference) <= BEFORE:
        return spans, 0
    skipped = len(spans[0].reference) - BEFORE // 2
    shown = spans[0].reference[skipped:]
    return [Span("equal", shown, shown), *spans[1:]], skipped


def first_difference(view: PageView) -> Markup:
    """The first difference of a page with some of the text around it; "" where there is none."""
    spans = readable(view.spans)
    at = next((index for index, span in enumerate(spans) if span.tag != "equal"), None)
    if at is None:
        return Markup("")
    before = spans[at - 1].reference[-AROUND:] if at else ""
    after = spans[at + 1].reference[:AROUND] if at + 1 < len(spans) else ""
    pieces = (
        ("equal", before),
        ("delete", spans[at].reference[:AROUND]),
        ("insert", spans[at].decoded[:AROUND]),
        ("equal", after),
    )
    return Markup("").join(Markup(_piece(tag, text)) for tag, text in pieces if text)


def _piece(tag: str, text: str) -> str:
    shown = escape(printable(text))
    if tag == "equal" or not text:
        return shown
    visible = shown.replace(" ", "·").replace("\t", "⇥\t").replace("\n", "⏎\n")
    return f"<{_MARKED[tag]}>{visible}</{_MARKED[tag]}>"


def _environment() -> Environment:
    jinja = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    jinja.filters.update(
        percent=lambda value, digits=2: share(value),
        number=lambda value, digits=2: NONE if value is None else f"{value:,.{digits}f}",
        count=lambda value: NONE if value is None else f"{value:,}",
        preview=lambda record: preview(record or b""),
        printable=lambda text: printable(str(text), keep=""),
        printable_lines=printable,
        plural=lambda number, one, many=None: one if number == 1 else many or f"{one}s",
        flat=_flat,
    )
    jinja.globals.update(
        first_difference=first_difference,
        marked=marked,
        errata_of=lambda view: as_text(of_row(view.row["errata"])).strip(),
        differences=lambda view: sum(span.tag != "equal" for span in view.spans),
    )
    return jinja


def _flat(record: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """A nested record as (dotted name, value)."""
    for name, value in sorted(record.items()):
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
