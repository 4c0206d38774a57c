"""The stages as Ray's workers run them: timed, measured, and isolated after they have ended a worker.

A task knows from Ray how often it was tried; from the third time on its stages work in child processes (isolation.py). An actor
serves many batches, and those that waited behind the one that killed it come back as well. So before each batch it notes in Ray's
key-value store which one it takes up, and after a restart the batch named there, and only that one, goes to a child.

The same notes carry the seconds that each process spent in each stage; the driver adds them up for the run record.
"""

from __future__ import annotations

import gc
import hashlib
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.cloudpickle
from ray.util import metrics as ray_metrics

from palimpsest import telemetry
from palimpsest.flow.clock import Clock, added_up
from palimpsest.flow.isolation import Child, isolate, quarantined, read_isolated
from palimpsest.flow.local_executor import observe_precision
from palimpsest.flow.plan import planned_units
from palimpsest.flow.ray_internals import KeyValues, task_attempt
from palimpsest.flow.stages import Read
from palimpsest.schemas import IMAGES, PAGES, TOKENS, VERDICTS, RowKind
from palimpsest.sources.documents import Document
from palimpsest.sources.units import Unit
from palimpsest.telemetry import Metric, log_event

ISOLATE_FROM = 2  # attempts of a task before this one
SCHEMAS = {"paginate": PAGES, "render": IMAGES, "encode": TOKENS, "verify": VERDICTS}
Poisoned = dict[str, dict[str, str]]
"""unit id -> document id -> how it ended its worker; the unit is processed again without these documents."""


# Metrics


_exported: dict[str, Any] = {}


def export_metrics() -> None:
    """Export the metrics that this process records from now on to Prometheus, through Ray."""
    telemetry.bind(_export)


def _export(name: str, metric: Metric, value: float, labels: dict[str, str]) -> None:
    if name not in _exported:
        kinds = {
            telemetry.COUNTER: ray_metrics.Counter,
            telemetry.GAUGE: ray_metrics.Gauge,
            telemetry.HISTOGRAM: ray_metrics.Histogram,
        }
        more: dict[str, Any] = {"boundaries": list(metric.boundaries)} if metric.boundaries else {}
        _exported[name] = kinds[metric.kind](name, description=metric.help, tag_keys=metric.labels, **more)
    exported = _exported[name]
    send = {telemetry.COUNTER: "inc", telemetry.GAUGE: "set", telemetry.HISTOGRAM: "observe"}[metric.kind]
    ascii_only = {label: text.encode("ascii", "backslashreplace").decode() for label, text in labels.items()}  # as Ray demands
    getattr(exported, send)(value, tags=ascii_only)


# Notes in Ray's key-value store


class Notes:
    """Messages from the processes of one run to the driver, and to the processes that replace them."""

    def __init__(self, run: str) -> None:
        self.values = KeyValues(f"palimpsest {run} ")
        self.context, self.as_json = telemetry.context(), telemetry.as_json()

    def enter(self) -> None:
        """Make this process part of the run: its metrics are exported, and its log lines name the run."""
        export_metrics()
        telemetry.set_context(**self.context)
        if self.as_json:
            telemetry.use_json()

    def put(self, who: str, value: dict[str, Any]) -> None:
        self.values.put(who, pickle.dumps(value))

    def get(self, who: str) -> dict[str, Any]:
        pickled = self.values.get(who)
        return dict(pickle.loads(pickled)) if pickled else {}

    def seconds(self) -> dict[str, dict[str, float]]:
        """Per stage, summed over all processes: seconds in batches, number of batches, and output rows."""
        return added_up(pickle.loads(value).get("spent", {}) for value in self.values.values())

    def clear(self) -> None:
        self.values.clear()


def _pull(tables: Iterator[pa.Table]) -> pa.Table | None:
    """The next table. A process that runs out of memory ends, as if the system had ended it, and its batch is retried."""
    try:
        return next(tables, None)
    except MemoryError:
        log_event("out_of_memory")
        os._exit(1)


_clocks: dict[str, Clock] = {}


def _clock(notes: Notes) -> Clock:
    """The clock of this process and run; it outlives the tasks."""
    return _clocks.setdefault(notes.values.prefix, Clock())


def _pickled(work: Any, arguments: tuple[Any, ...] | None = None) -> bytes:
    return bytes(ray.cloudpickle.dumps((work, arguments)))


# Tasks


class TaskStage:
    """A stage that Ray runs as a task."""

    def __init__(self, name: str, stage: Any, notes: Notes) -> None:
        self.name, self.stage, self.notes = name, stage, notes

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        self.notes.enter()
        clock, tried = _clock(self.notes), task_attempt()
        yield from clock.timed(self.name, self.isolated(table) if tried >= ISOLATE_FROM else self.plain(table), _pull)
        self.notes.put(f"process {os.getpid()} {ray.get_runtime_context().get_node_id()}", {"spent": dict(clock.spent)})

    def plain(self, table: pa.Table) -> Iterator[pa.Table]:
        outputs = self.stage(table)  # within the generator, so that the clock includes it
        yield from [outputs] if isinstance(outputs, pa.Table) else outputs

    def isolated(self, table: pa.Table) -> Iterator[pa.Table]:
        child = Child(_pickled(self.stage))
        try:
            yield from _logged(isolate(child, table, self.name, SCHEMAS[self.name], whole=self.name == "paginate"), self.name)
        finally:
            child.close()


