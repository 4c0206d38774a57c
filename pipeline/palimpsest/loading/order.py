"""The order of an epoch: blocks of rows, dealt to streams, shuffled in windows.

A *section* is what a corpus has of one source slice, its rows in an order that re-tiering does not change. Sections are cut into
*blocks* of consecutive rows. The blocks of an epoch are permuted and dealt to `streams` canonical streams in turn, in each turn
one of each of as many equal regions of the corpus, so that no stretch of an epoch prefers a part of it. A stream shuffles the
rows of a few consecutive blocks, a *window*, together. All of it follows from row counts, seed and epoch, so every rank computes
any position without reading a row. Permutations sort by a hash (splitmix64, Steele et al. 2014), because numpy does not promise
equal permutations across its versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

BLOCK_ROWS = 32  # about one row group of 2 MiB
BLOCKS_PER_STREAM = 8  # a small corpus is cut finer, so that streams are even and its pages mix


@dataclass(frozen=True)
class Dealing:
    """How rows become streams; recorded in a state, because the bytes of a page change with its tier.

    Attributes:
        streams: canonical streams; any world size that divides them can read.
        block: rows of a block.
        window: blocks of a stream that are shuffled together.
    """

    seed: int
    streams: int
    block: int
    window: int


def dealing(rows: int, stored_bytes: int, seed: int, streams: int, window_bytes: int) -> Dealing:
    """A dealing whose windows, of all streams together, take about `window_bytes` as stored."""
    per_row = max(1.0, stored_bytes / max(1, rows))
    room = max(1, int(window_bytes / (streams * per_row)))  # rows of one stream's window
    block = max(1, min(BLOCK_ROWS, rows // (streams * BLOCKS_PER_STREAM), room))
    return Dealing(seed, streams, block, max(1, room // block))


class Order:
    """The order of the rows of all sections.

    Args:
        sizes: rows of each section.
    """

    def __init__(self, sizes: np.ndarray, dealing: Dealing) -> None:
        self.dealing = dealing
        counts = -(-sizes // dealing.block)
        self._section = np.repeat(np.arange(len(sizes)), counts)
        first = np.cumsum(counts) - counts
        self._start = (np.arange(len(self._section)) - first[self._section]) * dealing.block
        self._rows = np.minimum(dealing.block, sizes[self._section] - self._start)
        self.stream = lru_cache(maxsize=2 * dealing.streams)(self._stream)
        self._permuted = lru_cache(maxsize=2)(self._permutation)

    def _stream(self, epoch: int, number: int) -> Stream:
        """The stream of that number in an epoch."""
        blocks = self._permuted(epoch)[number :: self.dealing.streams]
        return Stream(self, epoch, number, blocks, self._rows[blocks])

    def _permutation(self, epoch: int) -> np.ndarray:
        """The blocks of an epoch in the order in which they are dealt."""
        blocks = np.arange(len(self._section))
        region = blocks * self.dealing.streams // max(1, len(blocks))
        shuffled = np.lexsort((hashes(blocks, self.dealing.seed, epoch, 0), region))
        turn = np.empty_like(blocks)
        turn[shuffled] = blocks - np.searchsorted(region, region, side="left")  # the n-th block of its region comes in turn n
        return np.lexsort((hashes(blocks, self.dealing.seed, epoch, 1), turn))

    def rows_of(self, block: int) -> tuple[int, np.ndarray]:
        """The section of a block, and its rows there."""
        start = int(self._start[block])
        return int(self._section[block]), np.arange(start, start + int(self._rows[block]))


class Stream:
    """One canonical stream of an epoch; a position counts rows, kept or not."""

    def __init__(self, order: Order, epoch: int, number: int, blocks: np.ndarray, rows: np.ndarray) -> None:
        self.order, self.epoch, self.number, self.blocks = order, epoch, number, blocks
        size = order.dealing.window
        first = 1 + number % size  # the first window is shorter in some streams, so that not all are filled at the same time
        self._bounds = np.unique(np.minimum(np.append(0, np.arange(first, first + len(blocks) + size, size)), len(blocks)))
        self._ends = np.append(0, np.cumsum(rows))
        self.rows = int(self._ends[-1])

    def window(self, position: int) -> tuple[list[tuple[int, int]], int]:
        """The rest of the window that holds a position.

        Returns:
            (section, row) of each row from `position` to the end of its window, in delivery order; and that end.
        """
        block = int(np.searchsorted(self._ends, position, side="right")) - 1
        number = int(np.searchsorted(self._bounds, block, side="right")) - 1
        low, high = int(self._bounds[number]), int(self._bounds[number + 1])
        pairs: list[tuple[int, int]] = []
        for one in self.blocks[low:high]:
            section, rows = self.order.rows_of(int(one))
            pairs += [(section, row) for row in rows.tolist()]
        keys = hashes(np.arange(len(pairs)), self.order.dealing.seed, self.epoch, self.number, number)
        shuffled = [pairs[place] for place in np.argsort(keys, kind="stable").tolist()]
        return shuffled[position - int(self._ends[low]) :], int(self._ends[high])


def hashes(values: np.ndarray, *salt: int) -> np.ndarray:
    """uint64 hashes of integers, different for each salt."""
    key = np.zeros(1, np.uint64)
    for part in salt:
        key = _mixed(key ^ np.uint64(part & 0xFFFFFFFFFFFFFFFF))
    return _mixed(values.astype(np.uint64) + key)


def _mixed(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
