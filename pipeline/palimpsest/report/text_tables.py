"""A summary or a page in the terminal. Strings from a corpus are shown as text: no markup and no escape sequence in them acts."""

from __future__ import annotations

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from palimpsest.report.inspect_page import PageView, head, readable
from palimpsest.report.measures import Group
from palimpsest.report.printable import printable
from palimpsest.report.rate_control import rate_control
from palimpsest.report.summary import Summary
from palimpsest.verification.errata import as_text, of_row

TEXT_LIMIT = 4000  # characters of a page


def summary_table(summary: Summary) -> RenderableType:
    """The figures by class and mode that fit 80 columns, and below them the counts; the report and the JSON have them all."""
    title = Text(f"{_plain(summary.corpus)}  snapshot {summary.snapshot}", "bold")
    table = Table(title=title, title_justify="left", pad_edge=False, box=None)
    for name in ("class", "mode"):
        table.add_column(name, no_wrap=True)
    for name in ("pages", "ratio", "precision", "worst 5 %", "exact", "blank"):
        table.add_column(name, justify="right", no_wrap=True)
    for group in summary.groups:
        table.add_row(Text(_plain(group.text_class)), *_cells(group))
    if len({group.text_class for group in summary.groups}) > 1:
        table.add_section()
        for group in summary.modes:
            table.add_row(Text("all", "dim"), *_cells(group))
    return Stack(table, Text(), _counts(summary))


def page_panel(view: PageView) -> RenderableType:
    """One page: its facts, and its text with the differences in place, as `[-written-]{+read+}`."""
    row = view.row
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column()
    source = _plain(row["source_uri"] or "")
    named = f"{source}  {_plain(row['source_id'])}" if row["source_id"] else source
    for name, value in (
        ("source", named),
        ("document", f"{row['doc_id']}  page {row['page_number'] + 1} of {row['num_pages']}"),
        ("tier", f"{row['tier']}  {row['image_px'] or 0} px  class {_plain(row['text_class'] or '–')}"),
        ("tokens", f"{row['num_text_tokens']} text in {row['num_context_tokens'] or 0} context  ({_number(view.ratio, 2, '×')})"),
        ("verdict", f"{row['status']}{'  ' + row['reason'] if row['reason'] else ''}  precision {_share(row['precision'], 2)}"),
        ("errata", _plain(as_text(of_row(row["errata"])).strip()) or "–"),
        ("codec", f"{row['codec'] or '–'}  {row['codec_revision'] or ''}"),
    ):
        facts.add_row(name, Text(value))
    return Panel(Stack(facts, Text(), _difference(view)), title=Text(f"page {row['page_id']}"), title_align="left")


def _difference(view: PageView) -> Text:
    if view.decoded is None or view.decoded == view.text:
        note = "never decoded" if view.decoded is None else "read back character for character"
        text, cut = printable(view.text[:TEXT_LIMIT]), len(view.text) > TEXT_LIMIT
        return Text.assemble(text, ("\n…" if cut else "", "dim"), (f"\n\n{note}", "dim"))
    spans, cut = head(readable(view.spans), TEXT_LIMIT)
    out = Text()
    for span in spans:
        if span.tag == "equal":
            out.append(printable(span.reference))
            continue
        if span.reference:
            out.append(f"[-{_visible(span.reference)}-]", "red strike")
        if span.decoded:
            out.append(f"{{+{_visible(span.decoded)}+}}", "green")
    out.append("\n…" if cut else "", "dim")
    return out


def _visible(text: str) -> str:
    return printable(text).replace(" ", "·").replace("\n", "⏎\n").replace("\t", "⇥\t")


def _cells(group: Group) -> list[Text | str]:
    spread = group.precision
    bound = "≤ " if group.bounds else ""
    return [
        Text(_plain(group.mode)),
        f"{group.pages:,}",
        _number(group.ratio, 2, "×"),
        bound + _share(spread.mean if spread else None, 2),
        _share(spread.p05 if spread else None),
        _share(group.exact_share),
        _share(group.blank_precision),
    ]


def _counts(summary: Summary) -> Table:
    c = summary.counts
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    left_out = f"quarantined {c.documents_quarantined:,}  duplicates {c.duplicates:,}"
    lines = {
        "documents": f"{c.documents_committed:,} of {c.documents_in:,}  {left_out}",
        "pages": f"{summary.pages:,}  quarantined {c.pages_quarantined:,}",
        "tier": _listed(summary.by_tier),
        "status": _listed(summary.by_status),
        "reason": _listed(summary.by_reason),
        "quarantine": _listed(summary.quarantine.reasons),
        "stored": f"{summary.shard_bytes:,} bytes, {_number(summary.shard_bytes_per_text_token, 1)} for each text token",
    }
    rate = rate_control(summary.modes, summary.trials)
    if rate:
        spent = f"{rate.context_tokens:,} tokens, {rate.of_best_fixed:.3f} of {rate.best_fixed} for all pages"
        lines["rate control"] = f"{spent}; {rate.encodes_per_page:.2f} encodes a page, {rate.hit_rate:.1%} right at first"
    for name, line in lines.items():
        if line:
            table.add_row(name, Text(line))
    return table


def _listed(counter: dict[str, int]) -> str:
    return "  ".join(f"{_plain(name)} {count:,}" for name, count in counter.items())


def _plain(text: str) -> str:
    return printable(text, keep="")


def _share(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}%}"


def _number(value: float | None, digits: int, unit: str = "") -> str:
    return "–" if value is None else f"{value:,.{digits}f}{unit}"
