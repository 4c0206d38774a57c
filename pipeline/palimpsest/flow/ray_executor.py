"""The flow: chains the stages over Ray Data. Only this file and `flow_workers.py`, which holds what runs in workers, import ray.

Read, Paginate and Render are CPU tasks, which Ray fuses; Encode and Verify are actors that keep a model; Write is a task that
puts shards into the store. The driver sees only the WRITTEN rows: which shards a block became, and the counts.

What dies is done again: Ray runs a lost task or batch once more, a bounded number of times; what kills its worker is found and
set apart (flow_workers.py); and what is still missing then is done in another pass over its units.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a worker without a GPU keeps the environment as it is
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # advice of the C++ core; what goes wrong is raised as an exception too

import pyarrow as pa
import ray
import ray.data
import ray.exceptions
from ray.data import ActorPoolStrategy, TaskPoolStrategy
from ray.data.exceptions import ExecutionTimeoutError

from palimpsest import telemetry
from palimpsest.config import ConfigError, JobConfig, PlacementConfig, SourceConfig
from palimpsest.flow import ray_workers as workers
from palimpsest.flow.isolation import POISONED
from palimpsest.flow.ledger import WorkerFailed, WorkersLost
from palimpsest.flow.plan import PlannedUnit
from palimpsest.flow.stages import UNITS, Encode, Paginate, RateControl, Read, Render, Verify, Write
from palimpsest.pages.grid import Grid
from palimpsest.sources.units import Unit
from palimpsest.tiers.policy import Policy

# There is no other way yet to say how often a task or a batch may be tried again.
warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")

START_TRIES = 4
RETRIES = 8  # of a task or of an actor's batch: lost nodes, and the two tries before it is isolated
PASSES = 5  # over units that are still missing; the first is the run itself
TASK_CPUS = 0.25  # what Ray reserves for a task that reads, lays out, draws or writes


@contextmanager
def cluster(placement: PlacementConfig) -> Iterator[None]:
    """A connection to Ray: the cluster at `placement.address`, or one of this machine's own that ends with the job."""
    workers.export_metrics()
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
        task = ray.remote(max_retries=RETRIES, num_cpus=TASK_CPUS)(workers.document_ids)
        ahead = max(2, int(ray.cluster_resources().get("CPU", 1)) * 2)
        read = ray.put(Read(config))
        pending = [task.remote(unit, read) for unit in units[:ahead]]
        for place in range(len(units)):
            with _unwrapped():
                found = ray.get(pending.pop(0))
            yield found
            if place + ahead < len(units):
                pending.append(task.remote(units[place + ahead], read))

    return index


def run_units(
    units: tuple[PlannedUnit, ...],
    config: JobConfig,
    grid: Grid,
    policy: Policy,
    fingerprint: str,
    pending: Callable[[], Collection[PlannedUnit]] | None = None,
) -> Iterator[dict[str, Any]]:
    """Process units; yields the WRITTEN rows as they arrive, payloads parsed.

    A unit with a document that killed a worker, or of which something was lost with a worker, is done again. A row of the kind
    "again" says so: the unit's rows before it do not count.

    Args:
        pending: the units of which something is missing still, when a pass has ended; without it a pass that fails is the last.

    Raises:
        WorkersLost: when the last of PASSES failed as well.
    """
    notes = workers.Notes(str(telemetry.context().get("run_id") or uuid.uuid4().hex))
    poisoned: workers.Poisoned = {}
    todo, again, lost = units, "", None
    redo: set[str] = set()
    try:
        for number in range(PASSES):
            if again:
                telemetry.log_event("units_again", units=len(todo), number=number, why=again)
                telemetry.record("palimpsest_units", len(todo), outcome="redone")
                said = {"kind": "again", "payload": {"why": again}, "record": None}
                yield from ({"unit_id": unit.unit_id, **said} for unit in todo)
            redo, lost = set(), None
            try:
                for row in _run_pass(todo, config, grid, policy, fingerprint, notes, poisoned):
                    if row["kind"] == POISONED:
                        redo.add(row["unit_id"])
                        poisoned.setdefault(row["unit_id"], {})[row["payload"]["doc_id"]] = row["payload"]["detail"]
                    elif row["unit_id"] not in redo:
                        yield row
            except WorkersLost as error:
                lost = error
                telemetry.record("palimpsest_worker_failures", 1, stage="flow")
                telemetry.log_event("flow_lost", detail=str(error).partition("\n")[0])
            if lost and pending is None:
                raise lost
            left = {unit.unit_id for unit in (pending() if pending else ())} | redo
            todo = tuple(unit for unit in units if unit.unit_id in left)
            if not todo:
                return
            again = "workers were lost" if lost else "documents that kill workers were set apart" if redo else "rows are missing"
        if lost or redo:
            raise lost or WorkersLost(f"{len(redo)} units lost a worker to some document in each of {PASSES} passes")
    finally:
        with suppress(ray.exceptions.RayError, RuntimeError, AttributeError):  # of a cluster that is gone
            stage_seconds.clear()
            stage_seconds.update(notes.seconds())
            notes.clear()


