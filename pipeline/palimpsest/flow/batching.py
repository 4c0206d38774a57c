"""Chooses the batch size of a model: a short probe during the work itself finds it, and a lack of memory halves it.

On a GPU the batch starts at one page and doubles as long as that makes a page cheaper by GAIN. The first batch of a size is not
timed, because it may compile or capture something; the faster of the next two counts. The probe computes nothing extra: every
page of it belongs to the corpus. On a CPU the batch is one page. A larger batch gains nothing there, and the last bits of a
product depend on its number of rows, so a page's tokens would depend on the other pages of its batch.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from palimpsest import telemetry
from palimpsest.telemetry import log_event

Item = TypeVar("Item")
Made = TypeVar("Made")
GAIN = 1.05  # least ratio of pages/s, doubled batch to smaller batch, that is worth the memory
TIMED = 2  # timed batches of each size, after one that is not timed


class TooLittleMemory(RuntimeError):
    """Not even one page fits into the device's memory."""


@dataclass
class Size:
    """The batch size of one kind of batch.

    Attributes:
        pages: most pages of the next batch.
        most: upper limit of `pages`.
        batches: full batches of this size so far.
        rate: best pages/s of this size; `smaller` is that of half the size.
        settled: whether the probe has ended.
    """

    pages: int
    most: int
    batches: int = 0
    rate: float = 0.0
    smaller: float = 0.0
    settled: bool = False

    def took(self, pages: int, seconds: float) -> None:
        """Record a batch that succeeded."""
        if self.settled or pages != self.pages:
            return
        self.batches += 1
        if self.batches == 1:
            return
        self.rate = max(self.rate, pages / seconds if seconds > 0 else float("inf"))
        if self.batches <= TIMED:
            return
        if self.rate < GAIN * self.smaller:
            self.settled, self.pages = True, max(1, self.pages // 2)
        elif self.pages >= self.most:
            self.settled = True
        else:
            self.pages, self.smaller = min(2 * self.pages, self.most), self.rate
            self.batches, self.rate = 0, 0.0

    def did_not_fit(self, pages: int) -> None:
        """Record that a batch of more than one page ran out of memory; half of it is the limit from now on."""
        self.most = self.pages = pages // 2
        self.settled = True


class Batches:
    """The batches of one model in one worker.

    Args:
        stage: name in logs and metrics.
        most: most pages of a batch.
        grows: whether batches may have more than one page; true on a GPU.
        clock: returns seconds.
    """

    def __init__(self, stage: str, most: int, grows: bool, clock: Callable[[], float] = time.perf_counter) -> None:
        self.stage, self.most, self.grows, self.clock = stage, most, grows, clock
        self.sizes: dict[str, Size] = {}
        self._spent: Counter[str] = Counter()

    def over(self, kind: str, items: Sequence[Item], work: Callable[[Sequence[Item]], Iterable[Made]]) -> Iterator[Made]:
        """Apply `work` to `items` batch by batch; yields the results in order.

        Args:
            kind: the mode; batches of one kind cost the same.
            work: returns one result per item, and no longer uses the device when it returns.

        Raises:
            TooLittleMemory: when `work` runs out of the device's memory with one item alone.
        """
        size = self.sizes.setdefault(kind, Size(pages=1, most=max(1, self.most), settled=not self.grows))
        start = 0
        while start < len(items):
            some = items[start : start + size.pages]
            began = self.clock()
            made = self._tried(work, some)
            seconds = self.clock() - began
            self._spent["model_seconds"] += seconds  # type: ignore[assignment]
            if made is None:
                self._halve(size, kind, len(some))
                continue
            size.took(len(some), seconds)
            self._spent["model_pages"] += len(some)
            start += len(some)
            yield from made

    def drain(self) -> dict[str, float]:
        """Counts since the last call: `model_seconds`, `model_pages`, and `halved`, the batches that ran out of memory."""
        spent: dict[str, float] = dict(self._spent)
        self._spent = Counter()
        return spent

    def _tried(self, work: Callable[[Sequence[Item]], Iterable[Made]], some: Sequence[Item]) -> list[Made] | None:
        """The results, or None if the device ran out of memory. Returning drops the exception and the tensors in its frames."""
        import torch

        try:
            return list(work(some))
        except torch.OutOfMemoryError as error:
            if len(some) == 1:
                raise TooLittleMemory(
                    f"{self.stage}: one page alone does not fit into the device's memory: choose a mode with fewer pixels, or "
                    f"fewer workers on a GPU (placement.gpus_per_worker). {error}"
                ) from error
            return None

    def _halve(self, size: Size, kind: str, pages: int) -> None:
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        size.did_not_fit(pages)
        self._spent["halved"] += 1
        telemetry.record("palimpsest_batches_halved", 1, stage=self.stage)
        log_event("batch_halved", stage=self.stage, mode=kind, pages=pages, now=size.pages)
