"""`Mix`: several sources in given proportions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from palimpsest.errors import UsageError
from palimpsest.loading.order import hashes
from palimpsest.loading.source import STREAMS, WINDOW_BYTES, Cursor, Item, Reading, Rows, Source

DRAWS = 4096  # computed at a time


class Mix(Source):
    """Samples of several sources, drawn by weight, without end: each source repeats its own epochs.

    The n-th sample of a stream comes from the source that a hash of (seed, stream, n) picks, so that proportions hold on average
    and nothing has to be remembered. A cursor is (n, cursor of each source). Samples carry `source`, the number of their source
    in the order given.

    Args:
        weights: by source; they need not add up to 1.
        seed, streams, window_bytes: of the mix; they replace those of its sources. The window is divided by weight.

    Raises:
        UsageError: no source, a weight that is not above 0, or a source that is no Pages or Memory.
    """

    endless = True

    def __init__(
        self, weights: Mapping[Rows, float], seed: int = 0, streams: int = STREAMS, window_bytes: int = WINDOW_BYTES
    ) -> None:
        super().__init__()
        if not weights:
            raise UsageError("Mix({}): at least one source")
        for source, weight in weights.items():
            if not isinstance(source, Rows):
                raise UsageError(f"Mix: {source!r} is no Pages or Memory; pack a mix, do not mix packs")
            if not 0 < weight < float("inf"):
                raise UsageError(f"Mix: the weight of {source} is {weight}; a weight is above 0")
        self.sources, self.seed, self.streams = tuple(weights), seed, streams
        shares = np.array(list(weights.values()), float) / sum(weights.values())
        self._bounds = (np.cumsum(shares) * 2.0**64).astype(float)
        for number, (source, share) in enumerate(zip(self.sources, shares, strict=True)):
            mixed_seed = int(hashes(np.array([number]), seed)[0] >> np.uint64(33))
            source.deal_as(mixed_seed, streams, max(1, int(window_bytes * share)))

    def identity(self) -> list[dict[str, int]]:
        return [part for source in self.sources for part in source.identity()]

    def adopt(self, identity: Sequence[dict[str, int]]) -> None:
        if len(identity) != len(self.sources):
            raise UsageError(f"the state is of {len(identity)} sources, this mix has {len(self.sources)}")
        for source, part in zip(self.sources, identity, strict=True):
            source.adopt([part])

    def check(self) -> None:
        for source in self.sources:
            source.check()

    def start(self, epoch: int) -> Cursor:
        return (0, *(part for source in self.sources for part in source.start(epoch)))

    def end(self, stream: int, epoch: int) -> Cursor:
        raise AssertionError("a mix has no end")

    def epoch(self, cursor: Cursor) -> int:
        return 0

    def stream(self, number: int, cursor: Cursor, reading: Reading) -> Iterator[tuple[Item, Cursor]]:
        n = cursor[0]
        cursors = [cursor[1 + 2 * i : 3 + 2 * i] for i in range(len(self.sources))]
        endless = replace(reading, repeat=True)  # shares the list of damage
        streams = [source.stream(number, at, endless) for source, at in zip(self.sources, cursors, strict=True)]
        while True:
            drawn = hashes(np.arange(n, n + DRAWS), self.seed, number).astype(float)
            picks = np.minimum(np.searchsorted(self._bounds, drawn, side="right"), len(streams) - 1)
            for pick in picks.tolist():
                item, cursors[pick] = next(streams[pick])
                n += 1
                yield (pick, item), (n, *(part for at in cursors for part in at))

    def finish(self, item: Item) -> Any:
        pick, inner = item
        return {**self.sources[pick].finish(inner), "source": pick}

    def __repr__(self) -> str:
        return f"Mix of {', '.join(map(str, self.sources))}"
