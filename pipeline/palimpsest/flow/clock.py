"""The time of each stage, per process."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from palimpsest import telemetry
from palimpsest.flow.stages import Model
from palimpsest.schemas import RowKind

Pull = Callable[[Iterator[pa.Table]], pa.Table | None]


def _next(tables: Iterator[pa.Table]) -> pa.Table | None:
    return next(tables, None)


class Clock:
    """Times batches by stage.

    `spent` has seconds, batches, rows, the verified pages and their bytes of text, and what the models of a stage report.
    """

    def __init__(self) -> None:
        self.spent: dict[str, Counter[str]] = defaultdict(Counter)
        self.began: float | None = None
        self.seen: float | None = None

    def timed(self, stage: str, outputs: Iterable[pa.Table], pull: Pull = _next) -> Iterator[pa.Table]:
        """Yield `outputs` and time them. The consumer's time does not count.

        Args:
            pull: returns the next table, None at the end.
        """
        iterator = iter(outputs)
        while True:
            start = time.perf_counter()
            if self.began is None:
                self.began = start
            table = pull(iterator)
            seconds = time.perf_counter() - start
            spent = self.spent[stage]
            spent["seconds"] += seconds  # type: ignore[assignment]
            if table is None:
                return
            spent["batches"] += 1
            spent["rows"] += table.num_rows
            if stage == "verify":  # for the progress
                pages = table["text"].filter(pc.equal(table["kind"], RowKind.PAGE))
                spent["pages"] += len(pages)
                spent["text_bytes"] += pc.sum(pc.binary_length(pages)).as_py() or 0
            telemetry.record("palimpsest_stage_seconds", seconds, stage=stage)
            yield table

    def model(self, stage: str, of: Any) -> None:
        """Add the metrics of a stage's models, and the wall time since the last call."""
        self.spent[stage].update(_drained(of))  # type: ignore[arg-type]
        now = time.perf_counter()
        self.spent[stage]["wall_seconds"] += now - (self.seen or self.began or now)  # type: ignore[assignment]
        self.seen = now

    def busy_share(self, stage: str) -> float:
        wall = time.perf_counter() - (self.began or time.perf_counter())
        return min(1.0, self.spent[stage]["seconds"] / wall) if wall else 1.0


def added_up(parts: Iterable[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """The sum of `spent` over several clocks, rounded to milliseconds."""
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    for part in parts:
        for stage, spent in part.items():
            totals[stage].update(spent)  # type: ignore[arg-type]
    return {stage: {name: round(value, 3) for name, value in total.items()} for stage, total in sorted(totals.items())}


def _drained(stage: Any) -> dict[str, float]:
    """The seconds and pages of a stage's models since the last call, without models in child processes."""
    total: Counter[str] = Counter()
    for part in (stage, getattr(stage, "encode", None), getattr(stage, "verify", None)):
        if isinstance(part, Model):
            total.update(part.batched.drain())  # type: ignore[arg-type]
    return dict(total)
