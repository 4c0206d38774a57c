"""`palimpsest run`: sources in, a published snapshot out.

plan -> process the new units -> commit each when it is complete -> publish them together -> record the run. Every step can be
interrupted; the next run resumes from the committed units.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from palimpsest import telemetry
from palimpsest.config import JobConfig
from palimpsest.corpus.format import create_corpus
from palimpsest.corpus.manifest import sum_counts
from palimpsest.corpus.repair import lost_units
from palimpsest.corpus.run_records import (
    NOTHING,
    PUBLISHED,
    new_run_id,
    record_configuration,
    record_failure,
    record_stats,
)
from palimpsest.corpus.running import at_work
from palimpsest.corpus.snapshots import Snapshot, latest, publish
from palimpsest.corpus.units import CommitRecord, Counts
from palimpsest.errors import RunFailed
from palimpsest.flow.executor import Executor, StageSeconds, lazily
from palimpsest.flow.ledger import (
    EventLog,
    Ledger,
    Metering,
    SourceUnit,
    Subscriber,
    UnitInFlight,
    UnreadSource,
    refuse_quarantine,
)
from palimpsest.flow.plan import Plan, PlannedUnit, make_plan, publishable, settled
from palimpsest.flow.recipe import Recipe
from palimpsest.flow.supply import supply
from palimpsest.operations.codebooks import found_codebook, settled_codebook
from palimpsest.operations.findings import Metadata, SetAside, absent_fields, check_fields, judge
from palimpsest.operations.progress import Progress
from palimpsest.operations.quarantine import first_records
from palimpsest.operations.resolving import identify, located, prepare
from palimpsest.sources.listing import list_sources
from palimpsest.sources.objects import SourceObject
from palimpsest.storage.object_store import ObjectStore
from palimpsest.storage.opening import open_store
from palimpsest.storage.probe import probe
from palimpsest.telemetry import RunMetrics


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The outcome of a run.

    Attributes:
        snapshot: the corpus's newest snapshot.
        units_done, units_new: units that were already committed, and units processed now.
        units_waiting: committed units that are not published until the sources that they rely on can be read.
        unread: sources that could not be read in their listed version; the next run tries them again.
        counts: counts of all units of this run's sources.
        fresh: counts of the units processed now.
        published_now: this run published `snapshot`.
        passed_over: names that are not sources, by rule (sources/names.py).
        set_aside: objects processed now that are mostly bad.
        nulled: optional metadata that could not be used, by reason.
        absent_fields: messages about fields that were set and occur in no document.
        seconds: wall time of the processing, without Ray's start and planning; `total_seconds` includes them.
    """

    run_id: str
    out: str
    snapshot: int
    units_done: int
    units_new: int
    units_waiting: int
    unread: tuple[UnreadSource, ...]
    counts: Counts
    fresh: Counts
    reasons: dict[str, int]
    seconds: float
    total_seconds: float
    published_now: bool = False
    passed_over: dict[str, Any] = field(default_factory=dict)
    set_aside: tuple[SetAside, ...] = ()
    nulled: dict[str, int] = field(default_factory=dict)
    absent_fields: tuple[str, ...] = ()

    @property
    def findings(self) -> bool:
        """Whether something needs a look although the rest is published."""
        return bool(self.unread or self.set_aside or self.absent_fields)

    @property
    def pages_per_second(self) -> float:
        return self.fresh.pages_committed / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "pages_per_second": round(self.pages_per_second, 3)}


