"""`palimpsest ingest`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from palimpsest.cli.console import FINDINGS, explained, line, out, pairs, passed_over, print_json, source_findings
from palimpsest.cli.options import Strict
from palimpsest.cli.progress import LiveLine
from palimpsest.report.tables import duration, listed, ratios, size

if TYPE_CHECKING:
    from palimpsest.operations.ingest import IngestResult

SHOWN = 20  # sources named in the output; --json has all


def ingest(
    preset: Annotated[str, typer.Argument(help="Name of a preset (see `palimpsest presets`) or path of a TOML file.")] = "local",
    source: Annotated[list[str] | None, typer.Option("--source", "-s", help="Folder, prefix or glob; may be repeated.")] = None,
    target: Annotated[str | None, typer.Option("--out", "-o", help="The corpus to bring up to date.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Override a setting: section.key=value.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list and compare; write nothing.")] = False,
    strict: Strict = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Bring a corpus up to date with a prefix: process what is new or changed since, and nothing else.

    Exit code 3 says that something could not be read, or waits; what could be done is published.

        palimpsest ingest local --source texts/ --out corpora/books

        palimpsest ingest nightly.toml -s s3://texts/news/ -o s3://corpora/news --set ingest.vanished=drop --json
    """

    from palimpsest.config import JobConfig, load
    from palimpsest.operations.ingest import ingest as run_pass

    with explained():
        config: JobConfig = load(preset, [*(overrides or ()), *(["limits.strict=true"] if strict else ())])
        config = config.replace(sources=tuple(source) if source else config.sources, out=target or config.out)
        with LiveLine("ingesting", enabled=not dry_run) as progress:
            result = run_pass(config, progress, dry_run=dry_run)
    if as_json:
        print_json(result.to_json())
    else:
        _print(result)
    if result.findings:
        raise typer.Exit(FINDINGS)


def _print(result: IngestResult) -> None:
    changes, fresh = result.changes, result.fresh
    values: dict[str, Any] = {
        "listed": f"{result.listed:,} objects, {size(result.bytes)}",
        "changes": ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in changes.items() if count) or "none",
    }
    if not result.dry_run:
        numbers = ", ".join(map(str, result.snapshots))
        values |= {
            "snapshot": f"{result.snapshot} (published now: {numbers})" if numbers else f"{result.snapshot} (as before)",
            "units": f"{result.units_new:,} new, {result.units_done:,} committed before, {result.stale:,} sources done again",
        }
    if result.units_new:
        values["documents"] = (
            f"{fresh.documents_in:,} in = {fresh.documents_committed:,} committed + {fresh.documents_quarantined:,} quarantined "
            f"+ {fresh.duplicates:,} duplicates; {fresh.pages_committed:,} pages"
        )
        values["ratio"] = ratios(fresh.text_tokens, fresh.context_tokens, fresh.tokens_as_text)
    if result.dropped:
        values["dropped"] = f"{result.dropped:,} vanished objects"
    if result.reasons:
        values["quarantine"] = listed(dict(sorted(result.reasons.items())))
    values["time"] = ", ".join(f"{name} {duration(seconds)}" for name, seconds in result.seconds.items())
    out.print(pairs("changes (nothing was written)" if result.dry_run else f"ingestion {result.run_id}", values))
    passed_over(result.passed_over)
    if changes["other_settings"]:
        line(
            f"{changes['other_settings']:,} objects are published under other settings and stay: "
            "--set ingest.other_settings=replace does them again"
        )
    source_findings(result)
    said = [f"not read: {lost.source_uri}: {lost.reason}: {lost.detail}; the next pass tries again" for lost in result.unread]
    said += [f"given up in this version: {source}" for source in result.given_up]
    said += [f"stays as it was: {stuck.source_uri}: {stuck.by} relies on it and cannot be read again" for stuck in result.blocked]
    for text in said[:SHOWN]:
        line(text)
    if len(said) > SHOWN:
        line(f"and {len(said) - SHOWN} more (--json)")
    if result.units_waiting:
        line(f"{result.units_waiting} units are committed and wait for sources that could not be read")
