"""Independent sections of a bench: one that fails or exceeds its time harms no other, and its results so far are kept."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

_log = logging.getLogger(__name__)
Value = TypeVar("Value")
GIB = 2**30


class OutOfTime(BaseException):
    """A section outlasted its share; no `Exception`, so that nothing on the way takes it for a failure of its own."""


@dataclass
class Bench:
    """The state that the sections share.

    Attributes:
        seconds: all that there are, from the start.
        save: called with what is there so far whenever something was found.
        notes: sentences for the result; `closing`: those that every result ends with.
        ends: when the current section is stopped.
    """

    device: str
    tiny: bool
    seconds: float
    save: Callable[[dict[str, Any]], None] | None = None
    started: float = field(default_factory=time.perf_counter)
    notes: list[str] = field(default_factory=list)
    closing: list[str] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)
    matmul: float = 0.0
    codec: Any = None
    ends: float = float("inf")

    @property
    def gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started

    @property
    def left(self) -> float:
        """Seconds that the present section has left."""
        return max(0.0, self.ends - time.perf_counter())

    def keep(self, found: dict[str, Any]) -> None:
        """Add what was found to the result, and write it."""
        self.result.update(found)
        if self.save is not None:
            self.save(self.result | {"notes": self.notes + self.closing, "seconds": self.elapsed})

    def sync(self) -> None:
        import torch

        if self.gpu:
            torch.cuda.synchronize()

    def timed(self, work: Callable[[], Value], seconds: float, least: int = 1) -> tuple[float, Value]:
        """Mean seconds of one call, over as many as fit into `seconds`, after one that does not count."""
        value = work()
        self.sync()
        start, calls = time.perf_counter(), 0
        while calls < least or time.perf_counter() - start < seconds:
            value, calls = work(), calls + 1
            self.sync()
        return (time.perf_counter() - start) / calls, value

    def fitting(self, size: int, work: Callable[[int], Value], what: str) -> tuple[int, Value]:
        """`work(size)`, with half the size as long as memory does not suffice."""
        import torch

        while True:
            try:
                return size, work(size)
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
            size //= 2
            torch.cuda.empty_cache()
            self.notes.append(f"out of memory: {what} went on with {size}")


def guarded(bench: Bench, name: str, section: Callable[[Bench], dict[str, Any]], limit: float) -> dict[str, Any]:
    import torch

    row: dict[str, Any] = {"section": name, "outcome": "done", "seconds": 0.0, "peak_memory_gib": None}
    if limit <= 0:
        return {**row, "outcome": f"skipped: {bench.elapsed:.0f} s had passed of {bench.seconds:.0f}"}
    start = time.perf_counter()
    bench.ends = start + limit
    try:
        if bench.gpu:
            torch.cuda.reset_peak_memory_stats()
        with at_most(limit):
            bench.keep(section(bench))
    except OutOfTime:
        row["outcome"] = f"stopped after its {limit:.0f} s; its results so far are kept"
    except Exception as error:  # the other sections are worth having
        _log.exception("section %s", name)
        row["outcome"] = summary(error)
    row["seconds"] = time.perf_counter() - start
    if bench.gpu:
        with suppress(RuntimeError):
            row["peak_memory_gib"] = torch.cuda.max_memory_allocated() / GIB
            torch.cuda.empty_cache()
    return row


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` in here after that many seconds, where this is the main thread of a system with alarms."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    start = time.perf_counter()
    outer, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, max(0.001, outer - (time.perf_counter() - start)) if outer else 0)
        signal.signal(signal.SIGALRM, before)


def summary(error: BaseException) -> str:
    """An error's kind and the first line of its message."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"
