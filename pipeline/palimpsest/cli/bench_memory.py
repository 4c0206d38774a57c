"""`palimpsest bench memory`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from palimpsest.cli.console import err, explained, out, print_json


def bench_memory(
    chats: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Chats with questions and evidence (`qa`), JSON or JSON lines; facts are planted where none is named."
        ),
    ] = None,
    grid: Annotated[str, typer.Option(help="COLUMNSxROWS: one on which the codec's modes differ.")] = "80x40",
    budget: Annotated[
        list[int] | None,
        typer.Option(help="Context tokens; may be repeated. Shares of the text (5 to 30 %) where none is named."),
    ] = None,
    target: Annotated[float, typer.Option(help="Precision below which rate control does not keep a page.")] = 0.97,
    mode: Annotated[list[str] | None, typer.Option(help="A mode to compare; may be repeated. All where none is named.")] = None,
    conversations: Annotated[int, typer.Option(help="Conversations: invented ones, or the first of the chats (0: all).")] = 0,
    pages: Annotated[int, typer.Option(help="Pages of each invented conversation.")] = 24,
    facts_per_page: Annotated[float, typer.Option(help="Facts planted on each page.")] = 4.0,
    text: Annotated[Path | None, typer.Option(help="A file of text to use as filler instead of invented prose.")] = None,
    seed: Annotated[int, typer.Option(help="Of the invented conversations.")] = 0,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Override a setting: section.key=value.")] = None,
    write: Annotated[Path | None, typer.Option(help="Also write Markdown, JSON and two figures to this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Recall by age at equal budgets: truncation, one mode for all, fading tiers, fading with rate control.

    With CHATS: gold evidence of real questions, word for word, without and with exact spans, beside BM25 retrieval of text.
    Without: facts planted in invented conversations.

    palimpsest bench memory --write docs/results

    palimpsest bench memory locomo10.json --grid 96x48 --mode tiny --write docs/results

    palimpsest bench memory --grid 128x64 --budget 2000 --budget 8000 --text filler.txt
    """
    from palimpsest.config import JobConfig, load
    from palimpsest.lab.bench.forgetting import bench_forgetting
    from palimpsest.lab.bench.machine import command_line, table_of, write_results
    from palimpsest.lab.bench.memory import bench_memory as planted
    from palimpsest.lab.bench.memory_plots import plot

    with explained():
        config: JobConfig = load("local", overrides or ())
        config = config.replace(
            layout=config.layout.replace(grid=grid),
            verification=config.verification.replace(target_precision=target),
            tiers=config.tiers.replace(modes=tuple(mode or config.tiers.modes)),
        )
        budgets = tuple(budget or ())
        if chats:
            theme, result = "forgetting", bench_forgetting(config, chats, budgets=budgets, most=conversations)
        else:
            number = conversations or 2
            theme, result = (
                "memory",
                planted(
                    config,
                    budgets=budgets,
                    conversations=number,
                    pages=pages,
                    facts_per_page=facts_per_page,
                    text=text,
                    seed=seed,
                ),
            )
        if write:
            path = write_results(f"{theme}-{grid}", result, write, command=command_line())
            figures = plot(result, path)
            with path.open("a", encoding="utf-8") as page:
                page.write("\n## Figures\n\n" + "\n\n".join(f"![{figure.stem}]({figure.name})" for figure in figures) + "\n")
            err.print(f"written: {path}", markup=False, soft_wrap=True)
    print_json(result) if as_json else out.print(table_of(theme, result))
