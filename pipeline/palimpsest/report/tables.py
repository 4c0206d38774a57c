"""Tables and figures in a terminal, in one style. They never cut a value: a table that is too wide becomes one block per row.

Strings from a corpus are printed as text: no markup and no escape sequence in them acts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from palimpsest.report.printable import printable

NONE = "–"


@dataclass(frozen=True)
class Rows:
    """A table with a title and a header line.

    Attributes:
        columns: their names; one that begins with ">" is aligned to the right.
        rows: a text per column.
        totals: rows below a line.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    totals: Sequence[Sequence[str]] = field(default=())

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.title:
            yield Text(plain(self.title), "bold")
        table = self._table()
        if Measurement.get(console, options.update(max_width=100_000), table).maximum <= options.max_width:
            yield table
            return
        for row in (*self.rows, *self.totals):
            yield Text()
            yield Pairs("", {name.lstrip(">"): value for name, value in zip(self.columns, row, strict=True) if value})

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for name in self.columns:
            table.add_column(name.lstrip(">"), justify="right" if name.startswith(">") else "left", no_wrap=True)
        for rows in (self.rows, self.totals):
            for row in rows:
                table.add_row(*(Text(plain(value)) for value in row))
            table.add_section()
        return table


@dataclass(frozen=True)
class Pairs:
    """Names and values, one pair a line; long values continue below themselves."""

    title: str
    values: Mapping[str, Any]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.title:
            yield Text(plain(self.title), "bold")
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in self.values.items():
            table.add_row(plain(name), Text(plain(str(value))))
        yield table


def plain(text: str) -> str:
    return printable(text, keep="")


def listed(counter: Mapping[str, int]) -> str:
    """Counts by name: `prose 12, code 3`."""
    return ", ".join(f"{name} {count:,}" for name, count in counter.items())


def share(value: float | None) -> str:
    """A share in percent with two digits. What is not quite 0 or 1 is not rounded to it."""
    if value is None:
        return NONE
    if 0 < value < 0.00005:
        return "<0.01%"
    return ">99.99%" if 0.99995 <= value < 1 else f"{value:.2%}"


def ratio(text_tokens: float, context_tokens: float) -> str:
    """Text tokens per context token, or a dash where there are none."""
    return f"{text_tokens / context_tokens:.2f}×" if context_tokens else NONE


def ratios(text_tokens: int, context_tokens: int, tokens_as_text: int) -> str:
    """Both compression ratios: of all pages, and of those that are visual tokens.

    Args:
        context_tokens: of all pages; those kept as text cost their own tokens.
        tokens_as_text: tokens of the pages kept as text, which are in both other numbers.
    """
    if not tokens_as_text:
        return f"{ratio(text_tokens, context_tokens)} (every page is visual)" if context_tokens else NONE
    visual = ratio(text_tokens - tokens_as_text, context_tokens - tokens_as_text)
    return f"{ratio(text_tokens, context_tokens)} over all pages, {visual} over the visual ones"


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 05 s`, `2 h 07 min`, `3 d 4 h`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 89.5:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02d} s"
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def size(count: float) -> str:
    """Bytes: `812 bytes`, `64.0 kB`, `1.2 GB` (1 kB = 1,000 bytes)."""
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in ("kB", "MB", "GB", "TB"):
        count /= 1000
        if count < 999.95 or unit == "TB":
            break
    return f"{count:,.1f} {unit}"


def numbers(values: Iterable[int]) -> str:
    return ", ".join(f"{value:,}" for value in values)
