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
        stages: seconds, rows and bytes of text of each stage's workers so far (`Executor.stage_seconds`). Pages that are verified
            count for the share, the rate and the time left before they are written: a shard gathers many.
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
    _first: tuple[float, float, int] | None = None  # when the first pages were done, their share of the job, and their number
    _earlier: dict[str, float] = field(default_factory=dict)  # of the verified: what an executor did before, or does again

    def __post_init__(self) -> None:
        self._earlier = dict(self._verified())

    @property
    def seconds(self) -> float:
        """Since processing began."""
        return time.monotonic() - self.began

    @property
    def share(self) -> float | None:
        """The completed share of the job, from 0 to 1; None while it is unknown.

        It is the share of pages if their number is known. Otherwise it compares the bytes of verified text with the bytes of the
        sources. Committed units give the source bytes per byte of text; before the first one the ratio is assumed to be 1.
        """
        if self.pages_total is not None:
            return min(1.0, self.pages_done / self.pages_total) if self.pages_total else 1.0
        if not self.bytes_total:
            return None
        each = self.bytes / self._settled if self._settled else 1.0
        running = (max(self.text_bytes, self._since("text_bytes")) - self._settled) * each
        return min(1.0, (self.bytes + running) / self.bytes_total)

    @property
    def pages_done(self) -> int:
        """Pages that are verified; those that are written are among them."""
        return max(self.pages, int(self._since("pages")))

    @property
    def estimated_pages(self) -> int | None:
        """The approximate number of pages of the whole job; None while that is unknown."""
        if self.pages_total is not None:
            return self.pages_total
        return round(self.pages_done / self.share) if self.pages_done and self.share else None

    @property
    def rate(self) -> float:
        """Pages per second since the first ones were done, which excludes the start-up."""
        if self._first is None:
            return 0.0
        at, _, before = self._first
        elapsed, done = time.monotonic() - at, self.pages_done - before
        if done <= 0:  # all pages arrived at once
            elapsed, done = self.seconds, self.pages_done
        return done / elapsed if elapsed else 0.0

    @property
    def seconds_left(self) -> float | None:
        """The estimated time left; None while unknown. It uses the speed since the first pages."""
        share = self.share
        if not share or self._first is None:
            return None
        at, before, _ = self._first
        elapsed, done = time.monotonic() - at, share - before
        return max(0.0, (1 - share) * elapsed / done) if done > 0 else None

    def look(self) -> None:
        """Note when the first pages are done; whoever shows the progress calls it now and then."""
        if self._first is None and (done := self.pages_done):
            self._first = time.monotonic(), self.share or 0.0, done

    def read(self, pages: int) -> None:
        """Add the number of pages of a published corpus that were checked."""
        self.pages += pages
        self.look()
        self.watch(self)

    def arrived(self, row: Mapping[str, Any]) -> None:
        if row["kind"] == RowKind.QUARANTINED:
            self.quarantined += 1
        elif row["kind"] == RowKind.WRITTEN:
            self._add(row["counts"], 1)
            self.look()
        self.watch(self)

    def again(self, unit: UnitInFlight) -> None:
        self._add(unit.arrived.counts, -1)
        self.quarantined -= sum(unit.reasons.values())
        seen = self._verified()  # what was verified and not written is verified again
        self._earlier = {
            name: seen.get(name, 0.0) - written for name, written in (("pages", self.pages), ("text_bytes", self.text_bytes))
        }
        self.watch(self)

    def committed(self, unit: UnitInFlight, record: CommitRecord) -> None:
        self._settle(unit)

    def unread(self, unit: UnitInFlight, source: UnreadSource) -> None:
        self._settle(unit)

    def _verified(self) -> Mapping[str, float]:
        return self.stages().get("verify", {})

    def _since(self, name: str) -> float:
        """Pages, or bytes of their text, that were verified in this job."""
        return self._verified().get(name, 0.0) - self._earlier.get(name, 0.0)

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
            repeated = max(0, self.pages_done - self._settled_pages)
            again = f"the same command continues from there and repeats {repeated:,} pages of units that were not complete"
            raise Stopped(f"stopped with {self.units:,} of {self.units_total:,} units committed; {again}") from error
