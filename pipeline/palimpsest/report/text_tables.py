"""A summary or a page in the terminal."""

from __future__ import annotations

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.text import Text

from palimpsest.report.inspect_page import PageView, head, readable
from palimpsest.report.measures import Group
from palimpsest.report.printable import printable
from palimpsest.report.rate_control import rate_control
from palimpsest.report.summary import Summary
from palimpsest.report.tables import NONE, Pairs, Rows, listed, plain, ratio, share, size
from palimpsest.verification.errata import as_text, of_row

TEXT_LIMIT = 4000  # characters of a page
COLUMNS = ("class", "mode", ">pages", ">ratio", ">precision", ">p5", ">worst", ">exact", ">blank")


def summary_table(summary: Summary) -> RenderableType:
    """The figures by class and mode, and below them the counts; the report and the JSON have them all.

    `p5` is the fifth percentile of the precision, `worst` that of the worst page.
    """
    rows = [(plain(group.text_class), *_cells(group)) for group in summary.groups]
    several = len({group.text_class for group in summary.groups}) > 1
    totals = [("all", *_cells(group)) for group in summary.modes] if several else []
    title = f"{summary.corpus}, snapshot {summary.snapshot}"
    if not summary.snapshot:
        title = f"{summary.corpus}: nothing is published; these units are committed"
    return Stack(Rows(title, COLUMNS, rows, totals), Text(), _counts(summary))


def page_panel(view: PageView) -> RenderableType:
    """One page: its facts, and its text with the differences in place, as `[-written-]{+read+}`."""
    row = view.row
    facts = {
        "source": f"{row['source_uri'] or ''}{'  ' + row['source_id'] if row['source_id'] else ''}",
        "document": f"{row['doc_id']}, page {row['page_number'] + 1} of {row['num_pages']}",
        "tier": f"{row['tier']}, {row['image_px'] or 0} px, class {row['text_class'] or NONE}",
        "tokens": f"{row['num_text_tokens']} of text in {row['num_context_tokens'] or 0} of context, {_ratio(view.ratio)}",
        "verdict": f"{row['status']}{', ' + row['reason'] if row['reason'] else ''}, precision {share(row['precision'])}",
        "errata": as_text(of_row(row["errata"])).strip() or NONE,
        "codec": f"{row['codec'] or NONE} {row['codec_revision'] or ''}",
    }
    return Stack(Pairs(f"page {row['page_id']}", facts), Text(), _difference(view))


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


def _cells(group: Group) -> list[str]:
    spread = group.precision
    return [
        group.mode,
        f"{group.pages:,}",
        _ratio(group.ratio),
        ("≤ " if group.bounds else "") + share(spread.mean if spread else None),
        share(spread.p05 if spread else None),
        share(spread.worst if spread else None),
        share(group.exact_share),
        share(group.blank_precision),
    ]


def _counts(summary: Summary) -> Pairs:
    c, v = summary.counts, summary.visual
    as_text = summary.text_tokens - v.text_tokens
    context = v.context_tokens + as_text
    both = ratio(summary.text_tokens, context)
    if as_text:
        both += f" over all pages, {ratio(v.text_tokens, v.context_tokens)} over the visual ones"
    lines = {
        "documents": f"{c.documents_committed:,} of {c.documents_in:,}; {c.documents_quarantined:,} quarantined, "
        f"{c.duplicates:,} duplicates",
        "pages": f"{summary.pages:,}, {v.pages:,} visual and {summary.pages - v.pages:,} kept as text; "
        f"{c.pages_quarantined:,} quarantined",
        "tokens": f"{summary.text_tokens:,} of text in {context:,} of context",
        "ratio": both,
        "tier": listed(summary.by_tier),
        "status": listed(summary.by_status),
        "reason": listed(summary.by_reason),
        "quarantine": listed(summary.quarantine.reasons),
        "stored": f"{size(summary.shard_bytes)}, {_number(summary.shard_bytes_per_text_token)} bytes per text token",
    }
    if summary.exhibits.worst_pages:
        worst = summary.exhibits.worst_pages[0]
        lines["worst page"] = f"{worst.page_id} ({worst.text_class}, {worst.mode}): {share(worst.precision)}"
    if v.errata_pages:
        lines["errata"] = (
            f"{v.errata_words:,} misread words kept with {v.errata_pages:,} pages, {v.errata_tokens:,} context tokens"
        )
    rate = rate_control(summary.modes, summary.trials)
    if rate:
        spent = f"{rate.context_tokens:,} context tokens, {share(rate.of_best_fixed)} of {rate.best_fixed} for all pages"
        lines["rate control"] = f"{spent}; {rate.encodes_per_page:.2f} encodes per page, {share(rate.hit_rate)} right at first"
    return Pairs("", {name: line for name, line in lines.items() if line})


def _ratio(value: float | None) -> str:
    return NONE if value is None else f"{value:,.2f}×"


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:,.1f}"