class ReadTask(TaskStage):
    """Read. It reports when it replaces a worker that died, for itself and for the stages that Ray fuses with it."""

    stage: Read

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        if task_attempt():
            self.notes.enter()
            telemetry.record("palimpsest_worker_failures", 1, stage=self.name)
            units = [planned.unit_id for planned in planned_units(table)]
            log_event("worker_lost", stage=self.name, unit_id=",".join(units), attempt=task_attempt())
        yield from super().__call__(table)

    def isolated(self, table: pa.Table) -> Iterator[pa.Table]:
        config, reader = self.stage.config, _pickled(self.stage.records)
        yield from _logged(Read(config, lambda unit: read_isolated(unit, config, reader))(table), self.name)


class PaginateTask(TaskStage):
    """Paginate. It quarantines documents that are known to kill a later stage."""

    def __init__(self, stage: Any, notes: Notes, poisoned: Poisoned) -> None:
        super().__init__("paginate", stage, notes)
        self.poisoned = poisoned

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        keys = zip(table["unit_id"].to_pylist(), table["kind"].to_pylist(), table["doc_id"].to_pylist(), strict=True)
        poison = [kind == RowKind.DOCUMENT and doc_id in self.poisoned.get(unit_id, {}) for unit_id, kind, doc_id in keys]
        if not any(poison):
            yield from super().__call__(table)
            return
        yield from super().__call__(table.filter(pa.array([not killer for killer in poison])))
        for position, killer in enumerate(poison):
            if killer:
                document = table.slice(position, 1)
                detail = self.poisoned[document["unit_id"][0].as_py()][document["doc_id"][0].as_py()]
                yield quarantined(document, detail, PAGES)


class PlainTask(TaskStage):
    """Write and Reread: each record that reaches them has passed an earlier stage or an earlier run."""

    def isolated(self, table: pa.Table) -> Iterator[pa.Table]:
        yield from self.plain(table)


def document_ids(unit: Unit, read: Read) -> list[str]:
    """Ids of the documents of a unit, as `plan.document_ids`. A child process reads the unit once it has ended a worker."""
    records = read_isolated(unit, read.config, _pickled(read.records)) if task_attempt() >= ISOLATE_FROM else read.records(unit)
    return [record.doc_id for record in records if isinstance(record, Document)]


# Actors


class ActorStage:
    """A stage with a model, in an actor that Ray restarts when it dies."""

    def __init__(self, name: str, stage: Callable[..., Any], arguments: tuple[Any, ...], notes: Notes) -> None:
        notes.enter()
        self.name, self.make, self.arguments, self.notes = name, stage, arguments, notes
        self.child: Child | None = None
        self.stage: Any = stage(*arguments)
        self.who = f"actor {ray.get_runtime_context().get_actor_id()}"
        before = notes.get(self.who)
        self.suspect: str | None = before.get("batch")
        self.clock = Clock()
        for name, spent in before.get("spent", {}).items():
            self.clock.spent[name].update(spent)
        if before:
            telemetry.record("palimpsest_worker_failures", 1, stage=self.name)
            log_event("worker_lost", stage=self.name, unit_id=before.get("unit_id"), batch=self.suspect)
        self.notes.put(self.who, {**before, "spent": dict(self.clock.spent)})  # a replacement sees that it is not the first

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        batch = _digest(table)
        units = ",".join(pc.unique(table["unit_id"]).to_pylist())
        self.notes.put(self.who, {"batch": batch, "unit_id": units, "spent": dict(self.clock.spent)})
        outputs = self.isolated(table) if batch == self.suspect else self.plain(table)
        yield from self.clock.timed(self.name, outputs, _pull)
        self.clock.model(self.name, self.stage)
        if self.name == "verify":
            observe_precision(self.output)
        telemetry.record("palimpsest_device_busy_share", self.clock.busy_share(self.name), stage=self.name)
        self.notes.put(self.who, {"spent": dict(self.clock.spent)})

    def plain(self, table: pa.Table) -> Iterator[pa.Table]:
        if self.stage is None:
            self.stage = self.make(*self.arguments)
        if self.child:
            self.child.close()
            self.child = None
        output = self.stage(table)
        self.output = output
        yield output

    def isolated(self, table: pa.Table) -> Iterator[pa.Table]:
        self.stage = None  # the child loads its own model, and two may not fit on a device
        gc.collect()
        _empty_device()
        self.child = self.child or Child(_pickled(self.make, self.arguments))
        for output in _logged(isolate(self.child, table, self.name, SCHEMAS[self.name], whole=False), self.name):
            self.output = output
            yield output
        self.suspect = None


class EncodeWorker(ActorStage):
    """Encode, under a name that Ray's dashboard shows."""


class VerifyWorker(ActorStage):
    """Verify, under a name that Ray's dashboard shows."""


class RateWorker(ActorStage):
    """RateControl, which encodes and verifies, under a name that Ray's dashboard shows."""


def _digest(table: pa.Table) -> str:
    """A hash of the ids of a batch's rows."""
    ids = [table[name].to_pylist() for name in ("unit_id", "kind", "page_id")]
    return hashlib.blake2b(repr(ids).encode(), digest_size=16).hexdigest()


def _empty_device() -> None:
    import sys

    torch = sys.modules.get("torch")  # loaded by the stage, if it needs it
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _logged(tables: Iterable[pa.Table], stage: str) -> Iterator[pa.Table]:
    """Log the documents that were quarantined."""
    for table in tables:
        for row in table.filter(pc.equal(table["reason"], "worker_killed").fill_null(False)).to_pylist():
            log_event("worker_killed", stage=stage, unit_id=row["unit_id"], doc_id=row["doc_id"], detail=row["detail"])
        yield table
