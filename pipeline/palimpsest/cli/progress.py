"""The live line of long commands on stderr; where that is no terminal, a line at least every ten seconds."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from palimpsest.cli.console import Verbosity, err
from palimpsest.report.tables import duration

if TYPE_CHECKING:
    from palimpsest.operations.progress import Progress

BEAT = 8.0  # seconds between two lines that are piped
REDRAW = 0.5  # seconds between two looks at a job's progress
STAGES = {"read": "documents read", "paginate": "laid out", "encode": "encoded", "verify": "verified"}


class LiveLine:
    """One line that says how far a command is.

    `progress` is a job's progress, or a training run's row; it is looked at twice a second, also when nothing arrives.

    Args:
        doing: the word for it, such as "running".
    """

    def __init__(self, doing: str = "running", enabled: bool = True) -> None:
        enabled = enabled and not Verbosity.quiet
        self._bar = Bar(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            console=err,
            disable=not (enabled and err.is_terminal),
        )
        self._doing, self._enabled, self._piped = doing, enabled, not err.is_terminal
        self._task = self._bar.add_task("starting", total=None, text="")
        self._progress: Progress | None = None
        self._shown = "starting"
        self._ended = threading.Event()
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> LiveLine:
        self._bar.start()
        if self._enabled:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._progress is not None:
            self._draw()
        self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Follow this progress from now on."""
        self._progress = progress

    def show(self, text: str, done: float, total: float) -> None:
        """Draw the line; print it where stderr is no terminal. Until the next call, that is the state of the command."""
        self._shown = text
        self._bar.update(self._task, description=self._doing, completed=done, total=total, text=text)
        if self._piped and self._enabled:
            err.print(f"{time.monotonic() - self._began:6.0f} s  {text}", highlight=False, soft_wrap=True)

    def _follow(self) -> None:
        next_line = time.monotonic() + BEAT
        while not self._ended.wait(REDRAW):
            if self._progress is not None:
                self._progress.look()
            if not self._piped:
                self._draw()
            elif time.monotonic() >= next_line:
                next_line += BEAT
                self.show(self._text(), 0, 1)

    def _draw(self) -> None:
        if self._progress is None and self._shown != "starting":
            return
        share = self._progress.share if self._progress else None
        self._bar.update(
            self._task,
            description=self._doing if self._progress else "starting",
            completed=share or 0.0,
            total=None if share is None else 1.0,
            text=self._text(),
        )

    def _text(self) -> str:
        return described(self._progress) if self._progress else self._shown


def described(progress: Progress) -> str:
    """Pages done and in all, rate, units, time left, and where the pages are that are not written yet."""
    total = progress.estimated_pages
    about = (
        "" if total is None else f" of {'' if progress.pages_total is not None else 'about '}{max(total, progress.pages_done):,}"
    )
    parts = [f"{progress.pages:,}{about} pages", f"{progress.rate:,.1f} pages/s"]
    if progress.units_total:
        parts.append(f"{progress.units:,}/{progress.units_total:,} units committed")
    if (left := progress.seconds_left) is not None and progress.share != 1.0:
        parts.append(f"about {duration(left)} left")
    if progress.quarantined:
        parts.append(f"{progress.quarantined:,} quarantined")
    stages = progress.stages()
    reached = [f"{stages[name]['rows']:,.0f} {words}" for name, words in STAGES.items() if stages.get(name, {}).get("rows")]
    if reached:
        parts.append(f"({', '.join(reached)})")
    return "  ".join(parts)


class TrainingRows:
    """The rows of a training run: the live line, a table row per evaluation, or JSON lines to stdout."""

    def __init__(self, line: LiveLine, as_json: bool = False) -> None:
        self._line, self._as_json = line, as_json
        self._first: tuple[int, float] | None = None

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
        text = f"step {row['step']:,}/{row['steps']:,}  {rate:.2f} steps/s  {row['blend']}  {reads}"
        if rate:
            text += f"  about {duration((row['steps'] - row['step']) / rate)} left"
        self._line.show(text, row["step"], row["steps"])
