"""One batch of an ingestion: plan its units on top of the newest snapshot, process them, publish them in one snapshot.

This file makes concurrent ingestions safe, without a lock. Each plan starts from the newest snapshot. A source that another
ingestion has published since the comparison, in any version, is skipped. A unit that was committed meanwhile is used unchanged:
workers check once more before they start, and every run takes its units in its own order. A publish that conflicts with others'
snapshots is refused, and the batch is planned again.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from palimpsest.config import JobConfig
from palimpsest.corpus.attempts import note_try, try_id
from palimpsest.corpus.shards import new_attempt, write_quarantine
from palimpsest.corpus.snapshots import PublishConflict, Snapshot, latest, publish
from palimpsest.corpus.units import CommitRecord, Counts, commit_unit, unit_id
from palimpsest.flow.executor import LazyExecutor
from palimpsest.flow.ledger import Metering
from palimpsest.flow.plan import PlannedUnit, assign, held_documents, publishable, source_uri
from palimpsest.flow.recipe import Recipe
from palimpsest.operations.changes import State, dependents, units_of_sources
from palimpsest.operations.findings import SetAside, judge
from palimpsest.operations.progress import Progress
from palimpsest.operations.run import Work, process
from palimpsest.schemas import QUARANTINE
from palimpsest.sources.objects import Listed, local_object
from palimpsest.sources.tables import plan_units
from palimpsest.sources.units import Unit
from palimpsest.storage.object_store import ObjectStore
from palimpsest.telemetry import RunMetrics

PLANS = 6  # of one batch; each further plan means that another publisher changed its base


@dataclass(frozen=True, kw_only=True)
class Blocked:
    """A source whose new version cannot be published: `by` left documents to its old one and cannot be processed again."""

    source_uri: str
    by: str


@dataclass
class Outcome:
    """The outcome of all batches of a pass.

    Attributes:
        elsewhere: sources that another ingestion published meanwhile.
        given_up: sources that failed their last allowed attempt.
        waiting: committed units that wait for a source that could not be read.
        dropped: vanished sources that are no longer published.
        set_aside: objects that are mostly bad.
        counts: for the limit of the quarantine (`findings.judge`).
    """

    work: Work = field(default_factory=Work)
    done: int = 0
    elsewhere: int = 0
    stale: int = 0
    waiting: int = 0
    dropped: int = 0
    given_up: list[str] = field(default_factory=list)
    blocked: list[Blocked] = field(default_factory=list)
    set_aside: list[SetAside] = field(default_factory=list)
    snapshots: list[int] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)


@dataclass
class Batcher:
    """The shared state of a pass's batches.

    Attributes:
        find: returns objects of the inventory by name, with their version if it needs no read.
        executor: starts with the first unit that must be read.
        check: gets the counts of all plans and the work so far; raises to refuse the pass.
        record: writes the run's configuration, before its first snapshot.
        tries: number of failed tries of each version before this pass.
    """

    config: JobConfig
    recipe: Recipe
    store: ObjectStore
    run_id: str
    find: Callable[[set[str]], Mapping[str, Listed]]
    executor: LazyExecutor
    check: Callable[[Counts, Work], None]
    record: Callable[[], None]
    tries: Counter[str]
    progress: Progress
    metrics: RunMetrics
    outcome: Outcome = field(default_factory=Outcome)

    def run(self, sources: Mapping[str, tuple[Listed, State]], vanished: Iterable[str] = ()) -> Snapshot | None:
        """Process and publish some sources, and drop those that vanished; returns the published snapshot, or None.

        Raises:
            PublishConflict: other publishers changed the batch's base during each of PLANS plans.
        """
        for left in reversed(range(PLANS)):
            batch = _Batch(self, latest(self.store), sources, set(vanished))
            records = batch.records()
            self.check(self.outcome.counts + batch.counts, self.outcome.work)
            try:
                snapshot = batch.publish(records)
            except PublishConflict:
                if not left:
                    raise
                continue
            batch.account()
            return snapshot
        raise AssertionError("unreachable")


class _Batch:
    """One plan of a batch on top of one snapshot."""

    def __init__(
        self, of: Batcher, base: Snapshot | None, sources: Mapping[str, tuple[Listed, State]], vanished: set[str]
    ) -> None:
        self.of, self.base, self.vanished = of, base, vanished
        self.sources: dict[str, Listed] = {}
        self.published = units_of_sources(of.store, base, {*sources, *vanished})
        self.elsewhere = self.stale = self.done = self.waiting = 0
        self.blocked: list[Blocked] = []
        self.given_up: list[str] = []
        self.counts = Counts()
        self.set_aside: tuple[SetAside, ...] = ()
        now = self._states()
        for name, (listed, seen) in sources.items():
            if now.get(name, frozenset()) == seen:
                self.sources[name] = listed
            else:
                self.elsewhere += 1
        self._take_dependents()

    def _states(self) -> dict[str, State]:
        results: dict[str, set[tuple[str, str]]] = {}
        for record in self.published:
            results.setdefault(record.source_uri, set()).add((record.source_version, record.fingerprint))
        return {name: frozenset(state) for name, state in results.items()}

    def _take_dependents(self) -> None:
        """Add the sources of units that left documents to a unit replaced here; block sources that cannot be replaced."""
        taken: set[str] = set()
        while True:
            gone = {record.unit_id: record.source_uri for record in self._replaced()}
            relying = {
                name: units
                for name, units in dependents(self.of.store, self.base, gone).items()
                if name not in self.sources and name not in self.vanished
            }
            if not relying:
                self.stale = len(taken)
                return
            there = self.of.find(set(relying))
            for name, units in relying.items():
                if name in there:
                    listed = there[name]
                    if listed.status:
                        item = local_object(listed.item.uri)
                        listed = replace(listed, item=item)
                    self.sources[name] = listed
                    taken.add(name)
                else:  # it vanished, or another job listed it: it cannot be read again
                    for source in {gone[unit] for unit in units}:
                        self.blocked.append(Blocked(source_uri=source, by=name))
                        self.sources.pop(source, None)
                        self.vanished.discard(source)
            names = {*self.sources, *self.vanished} - {record.source_uri for record in self.published}
            self.published += units_of_sources(self.of.store, self.base, names)

    def _replaced(self) -> list[CommitRecord]:
        return [record for record in self.published if record.source_uri in self.sources or record.source_uri in self.vanished]

    def records(self) -> list[CommitRecord]:
        """Process the units that are not committed yet; returns the commit records of all that can be published."""
        of, base = self.of, self.base
        units = [unit for name in sorted(self.sources) for unit in plan_units(self.sources[name].item, of.config.source)]
        if not units:
            return []
        indexed = list(of.executor.index(units, of.config.source))
        replaced = {record.unit_id for record in self._replaced()}
        stored_by_others = held_documents(of.store, base, replaced, indexed)
        fingerprint, slices = of.recipe.fingerprint, Counter(unit.object.key for unit in units)
        todo, done = assign(of.store, units, indexed, stored_by_others, fingerprint, slices=slices, corpus=of.config.out)
        random.Random(of.run_id).shuffle(todo)
        of.progress.units_total += len(todo)
        work = Work()
        if todo:
            try:
                process(todo, of.recipe, of.executor(), of.store, of.run_id, [Metering(of.metrics), of.progress, work])
            finally:
                whole = of.outcome.work
                whole.records += work.records
                whole.reasons.update(work.reasons)
                whole.unread_sources += work.unread_sources
                whole.metadata.add_all(work.metadata)
        unread = {source.source_uri for source in work.unread_sources}
        records = [record for record in (*done, *work.records) if record.source_uri not in unread]
        ready = publishable(of.store, self.published, records, unread, stored_by_others)
        self.done, self.waiting = len(done), len(done) + len(work.records) - len(ready)
        self.counts, self.set_aside = judge((*done, *work.records))
        return [*ready, *self._given_up(work, todo)]

    def account(self) -> None:
        """Add the batch's results to the outcome of the pass."""
        whole = self.of.outcome
        for name in ("elsewhere", "stale", "done", "waiting"):
            setattr(whole, name, getattr(whole, name) + getattr(self, name))
        whole.dropped += len(self.vanished)
        whole.blocked += self.blocked
        whole.set_aside += self.set_aside
        whole.given_up += self.given_up
        whole.counts += self.counts

    def _given_up(self, work: Work, todo: list[PlannedUnit]) -> list[CommitRecord]:
        """Note the sources that could not be read.

        A source that was tried often enough and has no published version gets a unit with one quarantined document, so that no
        pass tries this version again.
        """
        of, results = self.of, []
        planned = {source_uri(unit.unit): unit.unit for unit in todo}
        has_old = {record.source_uri for record in self.published}
        for source in {lost.source_uri: lost for lost in work.unread_sources}.values():
            item, fingerprint = planned[source.source_uri].object, of.recipe.fingerprint
            cause = {"reason": source.reason, "detail": source.detail}
            note_try(of.store, of.run_id, source_uri=source.source_uri, version=item.version, fingerprint=fingerprint, **cause)
            if of.tries[try_id(source.source_uri, item.version, fingerprint)] + 1 < of.config.ingest.tries:
                continue
            self.given_up.append(source.source_uri)
            if source.source_uri not in has_old:
                results.append(given_up(of.store, of.run_id, planned[source.source_uri], fingerprint, **cause))
        return results

    def publish(self, records: list[CommitRecord]) -> Snapshot | None:
        """Publish the records in place of the published units of their sources; None if that changes nothing."""
        ours, sources = {record.unit_id for record in records}, {record.source_uri for record in records}
        drop = {
            record.unit_id
            for record in self.published
            if record.unit_id not in ours and (record.source_uri in sources or record.source_uri in self.vanished)
        }
        there = {record.unit_id for record in self.published}
        if not drop and ours <= there:
            return None
        self.of.record()
        snapshot = publish(self.of.store, self.of.run_id, records, drop=drop)
        if snapshot.run_id == self.of.run_id:
            self.of.outcome.snapshots.append(snapshot.number)
        return snapshot


def given_up(store: ObjectStore, run_id: str, unit: Unit, fingerprint: str, reason: str, detail: str) -> CommitRecord:
    """Commit a unit for an unreadable object: one quarantined document."""
    import pyarrow as pa

    name, version = source_uri(unit), unit.object.version
    unit_name, attempt = unit_id(unit.object.key, version, "", fingerprint, ["given up"]), new_attempt()
    row = {"unit_id": unit_name, "source_uri": name, "source_version": version, "reason": reason, "detail": detail, "record": b""}
    quarantine = write_quarantine(store, pa.Table.from_pylist([row], schema=QUARANTINE), unit_id=unit_name, attempt=attempt)
    record = CommitRecord(
        unit_id=unit_name,
        run_id=run_id,
        attempt=attempt,
        source_uri=name,
        source_version=version,
        slice="",
        fingerprint=fingerprint,
        shards=(),
        quarantine=quarantine,
        counts=Counts(documents_in=1, documents_quarantined=1),
    )
    return commit_unit(store, record)
