"""The flow: chains the stages over Ray Data. The only file that imports ray.

Read, Paginate and Render are CPU tasks, which Ray fuses; Encode and Verify are actors that keep a model; Write is a task that
puts shards into the store. The driver sees only the WRITTEN rows: which shards a block became, and the counts.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a worker without a GPU keeps the environment as it is
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # advice of the C++ core; what goes wrong is raised as an exception too

import pyarrow as pa
import ray
import ray.data
import ray.exceptions
from ray.data import ActorPoolStrategy, TaskPoolStrategy

from pipeline.config import ConfigError, JobConfig, PlacementConfig
from pipeline.pages.grid import Grid
from pipeline.plan import PlannedUnit, document_ids
from pipeline.sources.config import SourceConfig
from pipeline.sources.units import Unit
from pipeline.stages import UNITS, Encode, Paginate, Read, Render, Verify, Write
from pipeline.tally import WorkerFailed

START_TRIES = 4
TASK_CPUS = 0.25  # what Ray reserves for a task that reads, lays out, draws or writes


@contextmanager
def cluster(placement: PlacementConfig) -> Iterator[None]:
    """A connection to Ray: the cluster at `placement.address`, or one of this machine's own that ends with the job."""
    if ray.is_initialized():
        yield
        return
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    options: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}
    if placement.address == "local":
        options |= {"address": "local", "include_dashboard": False}
        if placement.object_store_bytes:
            options["object_store_memory"] = placement.object_store_bytes
    else:
        options["address"] = placement.address
    _start(options)
    try:
        _refuse_too_little(placement)
        yield
    finally:
        ray.shutdown()


def _start(options: dict[str, Any]) -> None:
    """`ray.init`, again where it gives up: its helpers have 15 seconds to come up, which a busy machine may not have for them."""
    for tries_left in reversed(range(START_TRIES)):
        try:
            ray.init(**options)
            return
        except Exception as error:  # Ray raises nothing more special
            if not tries_left or "timed out during startup" not in str(error):
                raise
            ray.shutdown()


def _refuse_too_little(placement: PlacementConfig) -> None:
    """Raise ConfigError where the model actors leave no room for the tasks that feed them: Ray would wait for ever."""
    there = ray.cluster_resources()
    workers = placement.encode_workers + placement.verify_workers
    for resource, each, spare in (("CPU", placement.cpus_per_worker, TASK_CPUS), ("GPU", placement.gpus_per_worker, 0.0)):
        wanted, found = workers * each + spare, there.get(resource, 0.0)
        if wanted > found and placement.address == "local":
            setting = f"placement.{resource.lower()}s_per_worker"
            raise ConfigError(
                f"{setting} = {each}: {workers} model actors and the tasks that feed them need {wanted:g} {resource}s, this "
                f"machine has {found:g}; lower {setting}, placement.encode_workers or placement.verify_workers"
            )


def index_units(config: SourceConfig) -> Callable[[list[Unit]], Iterator[list[str]]]:
    """The document ids of units, read by Ray tasks, a bounded number ahead."""

    def index(units: list[Unit]) -> Iterator[list[str]]:
        task = ray.remote(document_ids)
        ahead = max(2, int(ray.cluster_resources().get("CPU", 1)) * 2)
        pending = [task.remote(unit, config) for unit in units[:ahead]]
        for place in range(len(units)):
            with _unwrapped():
                found = ray.get(pending.pop(0))
            yield found
            if place + ahead < len(units):
                pending.append(task.remote(units[place + ahead], config))

    return index


def run_units(
    units: tuple[PlannedUnit, ...], config: JobConfig, grid: Grid, px: int, fingerprint: str
) -> Iterator[dict[str, Any]]:
    """Process units; yields the WRITTEN rows as they arrive, payloads parsed."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = False
    # Blocks of a few batches, so that Encode and Verify work on different ones at the same time.
    context.target_max_block_size = max(4 << 20, config.placement.render_batch * px * px)
    place = config.placement
    table = pa.table({"unit": [planned.to_json() for planned in units]}, schema=UNITS)
    read, paginate, render = Read(config.source), Paginate(config, grid, px), Render(grid, px)
    write = Write(config.out, config.storage.row_group_bytes)
    tables: dict[str, Any] = {"batch_format": "pyarrow", "zero_copy_batch": True}
    reading: dict[str, Any] = {**tables, "batch_size": None, "num_cpus": TASK_CPUS, "compute": TaskPoolStrategy(place.read_tasks)}
    drawing = {**reading, "compute": TaskPoolStrategy(place.render_tasks)}
    model: dict[str, Any] = {
        **tables,
        "batch_size": place.render_batch,
        "num_cpus": place.cpus_per_worker,
        "num_gpus": place.gpus_per_worker or None,
        "fn_constructor_args": (config, fingerprint),
    }
    data = (
        ray.data.from_arrow([table.slice(at, 1) for at in range(table.num_rows)])
        .map_batches(read.__call__, **reading)
        .map_batches(paginate.__call__, **drawing)
        .map_batches(render.__call__, **drawing)
        .map_batches(Encode, compute=ActorPoolStrategy(size=place.encode_workers), **model)
        .map_batches(Verify, compute=ActorPoolStrategy(size=place.verify_workers), **model)
        .map_batches(write.__call__, batch_size=place.shard_batch, num_cpus=TASK_CPUS, **tables)
    )
    batches: Iterator[Any] = iter(data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
    while True:
        with _unwrapped():
            batch = next(batches, None)
        if batch is None:
            return
        for row in batch.to_pylist():
            yield {**row, "payload": json.loads(row["payload"])}


@contextmanager
def _unwrapped() -> Iterator[None]:
    """Raise what went wrong in a worker, instead of Ray's account of it."""
    try:
        yield
    except ray.exceptions.RayError as error:
        cause: BaseException = error
        while isinstance(cause, ray.exceptions.RayError) and (inner := cause.__cause__ or getattr(cause, "cause", None)):
            cause = inner
        if isinstance(cause, ValueError | OSError):
            raise cause from error
        raise WorkerFailed(f"{type(cause).__name__}: {cause}") from error