stage_seconds: dict[str, dict[str, float]] = {}
"""Of the last `run_units`: by stage, the seconds of all its workers in batches, the batches, and the rows that came out."""


def _run_pass(
    units: tuple[PlannedUnit, ...],
    config: JobConfig,
    grid: Grid,
    policy: Policy,
    fingerprint: str,
    notes: workers.Notes,
    poisoned: workers.Poisoned,
) -> Iterator[dict[str, Any]]:
    table = pa.table({"unit": [planned.to_json() for planned in units]}, schema=UNITS)
    read = workers.ReadTask("read", Read(config.source), notes)
    paginate = workers.PaginateTask(Paginate(config, grid, policy), notes, poisoned)
    yield from pages_to_shards(table, [read, paginate], config, grid, policy, fingerprint, notes)


def pages_to_shards(
    table: pa.Table,
    first: Sequence[workers.TaskStage],
    config: JobConfig,
    grid: Grid,
    policy: Policy,
    fingerprint: str,
    notes: workers.Notes,
) -> Iterator[dict[str, Any]]:
    """Chain the stages that make PAGES of the rows of `table` with those that take them from there; yields the WRITTEN rows."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = False
    context.execution_no_progress_timeout_s = config.placement.stall_seconds
    # Blocks of a few batches, so that Encode and Verify work on different ones at the same time.
    context.target_max_block_size = max(4 << 20, config.placement.render_batch * policy.px**2)
    place = config.placement
    write = workers.WriteTask("write", Write(config.out, config.storage.row_group_bytes), notes)
    tables: dict[str, Any] = {"batch_format": "pyarrow", "zero_copy_batch": True}
    task: dict[str, Any] = {**tables, "num_cpus": TASK_CPUS, "max_retries": RETRIES}
    reading: dict[str, Any] = {**task, "batch_size": None, "compute": TaskPoolStrategy(place.read_tasks)}
    drawing = {**reading, "compute": TaskPoolStrategy(place.render_tasks)}
    model: dict[str, Any] = {
        **tables,
        "batch_size": place.render_batch,
        "num_cpus": place.cpus_per_worker,
        "num_gpus": place.gpus_per_worker or None,
        "max_task_retries": RETRIES,
        "max_restarts": -1,  # bounded by the retries of what it serves, and by stall_seconds where it cannot start
    }
    encode, verify = (("encode", Encode, (config, fingerprint), notes), ("verify", Verify, (config, fingerprint), notes))
    encoders, verifiers = ActorPoolStrategy(size=place.encode_workers), ActorPoolStrategy(size=place.verify_workers)
    data: ray.data.Dataset = ray.data.from_arrow([table.slice(at, 1) for at in range(table.num_rows)])
    for stage, options in zip(first, [reading, *[drawing] * len(first)], strict=False):
        data = data.map_batches(stage.__call__, **options)
    if policy.climbs:  # a page may have to be tried in several modes: one actor draws, encodes and reads it back
        rate = ("verify", RateControl, (config, fingerprint, grid, policy), notes)
        both = ActorPoolStrategy(size=place.encode_workers + place.verify_workers)
        data = data.map_batches(workers.RateWorker, compute=both, fn_constructor_args=rate, **model)
    else:
        render = workers.TaskStage("render", Render(grid), notes)
        data = (
            data.map_batches(render.__call__, **drawing)
            .map_batches(workers.EncodeWorker, compute=encoders, fn_constructor_args=encode, **model)
            .map_batches(workers.VerifyWorker, compute=verifiers, fn_constructor_args=verify, **model)
        )
    data = data.map_batches(write.__call__, batch_size=place.shard_batch, **task)
    batches: Iterator[Any] = iter(data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
    while True:
        with _unwrapped():
            batch = next(batches, None)
        if batch is None:
            return
        for row in batch.to_pylist():
            yield {**row, "payload": json.loads(row["payload"])}


_LOST = (
    ray.exceptions.RayActorError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.LocalRayletDiedError,
    ray.exceptions.StreamingGeneratorReplayInconsistentError,
)


@contextmanager
def _unwrapped() -> Iterator[None]:
    """Raise what went wrong in a worker, instead of Ray's account of it."""
    try:
        yield
    except ExecutionTimeoutError as error:
        raise WorkerFailed(f"nothing moved for placement.stall_seconds; are there machines for all workers? {error}") from error
    except ray.exceptions.RayError as error:
        cause: BaseException = error
        while isinstance(cause, ray.exceptions.RayError) and (inner := cause.__cause__ or getattr(cause, "cause", None)):
            cause = inner
        if isinstance(cause, ValueError | OSError) and not isinstance(cause, ray.exceptions.RayError):
            raise cause from error
        if isinstance(cause, _LOST):
            raise WorkersLost(f"{type(cause).__name__}: {cause}") from error
        raise WorkerFailed(f"{type(cause).__name__}: {cause}") from error
