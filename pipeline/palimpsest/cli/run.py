"""`palimpsest run`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from palimpsest.cli.console import FINDINGS, explained, line, out, pairs, passed_over, print_json, source_findings
from palimpsest.cli.options import Json, Out, Preset, Set, Sources, Strict
from palimpsest.cli.progress import LiveLine
from palimpsest.report.tables import duration, listed, ratios, size

if TYPE_CHECKING:
    from palimpsest.operations.run import RunResult

SHOWN = 20  # sources named in the output; --json has all


def run(
    preset: Preset = "local",
    source: Sources = None,
    target: Out = None,
    overrides: Set = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the configuration and the plan; write nothing.")] = False,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Turn a corpus of text into verified visual-token shards.

    A second run over the same sources does nothing; a stopped one continues.

    palimpsest run local --source books/ --out corpora/books

    palimpsest run local -s 'logs/*.jsonl.gz' -o corpora/logs --set tiers.mode=small --set layout.grid=80x40
    """
    from palimpsest.config import load
    from palimpsest.operations.dry_run import plan_only
    from palimpsest.operations.run import run as run_job

    with explained():
        config = load(preset, [*(overrides or ()), *(["limits.strict=true"] if strict else ())])
        config = config.replace(sources=tuple(source) if source else config.sources, out=target or config.out)
        if dry_run:
            planned = plan_only(config)
            print_json(planned) if as_json else out.print(pairs("plan (nothing was written)", _readable(planned)))
            return
        with LiveLine() as progress:
            result = run_job(config, progress)
    print_json(result.to_json()) if as_json else _print(result)
    if result.findings:
        raise typer.Exit(FINDINGS)


def _readable(planned: dict[str, Any]) -> dict[str, Any]:
    values = {}
    for name, value in planned.items():
        values[name] = size(value) if name == "bytes" else listed(value) if isinstance(value, dict) else value
    return values


def _print(result: RunResult) -> None:
    if result.units_new:
        out.print(pairs(f"run {result.run_id}", _figures(result)))
        line(f"\nSee it: palimpsest report {result.out}")
    elif result.published_now and not result.units_done:
        line(f"Nothing could be read: snapshot {result.snapshot} of {result.out} has no pages of these sources.")
    elif result.published_now:
        line(f"Published {result.units_done} units that were committed before, as snapshot {result.snapshot} of {result.out}.")
    elif not result.unread:
        line(f"Nothing to do: all {result.units_done} units are in snapshot {result.snapshot} of {result.out}.")
    passed_over(result.passed_over)
    source_findings(result)
    for lost in result.unread[:SHOWN]:
        line(f"not read: {lost.source_uri}: {lost.reason}: {lost.detail}; the next run tries again")
    if len(result.unread) > SHOWN:
        line(f"and {len(result.unread) - SHOWN} more (--json)")
    if result.units_waiting:
        line(f"{result.units_waiting} units are committed and wait for these sources to be published")


def _figures(result: RunResult) -> dict[str, Any]:
    fresh = result.fresh
    values = {
        "snapshot": result.snapshot,
        "units": f"{result.units_new} new, {result.units_done} committed before",
        "documents": f"{fresh.documents_in:,} in = {fresh.documents_committed:,} committed + "
        f"{fresh.documents_quarantined:,} quarantined + {fresh.duplicates:,} duplicates",
        "pages": f"{fresh.pages_committed:,} of {fresh.pages_in:,}",
        "tokens": f"{fresh.text_tokens:,} of text in {fresh.context_tokens:,} of context",
        "ratio": ratios(fresh.text_tokens, fresh.context_tokens, fresh.tokens_as_text),
        "time": f"{duration(result.seconds)}, {duration(result.total_seconds)} with start-up",
        "speed": f"{result.pages_per_second:.1f} pages/s",
    }
    if result.reasons:
        values["quarantine"] = f"{listed(dict(sorted(result.reasons.items())))} (palimpsest quarantine {result.out})"
    return values