def run(config: JobConfig, watch: Callable[[Progress], None] = lambda progress: None) -> RunResult:
    """Run a job to its end.

    Args:
        watch: called whenever rows arrive.

    Raises:
        ValueError: a configuration, source or output cannot be used.
        AlreadyRunning: a run with other settings is at work on the corpus.
        RunFailed: too many documents were quarantined.
        StoreError: the output cannot be written.
    """
    began = time.monotonic()
    config = located(config)
    listing = list_sources(config.sources, config.source, config.out)
    objects = listing.objects
    store = open_store(config.out)
    recipe = found_codebook(store, identify(config))
    run_id = new_run_id()
    telemetry.set_context(run_id=run_id)
    base, lost = _base(store)
    done = settled(base, objects, config.source, recipe.fingerprint, lost)
    if base is None:
        check_fields(objects, config.source)
    if done is not None and base is not None:
        plan, work, progress, snapshot, ready = Plan(todo=(), done=done), Work(), Progress(), base, list(done)
    else:
        prepare(config)
        create_corpus(store)
        recipe = settled_codebook(store, recipe, objects)
        with at_work(store, run_id, recipe.fingerprint, "run"):
            probe(store)
            plan, work, progress, snapshot, ready = _build(objects, recipe, store, run_id, watch)
    fresh = sum_counts(record.counts for record in work.records)
    result = RunResult(
        run_id=run_id,
        out=config.out,
        snapshot=snapshot.number,
        units_done=len(plan.done),
        units_new=len(work.records),
        units_waiting=len(plan.done) + len(work.records) - len(ready),
        unread=tuple(work.unread_sources),
        counts=sum_counts(record.counts for record in (*plan.done, *work.records)),
        fresh=fresh,
        reasons=dict(work.reasons),
        published_now=snapshot.run_id == run_id,
        passed_over=listing.passed_over.to_json(),
        set_aside=judge(work.records)[1],
        nulled=dict(work.metadata.nulled),
        absent_fields=absent_fields(config.source, work.metadata),
        seconds=round(progress.seconds, 3),
        total_seconds=round(time.monotonic() - began, 3),
    )
    if plan.todo or snapshot.run_id == run_id:
        outcome = PUBLISHED if snapshot.run_id == run_id else NOTHING
        stats = {**result.to_json(), **_identity(recipe), **work.stats(progress.seconds), "outcome": outcome}
        record_stats(store, run_id, stats)
    return result


def _base(store: ObjectStore) -> tuple[Snapshot | None, frozenset[str]]:
    """The newest snapshot, and the units of it that lost a shard."""
    base = latest(store)
    return base, lost_units(store, base.units) if base else frozenset()


def _build(
    objects: Sequence[SourceObject], recipe: Recipe, store: ObjectStore, run_id: str, watch: Callable[[Progress], None]
) -> tuple[Plan, Work, Progress, Snapshot, list[CommitRecord]]:
    """Plan, process and publish; returns also the published records."""
    config, progress, work = recipe.config, Progress(), Work()
    base, lost = _base(store)
    try:
        with lazily(config.placement) as executor:
            work.stages = executor.stage_seconds
            plan = make_plan(store, base, objects, config.source, recipe.fingerprint, executor.index, lost)
            progress = Progress(units_total=len(plan.todo), bytes_total=plan.bytes, stages=executor.stage_seconds, watch=watch)
            if plan.todo:
                executor()
            metrics = RunMetrics(config.out, len(plan.todo))
            with metrics.run():
                if plan.todo:
                    process(plan.todo, recipe, executor(), store, run_id, [Metering(metrics), progress, work])
                counts, _ = judge((*plan.done, *work.records))
                _refuse_quarantine(store, counts, work, config.limits.quarantine_share)
                refuse_absent(config, work)
                records = [*plan.done, *work.records]
                published = tuple(base.units) if base else ()
                ready = publishable(store, published, records, {source.source_uri for source in work.unread_sources})
                snapshot = _publish(store, base, run_id, ready, recipe)
                metrics.published(snapshot.number, time.time(), findings=bool(work.unread_sources))
    except BaseException as error:
        record_failure(store, run_id, error, {**_identity(recipe), **work.stats(progress.seconds)})
        raise
    return plan, work, progress, snapshot, ready


def _identity(recipe: Recipe) -> dict[str, str]:
    return {"codec": recipe.codec, "codec_revision": recipe.revision, "fingerprint": recipe.fingerprint}


