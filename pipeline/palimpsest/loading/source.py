"""`Source`: what a loader draws from. Pages, Memory, Mix and Packed are sources.

A source has `streams` canonical streams. A *cursor* is a short tuple of integers that says where a stream is; whoever knows it
continues there. A stream yields (item, cursor after the item); `finish` turns an item into a sample, in the process that reads.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from palimpsest.errors import UsageError
from palimpsest.loading.order import Dealing, Order, dealing

if TYPE_CHECKING:
    from palimpsest.loading.loader import Loader, OnDamage
    from palimpsest.loading.packing import OnLong, Packed

Cursor = tuple[int, ...]
Item = Any
STREAMS = 64
WINDOW_BYTES = 256 << 20
INDEX_SHARE = 0.25  # of window_bytes, for footers, short columns and the order of rows in units; shuffled rows have the rest
ROW_BYTES = 3000  # of a row's short values as Python objects


@dataclass(frozen=True)
class Damage:
    """Rows that could not be read: `rows` of them, in `where`, because of `error`."""

    where: str
    rows: int
    error: str


@dataclass
class Reading:
    """How a pass reads, and what it could not.

    Attributes:
        on_damage: after several tries, "retry" and "fail" raise; "skip" leaves the rows out. "fail" tries once.
        repeat: epochs follow each other without end.
    """

    on_damage: OnDamage = "retry"
    repeat: bool = False
    damage: list[Damage] = field(default_factory=list)


class Source(IterableDataset):  # type: ignore[type-arg]
    """Base of all sources; going through one gives the samples of one epoch, each once, whatever workers a DataLoader has."""

    streams: int

    @abstractmethod
    def identity(self) -> list[dict[str, int]]:
        """What a state must fit: integers of each part, `pages` and `where` being compared, the rest adopted."""

    @abstractmethod
    def adopt(self, identity: Sequence[dict[str, int]]) -> None:
        """Take on how a state dealt its rows. Raises UsageError where the state is of other rows or another filter."""

    @abstractmethod
    def start(self, epoch: int) -> Cursor:
        """Where every stream begins an epoch."""

    @abstractmethod
    def end(self, stream: int, epoch: int) -> Cursor:
        """Where a stream ends an epoch."""

    @abstractmethod
    def stream(self, number: int, cursor: Cursor, reading: Reading) -> Iterator[tuple[Item, Cursor]]:
        """The items of a stream from a cursor on, to the end of its epoch or, with `reading.repeat`, without end."""

    @abstractmethod
    def check(self) -> None:
        """Raises UsageError where nothing would be delivered."""

    endless = False
    """Whether it has no epochs, whatever `reading.repeat` says."""

    def epoch(self, cursor: Cursor) -> int:
        return cursor[0]

    def finish(self, item: Item) -> Any:
        """The sample of an item."""
        return item

    def collate(self, samples: Sequence[Any]) -> Any:
        """The batch of samples."""
        from palimpsest.loading.batches import batch_of

        return batch_of(samples)

    def __iter__(self) -> Iterator[Any]:
        self.check()
        info = get_worker_info()
        mine = range(self.streams) if info is None else range(info.id, self.streams, info.num_workers)
        reading = Reading()
        waiting = [self.stream(number, self.start(0), reading) for number in mine]
        while waiting:
            still = []
            for stream in waiting:
                found = next(stream, None)
                if found is not None:
                    still.append(stream)
                    yield self.finish(found[0])
            waiting = still

    def packed(self, length: int, tokenizer: Any = None, *, on_long: OnLong = "fail") -> Packed:
        """The same as sequences of `length` ids of the consumer's vocabulary; see `Packed`."""
        from palimpsest.loading.packing import Packed

        return Packed(self, length, tokenizer, on_long=on_long)

    def loader(
        self,
        batch_size: int,
        *,
        num_workers: int = 0,
        rank: int = 0,
        world: int = 1,
        on_damage: OnDamage = "retry",
        repeat: bool = False,
        drop_last: bool = False,
        collate: Callable[[Sequence[Any]], Any] | None = None,
        prefetch: int = 2,
    ) -> Loader:
        """Batches for one rank; see `Loader`."""
        from palimpsest.loading.loader import Loader

        return Loader(
            self,
            batch_size,
            num_workers=num_workers,
            rank=rank,
            world=world,
            on_damage=on_damage,
            repeat=repeat,
            drop_last=drop_last,
            collate=collate,
            prefetch=prefetch,
        )


