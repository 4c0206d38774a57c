"""Batches made ahead of the training loop, in processes of their own."""

from __future__ import annotations

import random
import signal
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from palimpsest.codecs.embedded.target import ALPHABET
from palimpsest.lab.training.codec_pages import Batch, PageSampler
from palimpsest.pages.layouts.grid import Grid
from palimpsest.settings import Settings

AHEAD = 3  # batches that each process makes ahead


class Blend(Settings):
    """A share of the training steps: one grid in one mode."""

    grid: str
    mode: str
    weight: float
    """Relative frequency."""
    pages: int
    """Pages of a step."""
    stretch: int = 0
    """Ids of each page's target that the decoder learns from in one step; 0 is the run's own number."""
    encoder: bool = True
    """The encoder learns in these steps; a frozen one makes a step twice as fast."""
    decoder: bool = True
    """The decoder learns in these steps."""


class _Endless(IterableDataset[tuple[Blend, Batch]]):
    def __init__(self, text: str, seed: int, blends: Sequence[Blend], stretch: int) -> None:
        self.text, self.seed, self.blends, self.stretch = text, seed, blends, stretch

    def __iter__(self) -> Iterator[tuple[Blend, Batch]]:
        worker: Any = get_worker_info()
        if worker:  # what stops the run stops the whole process group: the run itself ends its workers, after it has saved
            for name in (signal.SIGTERM, signal.SIGINT):
                signal.signal(name, signal.SIG_IGN)
        seed = self.seed * 1009 + (worker.id if worker else 0)
        sampler, choice = PageSampler(self.text, seed), random.Random(seed)
        weights = [blend.weight for blend in self.blends]
        while True:
            blend = choice.choices(self.blends, weights)[0]
            grid = Grid.parse(blend.grid, ALPHABET)
            yield blend, sampler.batch(grid, blend.mode, blend.pages, blend.stretch or self.stretch)


def batches(
    text: str, seed: int, blends: Sequence[Blend], stretch: int, workers: int
) -> Generator[tuple[Blend, Batch], None, None]:
    """Endless batches, the same for the same arguments; `close` ends the processes that make them.

    Args:
        text: as `PageSampler` takes it; every worker reads it.
        workers: processes; 0 makes each batch when it is asked for.
    """
    data = _Endless(text, seed, blends, stretch)
    ahead = AHEAD if workers else None
    loader = iter(DataLoader(data, batch_size=None, num_workers=workers, prefetch_factor=ahead, collate_fn=_as_it_is))
    try:
        yield from loader
    finally:
        del loader  # ends the workers, which no signal does


def _as_it_is(item: Any) -> Any:
    return item
