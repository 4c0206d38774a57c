"""`Loader`: batches for one rank, from any number of worker processes, with exact resume.

Stream c belongs to rank c mod world, and there to one worker. A rank delivers its streams' samples in turn, the stream with the
fewest delivered samples first; so neither the order within a stream nor which samples an epoch has depends on ranks or workers.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from heapq import heapify, heappop, heapreplace
from typing import Any, Literal, get_args

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from palimpsest.errors import UsageError
from palimpsest.loading.source import Cursor, Damage, Reading, Source
from palimpsest.loading.state import check_state, gathered, merge_states
from palimpsest.loading.transport import received, sent

OnDamage = Literal["retry", "skip", "fail"]
_log = logging.getLogger(__name__)


class Loader:
    """Goes through a source in batches; each `for` is one epoch, or has no end for a mix or with `repeat`.

    Args:
        batch_size: samples of a batch on this rank.
        num_workers: processes that read; 0 reads in this one.
        rank, world: of this process; `world` must divide the source's streams. Ranks can have different numbers of batches in an
            epoch: with collective operations in each step, use `repeat` and count steps.
        on_damage: "retry" a damaged or unreachable row group a few times, then raise; "skip" leaves it out after that and reports
            it in `damage` and the log; "fail" raises at once.
        drop_last: leave out a last batch that is not full. Its samples are lost to this epoch.
        collate: samples -> batch; by default the source's.
        prefetch: rounds that each worker reads ahead.

    Attributes:
        damage: what was skipped, on this rank.
    """

    def __init__(
        self,
        source: Source,
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
    ) -> None:
        if on_damage not in get_args(OnDamage):
            raise UsageError(f"on_damage = {on_damage!r}: choose {', '.join(get_args(OnDamage))}")
        if batch_size < 1 or num_workers < 0 or prefetch < 1:
            raise UsageError(f"batch_size = {batch_size}, num_workers = {num_workers}, prefetch = {prefetch}: at least 1, 0, 1")
        if not 0 <= rank < world:
            raise UsageError(f"rank = {rank}, world = {world}: a rank is 0 to world - 1")
        if source.streams % world:
            fitting = [n for n in range(1, source.streams + 1) if source.streams % n == 0]
            raise UsageError(f"world = {world} does not divide streams = {source.streams}: use {fitting} ranks or other streams")
        self.source, self.batch_size, self.num_workers = source, batch_size, num_workers
        self.rank, self.world, self.on_damage, self.drop_last = rank, world, on_damage, drop_last
        self.endless = repeat or source.endless
        self.collate, self.prefetch = collate or source.collate, prefetch
        self.mine = range(rank, source.streams, world)
        self.damage: list[Damage] = []
        self._epoch = 0
        self._done = False
        self._cursors = {stream: source.start(0) for stream in range(source.streams)}
        self._delivered = dict.fromkeys(range(source.streams), 0)
        self._checked = False

    @property
    def epoch(self) -> int:
        """The epoch that the next `for` continues or begins; after its last batch, the one after it."""
        return self._epoch + self._done

    def __iter__(self) -> Iterator[Any]:
        if not self._checked:
            self.source.check()
            self._checked = True
        if self._done:
            self._next_epoch()
        active = [c for c in self.mine if self.endless or self.source.epoch(self._cursors[c]) == self._epoch]
        samples: list[Any] = []
        moved: dict[int, tuple[Cursor, int]] = {}
        for stream, sample, cursor in self._merged(active):
            samples.append(sample)
            moved[stream] = (cursor, moved.get(stream, (cursor, 0))[1] + 1)
            if len(samples) == self.batch_size:
                self._move(moved)
                yield self.collate(samples)
                samples, moved = [], {}
        self._move(moved)
        for stream in active:
            self._cursors[stream] = self.source.end(stream, self._epoch)
        self._done = True
        if samples and not self.drop_last:
            yield self.collate(samples)

    def _next_epoch(self) -> None:
        self._epoch += 1
        self._done = False
        for stream in self.mine:
            if self.source.epoch(self._cursors[stream]) < self._epoch:
                self._cursors[stream] = self.source.start(self._epoch)
                self._delivered[stream] = 0

    def _move(self, moved: dict[int, tuple[Cursor, int]]) -> None:
        for stream, (cursor, count) in moved.items():
            self._cursors[stream] = cursor
            self._delivered[stream] += count

    def _merged(self, active: Sequence[int]) -> Iterator[tuple[int, Any, Cursor]]:
        """Samples of this rank in order: in each turn one of every stream that still has one."""
        queues: dict[int, deque[tuple[Any, Cursor]]] = {stream: deque() for stream in active}
        turns = [(self._delivered[stream], stream) for stream in active]
        heapify(turns)
        ended: set[int] = set()
        chunks = self._chunks(active)
        while turns:
            count, stream = turns[0]
            while not queues[stream] and stream not in ended:
                chunk = next(chunks, None)
                assert chunk is not None, f"stream {stream} has neither a sample nor an end"
                found, damage = chunk
                self._report(damage)
                for number, sample, cursor in found:
                    if cursor is None:
                        ended.add(number)
                    else:
                        queues[number].append((sample, cursor))
            if not queues[stream]:
                heappop(turns)
                continue
            sample, cursor = queues[stream].popleft()
            heapreplace(turns, (count + 1, stream))
            yield stream, sample, cursor

    def _chunks(self, active: Sequence[int]) -> Iterator[Any]:
        round_size = max(1, -(-self.batch_size // max(1, len(active))))
        cursors = {stream: self._cursors[stream] for stream in active}
        rounds = _Rounds(self.source, cursors, Reading(self.on_damage, self.endless), round_size, packed=self.num_workers > 0)
        if not self.num_workers:
            yield from rounds
            return
        loaded = DataLoader(
            rounds, batch_size=None, num_workers=self.num_workers, prefetch_factor=self.prefetch, collate_fn=_as_it_is
        )
        for chunk in loaded:
            yield received(chunk)

    def _report(self, damage: Sequence[Damage]) -> None:
        for one in damage:
            _log.warning("%s: %d rows were skipped: %s", one.where, one.rows, one.error)
        self.damage += damage

    def state_dict(self, *, gather: bool = True) -> dict[str, Any]:
        """Where all ranks are: integers, equal on every rank.

        With several ranks this is a collective operation over `torch.distributed`: call it on all of them after the same step.

        Args:
            gather: False gives what this rank knows of its own streams; `merge_states` joins those of all ranks.

        Raises:
            UsageError: several ranks, and torch.distributed is not initialised with as many.
        """
        own = {
            "format": 1,
            "world": self.world,
            "epoch": self._epoch,
            "sources": self.source.identity(),
            "streams": self.source.streams,
            "cursors": [list(self._cursors[c]) if c in self.mine else None for c in range(self.source.streams)],
            "delivered": [self._delivered[c] if c in self.mine else None for c in range(self.source.streams)],
        }
        if not gather:
            return own
        return merge_states(gathered(own, self.world))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where a state was saved, by whatever world, workers and batch size.

        Raises:
            UsageError: a state of another corpus, filter, seed or number of streams, or of one rank only.
        """
        check_state(state, self.source.streams)
        self.source.adopt(state["sources"])
        self._cursors = {stream: tuple(cursor) for stream, cursor in enumerate(state["cursors"])}
        self._delivered = dict(enumerate(state["delivered"]))
        self._epoch, self._done = 0, False
        if not self.endless:
            epochs = [self.source.epoch(cursor) for cursor in self._cursors.values()]
            self._epoch = min(epochs)
            self._done = all(self._cursors[c] == self.source.end(c, self._epoch) for c in self._cursors)


class _Rounds(IterableDataset):  # type: ignore[type-arg]
    """Chunks of (stream, sample, cursor): in each, up to `size` samples of each stream of this worker; an end has no cursor."""

    def __init__(self, source: Source, cursors: dict[int, Cursor], reading: Reading, size: int, *, packed: bool) -> None:
        super().__init__()
        self.source, self.cursors, self.reading, self.size, self.packed = source, cursors, reading, size, packed

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        mine = list(self.cursors)
        if info is not None:
            mine = mine[info.id :: info.num_workers]
        streams = {number: self.source.stream(number, self.cursors[number], self.reading) for number in mine}
        while streams:
            found: list[tuple[int, Any, Cursor | None]] = []
            for number in list(streams):
                for _ in range(self.size):
                    item = next(streams[number], None)
                    if item is None:
                        found.append((number, None, None))
                        del streams[number]
                        break
                    found.append((number, self.source.finish(item[0]), item[1]))
            damage, self.reading.damage[:] = list(self.reading.damage), []
            yield sent((found, damage)) if self.packed else (found, damage)


def _as_it_is(value: Any) -> Any:
    return value