class Rows(Source):
    """A source of rows that lie in sections (order.py). A cursor is (epoch, rows of the stream that are behind)."""

    def __init__(self, sizes: np.ndarray, stored_bytes: int, *, seed: int, streams: int, window_bytes: int) -> None:
        super().__init__()
        if streams < 1 or window_bytes < 1:
            raise UsageError(f"streams = {streams}, window_bytes = {window_bytes}: at least 1 each")
        self.sizes, self.seed, self.streams, self.window_bytes = sizes, seed, streams, window_bytes
        self._stored_bytes = stored_bytes
        self.deal_as(seed, streams, window_bytes)

    @property
    def rows(self) -> int:
        """Rows of all sections, kept or not."""
        return int(self.sizes.sum())

    @property
    def index_bytes(self) -> int:
        """Bytes for what is kept of shards and units besides the window's rows."""
        return int(INDEX_SHARE * self.window_bytes)

    def deal(self, dealing: Dealing) -> None:
        self.dealing, self.order = dealing, Order(self.sizes, dealing)

    def deal_as(self, seed: int, streams: int, window_bytes: int) -> None:
        """Deal rows anew, as a part of a mix is."""
        self.seed, self.streams, self.window_bytes = seed, streams, window_bytes
        held = self._stored_bytes + ROW_BYTES * self.rows
        self.deal(dealing(self.rows, held, seed, streams, window_bytes - self.index_bytes))

    @abstractmethod
    def rows_digest(self) -> int:
        """63 bits that name the rows, in whatever tier they are."""

    @abstractmethod
    def filter_digest(self) -> int:
        """63 bits that name the filter."""

    @abstractmethod
    def load(self, section: int, rows: Sequence[int], reading: Reading) -> list[Item | None]:
        """Rows of a section in the order asked for; None for those that the filter or damage leaves out."""

    @property
    def version(self) -> int:
        """The snapshot."""
        return 0

    def identity(self) -> list[dict[str, int]]:
        d = self.dealing
        named = {"rows": self.rows_digest(), "where": self.filter_digest(), "snapshot": self.version}
        return [{**named, "seed": d.seed, "block": d.block, "window": d.window}]

    def adopt(self, identity: Sequence[dict[str, int]]) -> None:
        if len(identity) != 1:
            raise UsageError(f"the state is of a mix of {len(identity)} sources, this loader has one")
        state = identity[0]
        if state["rows"] != self.rows_digest():
            raise UsageError(
                f"the state is of snapshot {state['snapshot']} of another corpus, or of one with other documents: {self} has "
                "other pages. Only re-tiering and verifying keep a state valid; begin a new epoch without it"
            )
        if state["where"] != self.filter_digest():
            raise UsageError(f"the state was saved with another filter than {self}: use the same `where` and `below_target`")
        if state["seed"] != self.seed:
            raise UsageError(f"the state was saved with seed = {state['seed']}, this source has seed = {self.seed}")
        self.deal(Dealing(state["seed"], self.streams, state["block"], state["window"]))

    def start(self, epoch: int) -> Cursor:
        return (epoch, 0)

    def end(self, stream: int, epoch: int) -> Cursor:
        return (epoch, self.order.stream(epoch, stream).rows)

    def stream(self, number: int, cursor: Cursor, reading: Reading) -> Iterator[tuple[Item, Cursor]]:
        epoch, position = cursor
        while True:
            stream = self.order.stream(epoch, number)
            while position < stream.rows:
                window, stop = stream.window(position)
                items = self._window(window, reading)
                for place in range(len(window)):
                    item, items[place] = items[place], None  # delivered rows do not stay in memory
                    position += 1
                    if item is not None:
                        yield item, (epoch, position)
                assert position == stop
            if not reading.repeat:
                return
            epoch, position = epoch + 1, 0

    def _window(self, window: Sequence[tuple[int, int]], reading: Reading) -> list[Item | None]:
        items: list[Item | None] = [None] * len(window)
        places: dict[int, list[int]] = {}
        for place, (section, _) in enumerate(window):
            places.setdefault(section, []).append(place)
        for section, where in places.items():
            for place, item in zip(where, self.load(section, [window[place][1] for place in where], reading), strict=True):
                items[place] = item
        return items
