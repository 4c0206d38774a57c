"""`palimpsest bench tiers` and `palimpsest bench retier`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from palimpsest.cli.console import err, explained, out, print_json

Set = Annotated[list[str] | None, typer.Option("--set", help="Override a setting: section.key=value; may be repeated.")]
Write = Annotated[Path | None, typer.Option(help="Also write the result to this folder, as Markdown and JSON.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def bench_tiers(
    texts: Annotated[Path, typer.Argument(help="JSON lines with `text` and `text_class`.")],
    grid: Annotated[str, typer.Option(help="COLUMNSxROWS.")] = "80x40",
    target: Annotated[float, typer.Option(help="Precision that a page must reach.")] = 0.97,
    mode: Annotated[
        list[str] | None, typer.Option(help="A rung; may be repeated. All modes of the codec where none is named.")
    ] = None,
    fit: Annotated[
        Path | None, typer.Option(help="Also write the rungs and the predictor that these pages show to this rungs file.")
    ] = None,
    max_pages: Annotated[int, typer.Option(help="At most so many pages per class; 0 takes all.")] = 0,
    overrides: Set = None,
    write: Write = None,
    as_json: Json = False,
) -> None:
    """Rate control compared with one mode for all pages: context tokens, tiers, encodes per page, right predictions.

    All modes of the codec are measured where no --mode is named; rate control climbs on those that the rungs file names.

    palimpsest bench tiers texts.jsonl --grid 80x40 --target 0.97 --mode tiny --mode small --fit rungs.json

    palimpsest bench tiers eval.jsonl --grid 80x40 --target 0.97 --set tiers.predictor=rungs.json --write docs/results
    """
    from palimpsest.config import JobConfig, load
    from palimpsest.lab.bench.fidelity import read_classes
    from palimpsest.lab.bench.tiers import bench_tiers as measure

    with explained():
        config: JobConfig = load("local", overrides or ())
        config = config.replace(
            layout=config.layout.replace(grid=grid),
            verification=config.verification.replace(target_precision=target, control_share=0.0),
            tiers=config.tiers.replace(modes=tuple(mode or config.tiers.modes)),
        )
        result = measure(config, read_classes(texts), fit=fit, max_pages=max_pages)
    _show(f"tiers-{grid}", result, write, as_json)


def bench_retier(
    pages: Annotated[int, typer.Option(help="Pages of the corpus.")] = 1000,
    aged: Annotated[float, typer.Option(help="Share of it that grows old.")] = 0.1,
    mode: Annotated[str, typer.Option(help="The tier that it is then due.")] = "tiny",
    spread: Annotated[bool, typer.Option("--spread", help="Old and new documents side by side in every source.")] = False,
    text: Annotated[Path | None, typer.Option(help="A file of text to use instead of invented prose.")] = None,
    overrides: Set = None,
    write: Write = None,
    as_json: Json = False,
) -> None:
    """Re-tiering a corpus of which a part grew old, compared with a run over that part alone.

    palimpsest bench retier --pages 10000 --aged 0.1
    """
    from palimpsest.config import JobConfig, load
    from palimpsest.lab.bench.retier import bench_retier as measure

    with explained():
        config: JobConfig = load("local", overrides or ())
        result = measure(config, pages=pages, aged=aged, mode=mode, spread=spread, text=text)
    _show("retier", result, write, as_json)


def _show(theme: str, result: dict[str, Any], write: Path | None, as_json: bool) -> None:
    from palimpsest.lab.bench.machine import command_line, table_of, write_results

    if write:
        with explained():
            path = write_results(theme, result, write, command=command_line())
        err.print(f"written: {path}", markup=False, soft_wrap=True)
    print_json(result) if as_json else out.print(table_of(theme, result))
