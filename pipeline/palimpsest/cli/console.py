"""What commands say: results to stdout as a table or JSON, everything else to stderr, and four exit codes.

0  done
1  failed: nothing was published, or the command could not finish
2  usage: an unknown setting, a source or corpus that is not there
3  findings: the command finished and found something wrong
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

DONE, FAILED, USAGE, FINDINGS = 0, 1, 2, 3

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def quiet_libraries() -> None:
    """Keep the libraries' own progress and advice off the terminal; what they warn of otherwise, and their errors, stay."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    warnings.filterwarnings("ignore", message="The maximum number of concurrent tasks")  # a small corpus is no mistake
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")


def needs_lab() -> None:
    """End with exit code 2 where the packages of the extra `lab` are not installed, and say how to install them."""
    if find_spec("matplotlib") is None:
        err.print("error: benchmarks and training need an extra: pip install 'palimpsest[lab]'", markup=False, soft_wrap=True)
        raise typer.Exit(USAGE)


@contextmanager
def explained() -> Iterator[None]:
    """Turn the errors that a user can mend into one line and an exit code; a bug keeps its traceback."""
    from palimpsest.flow.ledger import WorkerFailed
    from palimpsest.operations.run import RunFailed
    from palimpsest.storage.object_store import StoreError

    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        err.print(f"[bold red]error:[/] {_plain(error)}", soft_wrap=True)
        raise typer.Exit(USAGE) from error
    except BrokenPipeError:
        raise  # whoever reads our output has seen enough
    except (RunFailed, StoreError, OSError, WorkerFailed) as error:
        err.print(f"[bold red]failed:[/] {_plain(error)}", soft_wrap=True)
        raise typer.Exit(FAILED) from error
    except KeyboardInterrupt as error:
        err.print("stopped; what was committed is kept, the same command goes on from there")
        raise typer.Exit(FAILED) from error


def _plain(error: BaseException) -> str:
    return escape(str(error).strip())


def line(text: str) -> None:
    """A line to stdout as it is: whole, however long, and brackets in it are no markup."""
    out.print(text, markup=False, soft_wrap=True)


def passed_over(passed: Mapping[str, Any]) -> None:
    """A line about the names that a listing passed over, if there are any."""
    from palimpsest.sources.names import passed_over_line

    if passed:
        line(passed_over_line(passed))


def print_json(value: Any) -> None:
    """One JSON value to stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def pairs(title: str, values: Mapping[str, Any]) -> Table:
    """A two-column table."""
    table = Table(title=escape(title), title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column()
    for name, value in values.items():
        table.add_row(name, escape(str(value)))
    return table


class RunProgress:
    """The live line of a run on stderr: pages, rate, units, an estimate; a line every ten seconds where that is no terminal."""

    def __init__(self, enabled: bool = True) -> None:
        self._live = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[said]}"),
            TimeElapsedColumn(),
            console=err,
            disable=not (enabled and err.is_terminal),
        )
        self._enabled = enabled
        self._task = self._live.add_task("planning", total=None, said="")
        self._next_line = time.monotonic() + 10

    def __enter__(self) -> RunProgress:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, progress: Any) -> None:
        rate = progress.pages / progress.seconds if progress.seconds else 0.0
        said = f"{progress.pages:,} pages  {rate:,.1f} pages/s  {progress.units}/{progress.units_total} units"
        if progress.bytes and progress.bytes_total > progress.bytes:
            left = progress.seconds * (progress.bytes_total - progress.bytes) / progress.bytes
            said += f"  about {left:,.0f} s left"
        if progress.quarantined:
            said += f"  {progress.quarantined:,} quarantined"
        self._live.update(self._task, description="running", total=progress.units_total, completed=progress.units, said=said)
        if self._enabled and not err.is_terminal and time.monotonic() > self._next_line:
            self._next_line = time.monotonic() + 10
            err.print(f"{progress.seconds:6.0f} s  {said}")


class PageProgress:
    """A live line of pages done, for commands that walk over a published corpus."""

    def __init__(self, description: str) -> None:
        self._live = Progress(
            TextColumn(description),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:,}/{task.total:,} pages"),
            TimeElapsedColumn(),
            console=err,
            disable=not err.is_terminal,
        )
        self._task = self._live.add_task(description, total=0)

    def __enter__(self) -> PageProgress:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, done: int, total: int) -> None:
        self._live.update(self._task, completed=done, total=total)


class TrainProgress:
    """The live line of a training run on stderr, and a table row per evaluation; JSON lines to stdout where asked."""

    def __init__(self, as_json: bool = False) -> None:
        self._as_json = as_json
        self._live = Progress(
            TextColumn("training"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:,}/{task.total:,} steps  {task.fields[said]}"),
            TimeElapsedColumn(),
            console=err,
            disable=not err.is_terminal,
        )
        self._task = self._live.add_task("training", total=0, said="")
        self._first: tuple[int, float] | None = None

    def __enter__(self) -> TrainProgress:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, row: Mapping[str, Any]) -> None:
        if self._as_json:
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()
        elif "text_class" in row:
            err.print(
                f"  step {row['step']:,}  {row['grid']} {row['mode']:<6}{row['text_class']:<8}"
                f"{row['cells_read']:7.2%} of the inked cells at {row['ratio']:.1f}x",
                highlight=False,
            )
        elif "steps" in row:
            self._report(row)
        elif row.get("begins_afresh"):
            err.print(f"begins afresh, because the checkpoint has nothing that fits: {', '.join(row['begins_afresh'])}")

    def _report(self, row: Mapping[str, Any]) -> None:
        self._first = self._first or (row["step"], row["seconds"])
        done, took = row["step"] - self._first[0], row["seconds"] - self._first[1]
        rate = done / took if took else 0.0
        reads = "  ".join(f"{name} {row[name]:.1%}" for name in ("patch", "token", "written") if name in row)
        said = f"{rate:.2f} steps/s  {row['blend']}  {reads}"
        if rate:
            said += f"  about {(row['steps'] - row['step']) / rate / 60:,.0f} min left"
        self._live.update(self._task, completed=row["step"], total=row["steps"], said=said)
        if not err.is_terminal:
            err.print(f"step {row['step']:,}/{row['steps']:,}  {said}", highlight=False)
