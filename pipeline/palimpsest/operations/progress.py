"""The progress of a job: a subscriber of the ledger, with pages, a rate and an estimate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from palimpsest.corpus.units import CommitRecord
from palimpsest.errors import Stopped
from palimpsest.flow.ledger import Subscriber, UnitInFlight, UnreadSource
from palimpsest.schemas import RowKind


@dataclass
class Progress(Subscriber):
    """The progress of a job.

    Attributes:
        units, units_total: units that are committed (or unreadable), and units to process in this job.
        bytes, bytes_total: stored bytes of the sources of these units, and of all units to process.
        pages, text_tokens, context_tokens, text_bytes: written so far, not necessarily committed.
        pages_total: number of pages, if it is known beforehand (re-tiering).
        stages: seconds and rows of each stage's workers so far (`Executor.stage_seconds`).
        watch: called after every change.
    """

    units_total: int = 0
    bytes_total: int = 0
    pages_total: int | None = None
    units: int = 0
    bytes: int = 0
    documents: int = 0
    pages: int = 0
    text_tokens: int = 0
    context_tokens: int = 0
    text_bytes: int = 0
    quarantined: int = 0
    stages: Callable[[], Mapping[str, Mapping[str, float]]] = dict
    watch: Callable[[Progress], None] = lambda progress: None
    began: float = field(default_factory=time.monotonic)
    _settled: int = 0  # text bytes of the units that `bytes` counts
    _settled_pages: int = 0
    _first: tuple[float, float] | None = None  # when the first pages arrived, and their share of the job

    @property
    def seconds(self) -> float:
        """Since processing began."""
        return time.monotonic() - self.began

    @property
    def share(self) -> float | None:
        """The completed share of the job, from 0 to 1; None while it is unknown.

        It is the share of pages if their number is known. Otherwise it compares the bytes of written text with the bytes of the
        sources. Committed units give the source bytes per byte of text; before the first one the ratio is assumed to be 1.
        """
        if self.pages_total is not None:
            return self.pages / self.pages_total if self.pages_total else 1.0
        if not self.bytes_total:
            return None
        each = self.bytes / self._settled if self._settled else 1.0
        running = (self.text_bytes - self._settled) * each
        return min(1.0, (self.bytes + running) / self.bytes_total)

    @property
    def estimated_pages(self) -> int | None:
        """The approximate number of pages of the whole job; None while that is unknown."""
        return self.pages_total if self.pages_total is not None else round(self.pages / self.share) if self.share else None

    @property
    def rate(self) -> float:
        """Pages per second since processing began."""
        return self.pages / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """The estimated time left; None while unknown. It uses the speed since the first pages, which excludes the start-up."""
        share = self.share
        if not share or self._first is None:
            return None
        at, before = self._first
        elapsed, done = time.monotonic() - at, share - before
        if done <= 0:  # only the first pages have arrived
            elapsed, done = self.seconds, share
        return max(0.0, (1 - share) * elapsed / done)

    def read(self, pages: int) -> None:
        """Add the number of pages of a published corpus that were checked."""
        self.pages += pages
        if self._first is None:
            self._first = time.monotonic(), self.share or 0.0
        self.watch(self)

    def arrived(self, row: Mapping[str, Any]) -> None:
        if row["kind"] == RowKind.QUARANTINED:
            self.quarantined += 1
        elif row["kind"] == RowKind.WRITTEN:
            counts = row["counts"]
            self._add(counts, 1)
            if self._first is None:
                self._first = time.monotonic(), self.share or 0.0
        self.watch(self)

    def again(self, unit: UnitInFlight) -> None:
        self._add(unit.arrived.counts, -1)
        self.quarantined -= sum(unit.reasons.values())
        self.watch(self)

    def committed(self, unit: UnitInFlight, record: CommitRecord) -> None:
        self._settle(unit)

    def unread(self, unit: UnitInFlight, source: UnreadSource) -> None:
        self._settle(unit)

    def _add(self, counts: Mapping[str, int], sign: int) -> None:
        for name in ("pages", "text_tokens", "context_tokens", "text_bytes"):
            setattr(self, name, getattr(self, name) + sign * counts[name])
        self.documents += sign * counts["first_pages"]

    def _settle(self, unit: UnitInFlight) -> None:
        self.units += 1
        self.bytes += unit.bytes
        self._settled += unit.arrived.counts["text_bytes"]
        self._settled_pages += unit.arrived.counts["pages"]
        self.watch(self)

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Turn an interrupt (SIGINT, SIGTERM) within the block into an error that names the work to repeat.

        Raises:
            Stopped.
        """
        try:
            yield
        except KeyboardInterrupt as error:
            repeated = self.pages - self._settled_pages
            again = f"the same command continues from there and repeats {repeated:,} pages of units that were not complete"
            raise Stopped(f"stopped with {self.units:,} of {self.units_total:,} units committed; {again}") from error
