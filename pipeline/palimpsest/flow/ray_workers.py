"""What `flow.py` runs in Ray's workers: the stages, timed, measured, and isolated after they have ended a worker.

A task knows from Ray how often it was tried; from the third time on its stages work in child processes (isolation.py). An actor
serves many batches, and those that waited behind the one that killed it come back as well. So before each batch it notes in Ray's
key-value store which one it takes up, and after a restart the batch that stands there, and only that one, goes to a child.

The same notes carry the seconds that each process spent in each stage; the driver adds them up for the run record.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.cloudpickle
from ray.experimental import internal_kv
from ray.util import metrics as ray_metrics

from palimpsest import telemetry
from palimpsest.flow.isolation import POISONED, Child, isolate, quarantined, read_isolated
from palimpsest.flow.plan import PlannedUnit
from palimpsest.flow.stages import WRITTEN, Model, Read, Write
from palimpsest.schemas import IMAGES, PAGES, TOKENS, VERDICTS
from palimpsest.sources.documents import Document
from palimpsest.sources.units import Unit
from palimpsest.telemetry import Metric, log_event

ISOLATE_FROM = 2  # attempts of a task before this one
SCHEMAS = {"paginate": PAGES, "render": IMAGES, "encode": TOKENS, "verify": VERDICTS}
Poisoned = dict[str, dict[str, str]]
"""unit id -> document id -> what it did, of the documents that a unit is done again without."""

_NAMESPACE = b"palimpsest"


# Metrics


_exported: dict[str, Any] = {}


def export_metrics() -> None:
    """From here on, what this process records goes to Prometheus through Ray."""
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
    """What the processes of one run leave for the driver, and for those that take their place."""

    def __init__(self, run: str) -> None:
        self.prefix = f"palimpsest {run} "
        self.said, self.as_json = telemetry.context(), telemetry.as_json()

    def enter(self) -> None:
        """Make this process a part of the run: its metrics are exported, its log says which run it is."""
        export_metrics()
        telemetry.set_context(**self.said)
        if self.as_json:
            telemetry.use_json()

    def put(self, who: str, value: dict[str, Any]) -> None:
        internal_kv._internal_kv_put(self._key(who), json.dumps(value).encode(), overwrite=True, namespace=_NAMESPACE)

    def get(self, who: str) -> dict[str, Any]:
        found = internal_kv._internal_kv_get(self._key(who), namespace=_NAMESPACE)
        return json.loads(found) if found else {}

    def seconds(self) -> dict[str, dict[str, float]]:
        """By stage: seconds spent in its batches by all processes, their number, and the rows that came out."""
        totals: dict[str, Counter[str]] = defaultdict(Counter)
        for key in internal_kv._internal_kv_list(self.prefix.encode(), namespace=_NAMESPACE):
            found = internal_kv._internal_kv_get(key, namespace=_NAMESPACE)
            for stage, spent in json.loads(found or b"{}").get("spent", {}).items():
                totals[stage].update(spent)
        return {stage: {name: round(value, 3) for name, value in total.items()} for stage, total in sorted(totals.items())}

    def clear(self) -> None:
        internal_kv._internal_kv_del(self.prefix.encode(), del_by_prefix=True, namespace=_NAMESPACE)

    def _key(self, who: str) -> bytes:
        return (self.prefix + who).encode()


class _Clock:
    """Times batches, and tells Prometheus and the notes."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes
        self.spent: dict[str, Counter[str]] = defaultdict(Counter)
        self.began: float | None = None
        self.seen: float | None = None

    def timed(self, stage: str, outputs: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Pass `outputs` on; the time that the stage took for each is its own, without that of whoever takes them."""
        iterator = iter(outputs)
        while True:
            start = time.perf_counter()
            if self.began is None:
                self.began = start
            table = _next(iterator)
            seconds = time.perf_counter() - start
            spent = self.spent[stage]
            spent["seconds"] += seconds  # type: ignore[assignment]
            if table is None:
                return
            spent["batches"] += 1
            spent["rows"] += table.num_rows
            telemetry.record("palimpsest_stage_seconds", seconds, stage=stage)
            yield table

    def model(self, stage: str, drained: dict[str, float]) -> None:
        """Take in what the models of an actor's stage spent (`Batches.drain`), and the wall time since the last call."""
        self.spent[stage].update(drained)  # type: ignore[arg-type]
        now = time.perf_counter()
        self.spent[stage]["wall_seconds"] += now - (self.seen or self.began or now)  # type: ignore[assignment]
        self.seen = now

    def busy_share(self, stage: str) -> float:
        wall = time.perf_counter() - (self.began or time.perf_counter())
        return min(1.0, self.spent[stage]["seconds"] / wall) if wall else 1.0


def _next(tables: Iterator[pa.Table]) -> pa.Table | None:
    """The next table; a process that runs out of memory ends, as if the system had ended it, and its batch is tried again."""
    try:
        return next(tables, None)
    except MemoryError:
        log_event("out_of_memory")
        os._exit(1)


_clocks: dict[str, _Clock] = {}


def _clock(notes: Notes) -> _Clock:
    """One per process and run: tasks come and go, the process stays."""
    return _clocks.setdefault(notes.prefix, _Clock(notes))


def attempt() -> int:
    """How often the current task was tried before."""
    return int(ray._private.worker.global_worker.core_worker.get_current_task_attempt_number())  # type: ignore[attr-defined]


def _pickled(work: Any, arguments: tuple[Any, ...] | None = None) -> bytes:
    return bytes(ray.cloudpickle.dumps((work, arguments)))


# Tasks


class TaskStage:
    """A stage that Ray runs as a task."""

    def __init__(self, name: str, stage: Any, notes: Notes) -> None:
        self.name, self.stage, self.notes = name, stage, notes

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        self.notes.enter()
        clock, tried = _clock(self.notes), attempt()
        yield from clock.timed(self.name, self.isolated(table) if tried >= ISOLATE_FROM else self.plain(table))
        self.notes.put(f"process {os.getpid()} {ray.get_runtime_context().get_node_id()}", {"spent": clock.spent})

    def plain(self, table: pa.Table) -> Iterator[pa.Table]:
        outputs = self.stage(table)  # within the generator, so that the clock sees it
        yield from [outputs] if isinstance(outputs, pa.Table) else outputs

    def isolated(self, table: pa.Table) -> Iterator[pa.Table]:
        child = Child(_pickled(self.stage))
        try:
            yield from _logged(isolate(child, table, self.name, SCHEMAS[self.name], whole=self.name == "paginate"), self.name)
        finally:
            child.close()


class ReadTask(TaskStage):
    """Read; it says when it takes the place of a worker that died, for itself and for the stages that Ray runs with it."""

    stage: Read

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        if attempt():
            self.notes.enter()
            telemetry.record("palimpsest_worker_failures", 1, stage=self.name)
            units = [PlannedUnit.from_json(text).unit_id for text in table["unit"].to_pylist()]
            log_event("worker_lost", stage=self.name, unit_id=",".join(units), attempt=attempt())
        yield from super().__call__(table)

    def isolated(self, table: pa.Table) -> Iterator[pa.Table]:
        stage = type(self.stage)(self.stage.config)
        reader = _pickled(self.stage.records)
        stage.records = lambda unit: read_isolated(unit, stage.config, reader)  # type: ignore[method-assign]
        yield from _logged(stage(table), self.name)


class PaginateTask(TaskStage):
    """Paginate; documents that are known to kill a later stage are quarantined instead."""

    def __init__(self, stage: Any, notes: Notes, poisoned: Poisoned) -> None:
        super().__init__("paginate", stage, notes)
        self.poisoned = poisoned

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        keys = zip(table["unit_id"].to_pylist(), table["kind"].to_pylist(), table["doc_id"].to_pylist(), strict=True)
        poison = [kind == "document" and doc_id in self.poisoned.get(unit_id, {}) for unit_id, kind, doc_id in keys]
        if not any(poison):
            yield from super().__call__(table)
            return
        yield from super().__call__(table.filter(pa.array([not killer for killer in poison])))
        for place, killer in enumerate(poison):
            if killer:
                document = table.slice(place, 1)
                detail = self.poisoned[document["unit_id"][0].as_py()][document["doc_id"][0].as_py()]
                yield quarantined(document, detail, PAGES)


class WriteTask(TaskStage):
    """Write; also sends the driver the pages by tier and status, and the documents that a unit must be done again without."""

    stage: Write

    def plain(self, table: pa.Table) -> Iterator[pa.Table]:
        pages = table.filter(pc.equal(table["kind"], "page"))
        rows = self.stage(table).to_pylist()
        for row in rows:
            if row["kind"] == "written":
                of_unit = pages.filter(pc.equal(pages["unit_id"], row["unit_id"]))
                row["payload"] = json.dumps({**json.loads(row["payload"]), **_measured(of_unit)})
        for row in table.filter(pc.equal(table["kind"], POISONED)).select(["unit_id", "doc_id", "detail"]).to_pylist():
            payload = json.dumps({"doc_id": row["doc_id"], "detail": row["detail"]})
            rows.append({"unit_id": row["unit_id"], "kind": POISONED, "payload": payload, "record": None})
        yield pa.Table.from_pylist(rows, WRITTEN)

    isolated = plain  # it writes what earlier stages made: no record reaches it that they did not survive


def _measured(pages: pa.Table) -> dict[str, Any]:
    """Pages by tier and status; sum and number of the precisions."""
    statuses = Counter(zip(pages["tier"].to_pylist(), pages["status"].to_pylist(), strict=True))
    known = pages["precision"].drop_null()
    return {
        "statuses": [[tier, status, number] for (tier, status), number in sorted(statuses.items())],
        "precision": [pc.sum(known.cast(pa.float64())).as_py() or 0.0, len(known)],
    }


def document_ids(unit: Unit, read: Read) -> list[str]:
    """Ids of the documents of a unit, as `plan.document_ids`; by a child process once reading it has ended a worker."""
    records = read_isolated(unit, read.config, _pickled(read.records)) if attempt() >= ISOLATE_FROM else read.records(unit)
    return [record.doc_id for record in records if isinstance(record, Document)]


# Actors


class ActorStage:
    """A stage with a model, in an actor that Ray starts again when it dies."""

    def __init__(self, name: str, stage: Callable[..., Any], arguments: tuple[Any, ...], notes: Notes) -> None:
        notes.enter()
        self.name, self.make, self.arguments, self.notes = name, stage, arguments, notes
        self.child: Child | None = None
        self.stage: Any = stage(*arguments)
        self.who = f"actor {ray.get_runtime_context().get_actor_id()}"
        before = notes.get(self.who)
        self.suspect: str | None = before.get("batch")
        self.clock = _Clock(notes)
        for name, spent in before.get("spent", {}).items():
            self.clock.spent[name].update(spent)
        if before:
            telemetry.record("palimpsest_worker_failures", 1, stage=self.name)
            log_event("worker_lost", stage=self.name, unit_id=before.get("unit_id"), batch=self.suspect)
        self.notes.put(self.who, {**before, "spent": self.clock.spent})  # whoever comes next knows that it is not the first

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        batch = _digest(table)
        units = ",".join(pc.unique(table["unit_id"]).to_pylist())
        self.notes.put(self.who, {"batch": batch, "unit_id": units, "spent": self.clock.spent})
        outputs = self.isolated(table) if batch == self.suspect else self.plain(table)
        yield from self.clock.timed(self.name, outputs)
        self.clock.model(self.name, _drained(self.stage))
        if self.name == "verify":
            self._observe(table)
        telemetry.record("palimpsest_device_busy_share", self.clock.busy_share(self.name), stage=self.name)
        self.notes.put(self.who, {"spent": self.clock.spent})

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
        self.stage = None  # the child loads its own model, and a device may not hold two
        gc.collect()
        _empty_device()
        self.child = self.child or Child(_pickled(self.make, self.arguments))
        for output in _logged(isolate(self.child, table, self.name, SCHEMAS[self.name], whole=False), self.name):
            self.output = output
            yield output
        self.suspect = None

    def _observe(self, table: pa.Table) -> None:
        for mode, precision in zip(self.output["mode"].to_pylist(), self.output["precision"].to_pylist(), strict=True):
            if precision is not None:
                telemetry.record("palimpsest_page_precision", precision, mode=mode)


class EncodeWorker(ActorStage):
    """Encode, under a name that Ray's dashboard shows."""


class VerifyWorker(ActorStage):
    """Verify, under a name that Ray's dashboard shows."""


class RateWorker(ActorStage):
    """RateControl, which encodes and verifies, under a name that Ray's dashboard shows."""


def _drained(stage: Any) -> dict[str, float]:
    """What the models of a stage spent since the last call; nothing of those that are at work in a child process."""
    total: Counter[str] = Counter()
    for part in (stage, getattr(stage, "encode", None), getattr(stage, "verify", None)):
        if isinstance(part, Model):
            total.update(part.batched.drain())  # type: ignore[arg-type]
    return dict(total)


def _digest(table: pa.Table) -> str:
    """What tells batches apart: the ids of their rows."""
    ids = [table[name].to_pylist() for name in ("unit_id", "kind", "page_id")]
    return hashlib.blake2b(repr(ids).encode(), digest_size=16).hexdigest()


def _empty_device() -> None:
    import sys

    torch = sys.modules.get("torch")  # loaded by the stage, if it needs it
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _logged(tables: Iterable[pa.Table], stage: str) -> Iterator[pa.Table]:
    """Log what was set apart."""
    for table in tables:
        for row in table.filter(pc.equal(table["reason"], "worker_killed").fill_null(False)).to_pylist():
            log_event("worker_killed", stage=stage, unit_id=row["unit_id"], doc_id=row["doc_id"], detail=row["detail"])
        yield table
