"""`palimpsest retier`."""

from __future__ import annotations

from typing import Annotated

import typer

from palimpsest.cli.console import FINDINGS, explained, line, out, pairs, print_json
from palimpsest.cli.progress import LiveLine
from palimpsest.report.tables import duration, listed


def retier(
    corpus: Annotated[str, typer.Argument(help="The corpus.")],
    as_of: Annotated[
        str | None, typer.Option("--as-of", help="What time it is: 2026-01-31 or 2026-01-31T12:00Z; in place of tiers.as_of.")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Override a setting of tiers or placement.")] = None,
    sharpen: Annotated[
        bool, typer.Option("--sharpen", help="Also draw pages sharper where the policy now asks for it; else they only fade.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what is due; write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Apply the tier policy to a published corpus, as of a date: what grew old is seen blurrier.

    A second run does nothing. The old snapshot stays readable until gc.

        palimpsest retier corpora/chats --as-of 2026-01-31 --set tiers.policy=age --dry-run

        palimpsest retier corpora/chats --as-of 2026-01-31 --set tiers.policy=age+importance+fidelity
    """
    from palimpsest.operations.retier import retier as run

    with explained(), LiveLine("re-tiering", enabled=not dry_run) as watch:
        result = run(corpus, tuple(overrides or ()), as_of=as_of, sharpen=sharpen, dry_run=dry_run, watch=watch)
    if as_json:
        print_json(result.to_json())
    elif not result.due:
        where = f"snapshot {result.snapshot} of {result.corpus}"
        line(f"Nothing is due: all {result.pages:,} pages in {where} are where they should be.")
        if result.held:
            line(f"{result.held:,} pages would be seen sharper; --sharpen draws them again.")
    else:
        moves = "; ".join(f"{move} {pages:,}" for move, pages in result.moves.items())
        values = {
            "policy": "; ".join(result.policy),
            "due": f"{result.due:,} of {result.pages:,} pages: {moves}",
            "shards": f"{result.shards_touched:,} of {result.shards:,} are touched",
            "units": f"{result.units_replaced:,} of {result.units:,} are replaced",
        }
        if not result.dry_run:
            values["tiers now"] = listed(result.ended)
            values["context tokens"] = "{:,} before, {:,} now".format(*result.context_tokens)
            values["snapshot"] = f"{result.snapshot} (was {result.before})"
            values["time"] = f"{duration(result.seconds)}, {duration(result.total_seconds)} with planning"
        if result.held:
            values["held"] = f"{result.held:,} pages would be seen sharper; --sharpen draws them again"
        out.print(pairs("re-tiering (nothing was written)" if result.dry_run else f"re-tiering {result.run_id}", values))
    for fingerprint, units in result.unknown.items():
        line(f"{units} units with fingerprint {fingerprint} stay as they are: no run record says how they were made")
    if result.findings:
        raise typer.Exit(FINDINGS)
