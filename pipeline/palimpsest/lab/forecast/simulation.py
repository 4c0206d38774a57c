"""The job of scaling.py, event by event: devices that make blocks, a store that takes so many puts and bytes, one driver.

What the formula leaves out is here: blocks take different times, a device waits when too much lies behind it, shards come in
waves, a unit ends with its last shard, and the driver does one thing at a time.
"""

from __future__ import annotations

import random
from collections import deque
from heapq import heappop, heappush

from palimpsest.lab.forecast.scaling import Scale

SPREAD = 0.25  # standard deviation of the logarithm of a block's time
AHEAD = 4.0  # blocks for each device that may wait behind it, before it waits itself (Ray's back-pressure)


def simulate(scale: Scale, gpus: int, *, blocks_per_gpu: float = 30.0, seed: int = 0, merge: int = 0) -> float:
    """Pages per second of a job, from the middle half of it, so that neither its start nor its end counts.

    Args:
        blocks_per_gpu: how long it is.
        merge: devices that are simulated as one, so many times as fast; 0 takes at most 500 devices.
    """
    merge = merge or -(-gpus // 500)
    devices = max(1, gpus // merge)
    draw = random.Random(seed)
    block_seconds = scale.pages_per_block / (scale.pages_per_gpu_second * scale.utilisation * gpus / devices)
    mean = 2.718281828 ** (SPREAD**2 / 2)
    blocks_total = int(blocks_per_gpu * gpus)
    started = waiting_blocks = 0  # handed to devices; made, and not yet through the store and the driver
    driver_free = store_free = 0.0
    idle: deque[int] = deque(range(devices))
    pages_waiting = unit_pages = made = now = 0.0
    marks: list[tuple[float, float]] = []
    events: list[tuple[float, int, str, float]] = []
    number = 0

    def later(at: float, kind: str, value: float = 0.0) -> None:
        nonlocal number
        number += 1
        heappush(events, (at, number, kind, value))

    def feed() -> None:
        """Give idle devices a block each, which costs the driver time, as long as not too much waits behind them."""
        nonlocal started, driver_free, waiting_blocks
        while (
            idle and started < blocks_total and waiting_blocks < AHEAD * devices + scale.pages_per_shard / scale.pages_per_block
        ):
            device = idle.popleft()
            started, waiting_blocks = started + 1, waiting_blocks + 1
            driver_free = max(driver_free, now) + scale.stages / scale.tasks_per_second
            later(driver_free + block_seconds * draw.lognormvariate(0, SPREAD) / mean, "block", device)

    feed()
    while events:
        now, _, kind, value = heappop(events)
        if kind == "block":
            idle.append(int(value))
            pages_waiting += scale.pages_per_block
            while pages_waiting >= scale.pages_per_shard:
                pages_waiting -= scale.pages_per_shard
                put = scale.requests_per_shard / scale.put_requests_per_second
                sent = scale.pages_per_shard * scale.bytes_per_page / scale.store_bytes_per_second
                read = scale.pages_per_shard * scale.source_bytes_per_page / scale.store_bytes_per_second
                store_free = max(store_free, now) + max(put, sent, read)
                later(max(store_free, now + scale.request_seconds), "shard")
        elif kind == "shard":
            unit_pages += scale.pages_per_shard
            busy = 1 / scale.rows_per_second
            while unit_pages >= scale.pages_per_unit:
                unit_pages -= scale.pages_per_unit
                busy += scale.requests_per_unit * scale.request_seconds
            driver_free = max(driver_free, now) + busy
            later(driver_free, "tallied")
        else:
            waiting_blocks -= int(scale.pages_per_shard / scale.pages_per_block)
            made += scale.pages_per_shard
            marks.append((now, made))
        feed()
    if len(marks) < 8:
        raise ValueError(f"{len(marks)} shards are too few to measure: raise blocks_per_gpu")
    (first, before), (last, after) = marks[len(marks) // 4], marks[3 * len(marks) // 4]
    return (after - before) / (last - first)
