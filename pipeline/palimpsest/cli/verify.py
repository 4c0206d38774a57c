"""`palimpsest verify`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from palimpsest.cli.console import FINDINGS, explained, out, pairs, print_json
from palimpsest.cli.options import Corpus, Json, Set, Share
from palimpsest.cli.progress import LiveLine

if TYPE_CHECKING:
    from rich.console import RenderableType

    from palimpsest.report.findings import ReverifyResult, StorageLoss
    from palimpsest.report.measures import Spread


def verify(
    corpus: Corpus,
    share: Share = 1.0,
    storage: Annotated[
        list[str] | None, typer.Option(help="Also measure the decode loss of this token storage: bf16, int8.")
    ] = None,
    overrides: Set = None,
    as_json: Json = False,
) -> None:
    """Decode again what is really stored, and compare with the recorded verdicts.

    palimpsest verify corpora/books --share 0.1

    palimpsest verify corpora/books --storage bf16 --storage int8 --json
    """
    from palimpsest.operations.verify import open_and_reverify

    with explained(), LiveLine("verifying") as watch:
        result = open_and_reverify(corpus, overrides or (), share=share, storages=tuple(storage or ()), watch=watch)
    if as_json:
        print_json(result.to_json())
    else:
        for table in result_tables(result):
            out.print(table)
    if result.findings:
        raise typer.Exit(FINDINGS)


def result_tables(result: ReverifyResult) -> list[RenderableType]:
    """The result for the terminal: what was found, precision by class and mode, storages, and the pages that differ."""
    from rich.markup import escape

    from palimpsest.report.findings import BASELINE, TOLERANCE

    values = {
        "codec": f"{result.codec} {result.codec_revision}, {result.dtype}",
        "pages": f"{result.pages:,} decoded (share {result.share:g}) of {result.rows:,} rows, {result.text_pages:,} in tier text",
        "as recorded": f"{result.agreeing:,} of {result.compared:,} within {TOLERANCE:g}, {result.identical:,} letter by letter",
        "disagreeing": f"{result.disagreeing:,}",
        "damaged": f"{result.damaged:,}",
    }
    if result.storages:
        values["made again"] = f"{result.remade:,} of {result.remade + result.not_remade:,} pages gave the stored tokens again"
    shown: list[RenderableType] = [pairs(f"snapshot {result.snapshot} of {result.corpus}", values)]
    if result.groups:
        rows = [(g.text_class, g.mode, f"{g.pages:,}", _spread(g.recorded), _spread(g.found)) for g in result.groups]
        shown.append(_table("precision (mean, 95 % interval)", ("class", "mode", "pages", "recorded", "found"), rows))
    if result.storages:
        losses = [
            (s.storage, str(s.bytes_per_token), f"{s.pages:,}", _spread(s.precision), _loss(s), f"{s.changed:,}")
            for s in result.storages
        ]
        names = ("storage", "bytes/token", "pages", "precision", f"loss to {BASELINE}", "texts changed")
        shown.append(_table("decode loss of token storages", names, losses))
    if result.disagreements:
        pages = [
            (d.page_id, f"{d.recorded_precision:.4f}", f"{d.found_precision:.4f}", d.reason or "") for d in result.disagreements
        ]
        shown.append(_table("pages that disagree", ("page", "recorded", "found", "cut"), pages))
    return [*shown, *(f"damaged: {escape(damage.page_id or 'shard')}: {escape(damage.what)}" for damage in result.damages)]


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> RenderableType:
    from rich.markup import escape
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "–"
    return f"{spread.mean:.4f}" + (f" ({spread.low:.4f} to {spread.high:.4f})" if spread.low is not None else "")


def _loss(loss: StorageLoss) -> str:
    return f"{loss.loss:+.4f}" + (f" ({loss.loss_low:+.4f} to {loss.loss_high:+.4f})" if loss.loss_low is not None else "")
