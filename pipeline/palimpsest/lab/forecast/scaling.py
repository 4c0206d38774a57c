"""Where a bigger cluster stops being a faster one: the store, the manifest or the driver, as pages per second that each allows.

A page passes the devices, then as a part of a shard the store, then as a part of a WRITTEN row the driver, which runs the flow's
tasks, tallies rows and commits units, all in one thread. So the driver's pieces add up, and everything else runs in parallel:

    pages/s = min(devices, puts, bytes written, bytes read, driver)
    driver  = 1 / (tasks a page / tasks a second + rows a page / rows a second + units a page x seconds of a commit)

simulation.py plays the same parts through.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A job and what it runs on.

    Attributes:
        pages_per_gpu_second: of one GPU, all its stages together; it works `utilisation` of its time.
        pages_per_block: of a batch of the model stages (`placement.render_batch`).
        pages_per_shard: that a write task finds of one unit (at most `placement.shard_batch`).
        pages_per_unit: of one commit record.
        bytes_per_page: written, texts and tokens.
        source_bytes_per_page: read.
        stages: of the flow: Ray tasks and batches for each block.
        requests_per_shard: one put; another for the document index, a get when the job is published.
        requests_per_unit: of a commit: the record, or record and quarantine.
        put_requests_per_second: that the bucket takes under one prefix (Amazon documents 3,500 before it partitions it).
        store_bytes_per_second: that the bucket or the network before it takes, and gives.
        request_seconds: the driver waits for one.
        rows_per_second: WRITTEN rows through the driver's tally (measured).
        tasks_per_second: that the driver hands to Ray and gets back (measured).
        plan_units_per_second: that the driver plans (measured); publish_units_per_second: that it publishes.
        manifest_bytes_per_unit: of the segments (measured).
    """

    pages_per_gpu_second: float = 20.0
    utilisation: float = 0.9
    pages_per_block: float = 64.0
    pages_per_shard: float = 512.0
    pages_per_unit: float = 20_000.0
    bytes_per_page: float = 36_000.0
    source_bytes_per_page: float = 2_048.0
    stages: float = 4.0
    requests_per_shard: float = 1.0
    requests_per_unit: float = 2.0
    put_requests_per_second: float = 3_500.0
    store_bytes_per_second: float = 100e9
    request_seconds: float = 0.05
    rows_per_second: float = 10_000.0
    tasks_per_second: float = 500.0
    plan_units_per_second: float = 10_000.0
    publish_units_per_second: float = 1_000.0
    manifest_bytes_per_unit: float = 300.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 < value < float("inf"):
                raise ValueError(f"{field.name} = {value}: expected a number above zero")
        if self.utilisation > 1:
            raise ValueError(f"utilisation = {self.utilisation}: a share is at most 1")


def tally_seconds(scale: Scale) -> float:
    """Of the driver for a page: its part of a row, and of a unit's commit."""
    commit = scale.requests_per_unit * scale.request_seconds / scale.pages_per_unit
    return 1 / scale.pages_per_shard / scale.rows_per_second + commit


def schedule_seconds(scale: Scale) -> float:
    """Of the driver for a page: its part of the tasks that Ray is given."""
    return scale.stages / scale.pages_per_block / scale.tasks_per_second


def limits(scale: Scale, gpus: int) -> dict[str, float]:
    """Pages per second that each part allows; the smallest is what the job makes."""
    if gpus < 1:
        raise ValueError(f"gpus = {gpus}: at least 1")
    puts = scale.requests_per_shard / scale.pages_per_shard + scale.requests_per_unit / scale.pages_per_unit
    return {
        "devices": gpus * scale.pages_per_gpu_second * scale.utilisation,
        "driver": 1 / (schedule_seconds(scale) + tally_seconds(scale)),
        "put requests": scale.put_requests_per_second / puts,
        "bytes written": scale.store_bytes_per_second / scale.bytes_per_page,
        "bytes read": scale.store_bytes_per_second / scale.source_bytes_per_page,
    }


def pages_per_second(scale: Scale, gpus: int) -> float:
    return min(limits(scale, gpus).values())


def limiting(scale: Scale, gpus: int) -> str:
    """The name of the part that decides."""
    found = limits(scale, gpus)
    return min(found, key=lambda name: found[name])


def most_gpus(scale: Scale) -> int:
    """GPUs beyond which another one adds nothing."""
    rest = min(value for name, value in limits(scale, 1).items() if name != "devices")
    return max(1, int(rest / (scale.pages_per_gpu_second * scale.utilisation)))


def before_and_after(scale: Scale, pages: float) -> dict[str, float]:
    """Work outside the devices, for a job of so many pages: planning, publishing, listing; seconds, bytes, requests.

    The plan's look into the documents of new units is work for the cluster and not counted.
    """
    units, shards = pages / scale.pages_per_unit, pages / scale.pages_per_shard
    return {
        "units": units,
        "shards": shards,
        "plan_seconds": units / scale.plan_units_per_second,
        "publish_seconds": units / scale.publish_units_per_second,
        "index_requests": shards,
        "manifest_bytes": units * scale.manifest_bytes_per_unit,
        "list_requests": -(-shards // 1000) + -(-units // 1000),
    }
