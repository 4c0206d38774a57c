"""The settings that a benchmark starts from, and its result: printed, and written to a folder where one is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palimpsest.cli import console
from palimpsest.cli.console import explained, out, print_json

if TYPE_CHECKING:
    from palimpsest.config import JobConfig

Plot = Callable[[dict[str, Any], Path], Sequence[Path]]


def local(overrides: list[str] | None) -> JobConfig:
    """The preset `local` with a command's overrides."""
    from palimpsest.config import load

    return load("local", overrides or ())


def finish(
    theme: str, result: dict[str, Any], write: Path | None, as_json: bool, plot: Plot | None = None, command: str = ""
) -> None:
    """Print a result. Where `write` is a folder, write it there too, with the figures that `plot` draws next to its page.

    Args:
        command: the one that gives this result; by default the command line.
    """
    from palimpsest.lab.bench.machine import command_line, table_of, write_results

    if write:
        with explained():
            path = write_results(theme, result, write, command or command_line())
            figures = plot(result, path) if plot else ()
            with path.open("a", encoding="utf-8") as page:
                page.writelines(f"\n![{figure.stem}]({figure.name})\n" for figure in figures)
        console.err.print(f"written: {path}", markup=False, soft_wrap=True)
    print_json(result) if as_json else out.print(table_of(theme, result))