@dataclass
class Work(Subscriber):
    """The outcome of processing a plan.

    Attributes:
        reasons: quarantined documents by reason.
        unread_sources: sources that could not be read in their listed version.
        metadata: what was read of optional metadata.
        stages: `Executor.stage_seconds` of the executor that did the work.
    """

    records: list[CommitRecord] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    unread_sources: list[UnreadSource] = field(default_factory=list)
    stages: Callable[[], StageSeconds] = dict
    metadata: Metadata = field(default_factory=Metadata)

    def committed(self, unit: UnitInFlight, record: CommitRecord) -> None:
        if isinstance(unit, SourceUnit) and unit.read:
            self.metadata.add(unit.read)
        self.records.append(record)
        self.reasons.update(unit.reasons)

    def unread(self, unit: UnitInFlight, source: UnreadSource) -> None:
        self.unread_sources.append(source)
        self.reasons.update(unit.reasons)

    def stats(self, seconds: float) -> dict[str, Any]:
        """For the run record: counts, rates, the quarantine by reason, and seconds by stage."""
        fresh = sum_counts(record.counts for record in self.records)
        rates = {
            "pages_per_second": fresh.pages_committed,
            "text_tokens_per_second": fresh.text_tokens,
            "bytes_per_second": fresh.bytes,
        }
        return {
            "units_new": len(self.records),
            "fresh": asdict(fresh),
            "reasons": dict(self.reasons),
            "unread": [asdict(source) for source in self.unread_sources],
            "seconds": round(seconds, 3),
            "stage_seconds": (spent := self.stages() if self.records else {}),
            "supply": supply(spent, fresh.pages_committed),
            **{name: round(count / seconds, 3) if seconds else 0.0 for name, count in rates.items()},
        }


def process(
    units: Sequence[PlannedUnit],
    recipe: Recipe,
    executor: Executor,
    store: ObjectStore,
    run_id: str,
    subscribers: Sequence[Subscriber],
) -> None:
    """Process units and commit each when it is complete; the subscribers follow."""
    ledger = Ledger((SourceUnit(planned, recipe.fingerprint) for planned in units), [*subscribers, EventLog()])

    def pending() -> list[PlannedUnit]:
        return [unit.planned for unit in ledger.incomplete()]

    progress = next((subscriber for subscriber in subscribers if isinstance(subscriber, Progress)), Progress())
    progress.watch(progress)
    with progress.stoppable():
        ledger.settle(executor.run_units(units, recipe, pending), store, run_id)


def refuse_absent(config: JobConfig, work: Work) -> None:
    """Under `limits.strict`, raise RunFailed where a field that was set occurs in no document."""
    absent = absent_fields(config.source, work.metadata) if config.limits.strict else ()
    if absent:
        raise RunFailed(f"{'; '.join(absent)} (limits.strict). Nothing was published; the work is kept. Fix the setting")


def _refuse_quarantine(store: ObjectStore, counts: Counts, work: Work, share: float) -> None:
    lost, documents = (count + len(work.unread_sources) for count in (counts.documents_quarantined, counts.documents_in))
    then = (
        "Nothing was published; the work is kept." + first_records(store, work.records, work.unread_sources)
        if lost > share * documents
        else ""
    )
    refuse_quarantine(lost, documents, work.reasons, share=share, then=then)


def _publish(store: ObjectStore, base: Snapshot | None, run_id: str, records: list[CommitRecord], recipe: Recipe) -> Snapshot:
    """Publish the units of whole sources in place of the snapshot's units of these sources."""
    ours = {record.unit_id for record in records}
    sources = {record.source_uri for record in records}
    theirs = {unit.unit_id: unit.source_uri for unit in (base.units if base else ())}
    drop = {name for name, source in theirs.items() if source in sources and name not in ours}
    if base and not drop and ours <= theirs.keys():
        return base
    record_configuration(store, recipe.config, run_id)
    return publish(store, run_id, records, drop=drop)
