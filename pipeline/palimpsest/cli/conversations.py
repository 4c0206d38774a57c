"""`palimpsest conversations`."""

from __future__ import annotations

from typing import Annotated

import typer

from palimpsest.cli.console import FINDINGS, err, explained, line, out, pairs, passed_over, print_json, source_findings
from palimpsest.cli.options import Strict
from palimpsest.report.tables import duration, listed


def conversations(
    preset: Annotated[str, typer.Argument(help="Name of a preset or path of a TOML file.")] = "conversations",
    source: Annotated[
        list[str] | None, typer.Option("--source", "-s", help="Chat JSON lines: file, folder, glob or URI; may be repeated.")
    ] = None,
    target: Annotated[str | None, typer.Option("--out", "-o", help="Where the samples go.")] = None,
    budget: Annotated[int | None, typer.Option(help="Context tokens of a sample; conversations.budget.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Override a setting: section.key=value.")] = None,
    strict: Strict = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Turn conversations into memory samples: old turns as visual tokens, the last ones as text, the next reply as the target.

    Every common form of a chat is read: messages, ShareGPT, content parts and tool calls, trees, LoCoMo sessions, agent traces.
    conversations.roles gives other speakers a role. A second call does nothing.

        palimpsest conversations --source chats.jsonl --out memory/chats --budget 4096

        palimpsest conversations -s 'logs/*.jsonl.gz' -o memory/logs --set tiers.policy=age+importance+fidelity
    """
    from palimpsest.config import load
    from palimpsest.operations.conversations.build import build
    from palimpsest.operations.conversations.settings import MemoryConfig

    with explained():
        config = load(preset, (*(overrides or ()), *(["limits.strict=true"] if strict else ())), MemoryConfig)
        chosen = config.conversations if budget is None else config.conversations.replace(budget=budget)
        config = config.replace(
            sources=tuple(source) if source else config.sources,
            out=target or config.out,
            conversations=chosen,
        )
        result = build(config)
    if as_json:
        print_json(result.to_json())
    else:
        counts = result.counts
        text, context = counts.get("text_tokens", 0), counts.get("context_tokens", 0)
        values = {
            "set": f"{result.number} ({result.units_new} units new, {result.units_done} were done before)",
            "conversations": f"{counts.get('conversations_in', 0):,} in, {counts.get('conversations', 0):,} used",
            "samples": f"{counts.get('samples', 0):,} of {counts.get('targets_in', 0):,} replies",
            "policy": f"{result.policy}, at most {result.budget:,} context tokens",
            "history": f"{text:,} text tokens in {context:,} of context, {counts.get('dropped_text_tokens', 0):,} dropped",
            "pages": f"{counts.get('page_rows', 0):,} (each once in each mode that a sample shows it in)",
            "images and sound": f"{counts.get('media_gaps', 0):,} marked gaps",
            "time": duration(result.seconds),
        }
        if result.reasons:
            values["quarantine"] = listed(dict(sorted(result.reasons.items())))
        out.print(pairs(f"memory samples in {result.out}", values))
        passed_over(result.passed_over)
        source_findings(result)
        for lost in result.unread:
            line(f"not read: {lost}; the next call tries again")
    if result.unread:
        err.print(f"{len(result.unread)} sources could not be read")
    if result.findings:
        raise typer.Exit(FINDINGS)
