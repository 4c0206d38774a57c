"""`palimpsest bench public`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from palimpsest.cli.console import err, explained, print_json


def bench_public(
    folder: Annotated[Path, typer.Argument(help="Folder with fox.jsonl, NAME_on_SET.jsonl, locomo*.json, gist_sessions.jsonl.")],
    setting: Annotated[list[str] | None, typer.Option(help="GRID/MODE; may be repeated.")] = None,
    max_documents: Annotated[int, typer.Option(help="At most so many documents of each set; 0 takes all.")] = 0,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Override a setting: section.key=value.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Public benchmarks per document, with recorded outputs of other systems in the same metrics and at the same honest ratio.

    palimpsest bench public FOLDER --setting 96x48/tiny --setting 64x32/tiny
    """
    from palimpsest.config import JobConfig, load
    from palimpsest.lab.bench.fidelity import parse_setting
    from palimpsest.lab.bench.public import bench_public as measure

    with explained():
        config: JobConfig = load("local", overrides or ())
        found = measure(config, folder, [parse_setting(text) for text in setting or ("96x48/tiny",)], max_documents)
    if as_json:
        print_json(found)
        return
    typer.echo(found["differs"])
    for rows in (found["rows"], found["memory"]):
        if rows:
            typer.echo(_table(rows))
    err.print(f"commit {found['machine'].get('commit', '–')}")


def _table(rows: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, ["---"] * len(names), *(["–" if row.get(n) is None else str(row[n]) for n in names] for row in rows)]
    return "\n".join(["", *("| " + " | ".join(line) + " |" for line in cells)])
