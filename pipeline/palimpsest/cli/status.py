"""`palimpsest status`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from palimpsest.cli.console import FINDINGS, explained, line, out, pairs, print_json
from palimpsest.report.tables import duration, listed, size

if TYPE_CHECKING:
    from palimpsest.operations.status import Status


def status(
    corpus: Annotated[str, typer.Argument(help="The corpus: a directory, or s3://bucket/prefix.")],
    source: Annotated[
        list[str] | None, typer.Option("--source", "-s", help="Also list this prefix, and say how far the corpus is behind it.")
    ] = None,
    max_age: Annotated[
        str,
        typer.Option(help="Exit with 3 if the newest snapshot is older, for example 26h; a pass that finds it current counts."),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Whether a corpus is up to date: its newest snapshot, the last runs, what waits, what is in the quarantine.

    palimpsest status corpora/books --max-age 26h

    palimpsest status s3://corpora/news --source s3://texts/news/ --json
    """
    from palimpsest.operations.status import status_of
    from palimpsest.tiers.clock import parse_duration

    with explained():
        limit = parse_duration(max_age, "--max-age") if max_age else None
        found = status_of(corpus, sources=source or (), max_age=limit)
    print_json(found.to_json()) if as_json else _print(found)
    if found.too_old:
        raise typer.Exit(FINDINGS)


def _print(found: Status) -> None:
    age = "never published" if found.age is None else duration(found.age)
    values: dict[str, Any] = {
        "snapshot": "none" if found.published is None else f"{found.snapshot}, published {found.published:%Y-%m-%d %H:%M:%S} UTC",
        "age": f"{age}{' (too old)' if found.too_old else ''}",
        "holds": f"{found.units:,} units, {found.pages:,} pages, {size(found.bytes)}",
        "pending": f"{found.pending:,} units are committed and not published",
        "quarantine": listed(found.quarantine) or "empty",
    }
    if found.tries:
        values["not read"] = ", ".join(f"{count:,} objects tried {times} times" for times, count in found.tries.items())
    if found.lag:
        lag = found.lag
        since = f", the first since {lag.oldest:%Y-%m-%d %H:%M} UTC" if lag.oldest else ""
        values["behind"] = f"{lag.behind:,} of {lag.listed:,} objects ({size(lag.bytes)}){since}; {lag.vanished:,} vanished"
    out.print(pairs(found.corpus, values))
    for run in found.runs:
        rate = f", {run['pages_per_second']:,} pages/s" if run.get("pages_per_second") else ""
        new = f", {run['units_new']:,} units" if "units_new" in run else ""
        reason = f": {str(run['reason']).splitlines()[0]}" if run.get("reason") else ""
        line(f"run {run['run_id']}: {run['outcome']}{new}{rate}{reason}")
