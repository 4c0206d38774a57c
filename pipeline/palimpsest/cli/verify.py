"""`palimpsest verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from palimpsest.cli.console import FINDINGS, explained, out, pairs, print_json
from palimpsest.cli.options import Corpus, Json, Set, Share
from palimpsest.cli.progress import LiveLine
from palimpsest.report.tables import NONE, Rows, share

if TYPE_CHECKING:
    from rich.console import RenderableType

    from palimpsest.report.findings import ReverifyResult, StorageLoss
    from palimpsest.report.measures import Spread


def verify(
    corpus: Corpus,
    share: Share = 1.0,
    storage: Annotated[
        list[str] | None, typer.Option(help="Also measure the decode loss of this token storage: bf16, int8, int4, pq.")
    ] = None,
    overrides: Set = None,
    as_json: Json = False,
) -> None:
    """Decode again what is really stored, and compare with the recorded verdicts.

    palimpsest verify corpora/books --share 0.1

    palimpsest verify corpora/books --storage int8 --storage int4 --json
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
        shown.append(Rows("precision (mean, 95% interval)", ("class", "mode", ">pages", ">recorded", ">found"), rows))
    if result.storages:
        losses = [
            (
                *(s.text_class or "all", s.storage.partition(":")[0], f"{s.bytes_per_text_token:.1f}", f"{s.pages:,}"),
                *(_spread(s.precision), _loss(s), f"{s.changed:,}"),
            )
            for s in result.storages
        ]
        names = ("class", "storage", ">bytes/text token", ">pages", ">precision", f">loss to {BASELINE}", ">texts changed")
        shown.append(Rows("decode loss of token storages", names, losses))
    if result.disagreements:
        pages = [(d.page_id, share(d.recorded_precision), share(d.found_precision), d.reason or "") for d in result.disagreements]
        shown.append(Rows("pages that disagree", ("page", ">recorded", ">found", "cut"), pages))
    return [*shown, *(f"damaged: {escape(damage.page_id or 'shard')}: {escape(damage.what)}" for damage in result.damages)]


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return NONE
    return share(spread.mean) + (f" ({share(spread.low)} to {share(spread.high)})" if spread.low is not None else "")


def _loss(loss: StorageLoss) -> str:
    """Points of precision, signed."""
    if loss.loss_low is None or loss.loss_high is None:
        return f"{loss.loss:+.2%}"
    return f"{loss.loss:+.2%} ({loss.loss_low:+.2%} to {loss.loss_high:+.2%})"
