"""The stages on Ray Data; the workers run `ray_workers.py`.

Read, Paginate and Render are CPU tasks, which Ray fuses. Encode and Verify are actors that keep a model. Write is a task that
stores shards. The driver sees only the WRITTEN rows: the shards of a block, and the counts.

Lost work is repeated. Ray retries a lost task or batch a bounded number of times. A document that kills its worker is detected
and quarantined (ray_workers.py). Units that are incomplete after that are processed in another pass.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a worker without a GPU keeps its environment unchanged
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # hides the C++ core's advice; its errors are raised as exceptions too

import pyarrow as pa
import ray
import ray.data
import ray.exceptions
from ray.data import ActorPoolStrategy, TaskPoolStrategy
from ray.data.exceptions import ExecutionTimeoutError

from palimpsest import telemetry
from palimpsest.config import PlacementConfig, SourceConfig
from palimpsest.flow import ray_workers as workers
from palimpsest.flow.clock import added_up
from palimpsest.flow.executor import TASK_CPUS, Row, StageSeconds, refuse_too_little
from palimpsest.flow.ledger import WorkerFailed, WorkersLost
from palimpsest.flow.plan import PlannedUnit, units_table
from palimpsest.flow.ray_output import core_lines_held, messages_as_events, quiet_loggers
from palimpsest.flow.recipe import Recipe
from palimpsest.flow.stages import Encode, Paginate, RateControl, Read, Render, Verify, Write
from palimpsest.flow.stages.reread import Reread, Touched, touched_table
from palimpsest.schemas import RowKind
from palimpsest.sources.units import Unit

quiet_loggers()
# Ray has no other way yet to set the number of retries of a task or a batch.
warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")

START_TRIES = 4
LOOK_SECONDS = 3.0  # between two looks at the notes of the workers, which the progress shows
RETRIES = 8  # of a task or of an actor's batch: for lost nodes, and the two tries before isolation
PASSES = 5  # over the units that are still missing; the first is the run itself


@contextmanager
def connected(placement: PlacementConfig) -> Iterator[RayExecutor]:
    """An executor connected to the Ray cluster at `placement.address`, or to a local one that ends with the job."""
    workers.export_metrics()
    if ray.is_initialized():
        yield RayExecutor()
        return
    options: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}
    if placement.address == "local":
        options |= {"address": "local", "include_dashboard": False}
        if placement.object_store_bytes:
            options["object_store_memory"] = placement.object_store_bytes
    else:
        options["address"] = placement.address
    handler = signal.getsignal(signal.SIGTERM)
    with messages_as_events():
        _start(options)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray's handler would end the driver without our message
        try:
            refuse_too_little(placement, ray.cluster_resources())
            yield RayExecutor()
        finally:
            with core_lines_held():
                ray.shutdown()


def _start(options: dict[str, Any]) -> None:
    """`ray.init`, with retries: its helpers have 15 seconds to start, which is too short on a busy machine."""
    for tries_left in reversed(range(START_TRIES)):
        try:
            with core_lines_held():
                ray.init(**options)
            return
        except Exception as error:  # Ray raises nothing more specific
            if not tries_left or "timed out during startup" not in str(error):
                raise
            ray.shutdown()


class RayExecutor:
    """The `executor.Executor` on Ray. It needs a connection to Ray (`connected`)."""

    def __init__(self) -> None:
        self._spent: list[StageSeconds] = []
        self._live: workers.Notes | None = None
        self._looked: tuple[float, StageSeconds] = (0.0, {})

    def index_units(self, units: Sequence[Unit], config: SourceConfig) -> Iterator[list[str]]:
        """Read by Ray tasks; a bounded number of them run ahead."""
        task = ray.remote(max_retries=RETRIES, num_cpus=TASK_CPUS)(workers.document_ids)
        ahead = max(2, int(ray.cluster_resources().get("CPU", 1)) * 2)
        read = ray.put(Read(config))
        waiting = [task.remote(unit, read) for unit in units[:ahead]]
        for index in range(len(units)):
            with _unwrapped():
                ids = ray.get(waiting.pop(0))
            yield ids
            if index + ahead < len(units):
                waiting.append(task.remote(units[index + ahead], read))

    def run_units(
        self, units: Sequence[PlannedUnit], recipe: Recipe, pending: Callable[[], Collection[PlannedUnit]]
    ) -> Iterator[Row]:
        """Process a unit again if one of its documents killed a worker, or if rows were lost with a worker.

        Raises:
            WorkersLost: the last of PASSES failed too.
        """
        poisoned: workers.Poisoned = {}
        todo, again, lost = tuple(units), "", None
        redo: set[str] = set()
        with self._notes() as notes:
            for number in range(PASSES):
                if again:
                    telemetry.log_event("units_again", units=len(todo), number=number, why=again)
                    telemetry.record("palimpsest_units", len(todo), outcome="redone")
                    yield from ({"unit_id": unit.unit_id, "kind": RowKind.AGAIN, "detail": again} for unit in todo)
                redo, lost = set(), None
                try:
                    for row in _run_pass(todo, recipe, notes, poisoned):
                        if row["kind"] == RowKind.POISONED:
                            redo.add(row["unit_id"])
                            poisoned.setdefault(row["unit_id"], {})[row["doc_id"]] = row["detail"]
                        elif row["unit_id"] not in redo:
                            yield row
                except WorkersLost as error:
                    lost = error
                    telemetry.record("palimpsest_worker_failures", 1, stage="flow")
                    telemetry.log_event("flow_lost", detail=str(error).partition("\n")[0])
                left = {unit.unit_id for unit in pending()} | redo
                todo = tuple(unit for unit in units if unit.unit_id in left)
                if not todo:
                    return
                again = (
                    "workers were lost"
                    if lost
                    else "documents that kill workers were quarantined"
                    if redo
                    else "rows are missing"
                )
            if lost or redo:
                raise lost or WorkersLost(f"{len(redo)} units lost a worker to some document in each of {PASSES} passes")

    def retier(self, shards: Sequence[Touched], recipe: Recipe) -> Iterator[Row]:
        with self._notes() as notes:
            reread = workers.PlainTask("reread", Reread(recipe.config, recipe.layout, recipe.policy), notes)
            for row in _pages_to_shards(touched_table(shards), [reread], recipe, notes):
                if row["kind"] == RowKind.POISONED:
                    raise WorkerFailed(f"unit {row['unit_id']}, document {row['doc_id']}: {row['detail']}")
                yield row

    def stage_seconds(self) -> StageSeconds:
        """Of the jobs that ended, and of the one that runs, as of a few seconds ago."""
        notes, (at, seen) = self._live, self._looked
        if notes is None:
            return added_up(self._spent)
        if time.monotonic() - at > LOOK_SECONDS:
            with suppress(ray.exceptions.RayError, RuntimeError, AttributeError):  # of a cluster that is gone
                seen = notes.seconds()
            self._looked = time.monotonic(), seen
        return added_up([*self._spent, seen])

    @contextmanager
    def _notes(self) -> Iterator[workers.Notes]:
        """Notes of one job; their stage times are kept when it ends."""
        notes = workers.Notes(f"{telemetry.context().get('run_id') or ''} {uuid.uuid4().hex}")
        self._live = notes
        try:
            yield notes
        finally:
            self._live, self._looked = None, (0.0, {})
            with suppress(ray.exceptions.RayError, RuntimeError, AttributeError):  # of a cluster that is gone
                self._spent.append(notes.seconds())
                notes.clear()


def _run_pass(units: Sequence[PlannedUnit], recipe: Recipe, notes: workers.Notes, poisoned: workers.Poisoned) -> Iterator[Row]:
    read = workers.ReadTask("read", Read(recipe.config.source), notes)
    paginate = workers.PaginateTask(Paginate(recipe.config, recipe.layout, recipe.policy), notes, poisoned)
    yield from _pages_to_shards(units_table(units), [read, paginate], recipe, notes)


def _pages_to_shards(table: pa.Table, first: Sequence[workers.TaskStage], recipe: Recipe, notes: workers.Notes) -> Iterator[Row]:
    """Chain the stages that turn `table` into PAGES with the stages after them; yields the WRITTEN rows."""
    config, place = recipe.config, recipe.config.placement
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = False
    context.execution_no_progress_timeout_s = place.stall_seconds
    # Blocks of a few batches, so that Encode and Verify work on different ones at the same time.
    context.target_max_block_size = max(4 << 20, place.render_batch * recipe.policy.px**2)
    write = workers.PlainTask("write", Write(config.out, config.storage.row_group_bytes), notes)
    tables: dict[str, Any] = {"batch_format": "pyarrow", "zero_copy_batch": True}
    task: dict[str, Any] = {**tables, "num_cpus": TASK_CPUS, "max_retries": RETRIES}
    reading: dict[str, Any] = {**task, "batch_size": None, "compute": TaskPoolStrategy(place.read_tasks)}
    drawing = {**reading, "compute": TaskPoolStrategy(place.render_tasks)}
    data: ray.data.Dataset = ray.data.from_arrow([table.slice(at, 1) for at in range(table.num_rows)])
    for stage, options in zip(first, [reading, *[drawing] * len(first)], strict=False):
        data = data.map_batches(stage.__call__, **options)
    data = _judged(data, recipe, notes, drawing, tables)
    data = data.map_batches(write.__call__, batch_size=place.shard_batch, **task)
    batches: Iterator[Any] = iter(data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
    while True:
        with _unwrapped():
            batch = next(batches, None)
        if batch is None:
            return
        yield from batch.to_pylist()


def _judged(
    data: ray.data.Dataset, recipe: Recipe, notes: workers.Notes, drawing: dict[str, Any], tables: dict[str, Any]
) -> ray.data.Dataset:
    """PAGES -> VERDICTS, by actors."""
    config, print_, place = recipe.config, recipe.fingerprint, recipe.config.placement
    model: dict[str, Any] = {
        **tables,
        "batch_size": place.render_batch,
        "num_cpus": place.cpus_per_worker,
        "num_gpus": place.gpus_per_worker or None,
        "max_task_retries": RETRIES,
        "max_restarts": -1,  # bounded by the retries of its tasks, and by stall_seconds if it cannot start
    }
    if recipe.policy.climbs:  # a page may need several modes: one actor renders, encodes and reads it back
        rate = ("verify", RateControl, (config, print_, recipe.layout, recipe.policy), notes)
        both = ActorPoolStrategy(size=place.encode_workers + place.verify_workers)
        return data.map_batches(workers.RateWorker, compute=both, fn_constructor_args=rate, **model)
    encode, verify = (("encode", Encode, (config, print_), notes), ("verify", Verify, (config, print_), notes))
    encoders, verifiers = ActorPoolStrategy(size=place.encode_workers), ActorPoolStrategy(size=place.verify_workers)
    render = workers.TaskStage("render", Render(recipe.layout), notes)
    return (
        data.map_batches(render.__call__, **drawing)
        .map_batches(workers.EncodeWorker, compute=encoders, fn_constructor_args=encode, **model)
        .map_batches(workers.VerifyWorker, compute=verifiers, fn_constructor_args=verify, **model)
    )


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
    """Raise the original exception of a worker instead of Ray's wrapper."""
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
