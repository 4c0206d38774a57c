"""`palimpsest ingest`: one incremental pass over a prefix, as for a nightly job.

list -> compare with the newest snapshot -> process new and changed objects, batch by batch -> publish each batch. The pass
depends on the sources, the configuration and the store, never on the clock. After a kill, run it again. A pass without changes
starts neither Ray nor a model.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from typing import Any

from palimpsest import telemetry
from palimpsest.config import JobConfig
from palimpsest.corpus.attempts import count_tries, try_id
from palimpsest.corpus.format import create_corpus
from palimpsest.corpus.run_records import NOTHING, PUBLISHED, new_run_id, record_configuration, record_failure, record_stats
from palimpsest.corpus.running import at_work
from palimpsest.corpus.snapshots import Snapshot, latest
from palimpsest.corpus.units import Counts
from palimpsest.errors import RunFailed, UsageError
from palimpsest.flow.executor import LazyExecutor
from palimpsest.flow.ledger import UnreadSource, refuse_quarantine
from palimpsest.flow.recipe import Recipe
from palimpsest.operations.changes import Spill, State, compare, published_sources
from palimpsest.operations.codebooks import SAMPLED, found_codebook, settled_codebook
from palimpsest.operations.dry_run import refuse
from palimpsest.operations.findings import SetAside, absent_fields, check_fields
from palimpsest.operations.ingest_batch import Batcher, Blocked, Outcome
from palimpsest.operations.ingest_cache import Memory, VersionWriter
from palimpsest.operations.progress import Progress
from palimpsest.operations.resolving import identify, located, prepare
from palimpsest.operations.run import Work, refuse_absent
from palimpsest.sources.inventory import Inventory, versions
from palimpsest.sources.objects import Listed, SourceObject
from palimpsest.storage.object_store import ObjectStore
from palimpsest.storage.opening import open_store
from palimpsest.storage.probe import probe
from palimpsest.telemetry import RunMetrics

KINDS = ("unchanged", "other_settings", "new", "rewritten", "given_up", "vanished", "elsewhere")


@dataclass(frozen=True, kw_only=True)
class IngestResult:
    """The outcome of a pass.

    Attributes:
        listed, bytes: number of objects below the sources, and the sum of their sizes.
        changes: number of objects by kind (`changes.Change.kind`).
        snapshot: the corpus's newest snapshot, or None; `snapshots`: those that this pass published.
        units_new, units_done: processed now, and already committed (by a killed pass or by another one).
        stale: unchanged sources that were processed again, because a unit that stores documents for them was replaced.
        elsewhere: sources that another pass published meanwhile.
        unread: could not be read; the next pass retries them. given_up: failed the last allowed attempt in this version.
        blocked: rewritten or vanished sources that keep their published version.
        passed_over: names that are not sources, by rule (sources/names.py).
        set_aside: objects processed now that are mostly bad.
        nulled: optional metadata that could not be used, by reason.
        absent_fields: messages about fields that were set and occur in no document.
        seconds: by phase, and in total.
    """

    run_id: str
    out: str
    listed: int
    bytes: int
    changes: dict[str, int]
    snapshot: int | None
    snapshots: tuple[int, ...] = ()
    units_new: int = 0
    units_done: int = 0
    units_waiting: int = 0
    stale: int = 0
    elsewhere: int = 0
    dropped: int = 0
    unread: tuple[UnreadSource, ...] = ()
    given_up: tuple[str, ...] = ()
    blocked: tuple[Blocked, ...] = ()
    fresh: Counts = field(default_factory=Counts)
    reasons: dict[str, int] = field(default_factory=dict)
    passed_over: dict[str, Any] = field(default_factory=dict)
    set_aside: tuple[SetAside, ...] = ()
    nulled: dict[str, int] = field(default_factory=dict)
    absent_fields: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    dry_run: bool = False

    @property
    def findings(self) -> bool:
        """True if sources need attention: some were not published in their current version."""
        found = (self.unread, self.given_up, self.blocked, self.units_waiting, self.set_aside, self.absent_fields)
        return any(found)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class _Phases:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = self._last = time.monotonic()

    def end(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name] = round(self.seconds.get(name, 0.0) + now - self._last, 3)
        self._last = now

    def total(self) -> dict[str, float]:
        return {**self.seconds, "total": round(time.monotonic() - self._began, 3)}


def ingest(
    config: JobConfig,
    watch: Callable[[Progress], None] = lambda progress: None,
    *,
    dry_run: bool = False,
    store: ObjectStore | None = None,
) -> IngestResult:
    """Bring a corpus up to date with its sources.

    Args:
        watch: called whenever rows arrive.
        dry_run: only compare; nothing is written.
        store: the corpus, instead of the one at `config.out`, which the workers open.

    Raises:
        ValueError: a configuration, source or output cannot be used, or the listing is empty and nothing of it is published.
        AlreadyRunning: a run with other settings is at work on the corpus.
        RunFailed: more sources vanished than may be dropped, or too many documents were quarantined; earlier batches stay
            published.
        StoreError: the output cannot be written.
    """
    phases = _Phases()
    config = located(config)
    store = store or open_store(config.out)
    recipe = found_codebook(store, identify(config))
    run_id = new_run_id()
    telemetry.set_context(run_id=run_id)
    with ExitStack() as stack:
        inventory = stack.enter_context(Inventory(config.sources, config.source, config.out))
        base = latest(store)
        phases.end("list")
        memory = Memory(store, config)
        remembered = memory.settled(inventory.digest, base.number, recipe.fingerprint) if base else None
        if remembered is not None:
            result = _result(run_id, config, inventory, Counter(remembered), base, Outcome(), phases, dry_run)
        else:
            ingestion = _Ingestion(config, recipe, store, run_id, inventory, base, memory, stack, watch, phases)
            result = ingestion.pass_(dry_run)
            recipe = ingestion.recipe  # with the codebook that it may have fitted
    if not dry_run and result.snapshot is not None:
        stats = {**result.to_json(), "fingerprint": recipe.fingerprint, "outcome": PUBLISHED if result.snapshots else NOTHING}
        record_stats(store, run_id, {**stats, "command": "ingest", "newest_source": inventory.newest})
    return result


class _Ingestion:
    """One pass that may have work to do."""

    def __init__(
        self,
        config: JobConfig,
        recipe: Recipe,
        store: ObjectStore,
        run_id: str,
        inventory: Inventory,
        base: Snapshot | None,
        memory: Memory,
        stack: ExitStack,
        watch: Callable[[Progress], None],
        phases: _Phases,
    ) -> None:
        self.config, self.recipe, self.store, self.run_id = config, recipe, store, run_id
        self.inventory, self.base, self.memory, self.stack = inventory, base, memory, stack
        self.watch, self.phases = watch, phases
        self.executor = LazyExecutor(config.placement, stack)
        self.kinds: Counter[str] = Counter()
        self.rewritten, self.new = Spill(), Spill()
        stack.callback(self.rewritten.close)
        stack.callback(self.new.close)
        self.vanished: list[str] = []
        self.tries = count_tries(store) if base else Counter()
        self.recorded = False
        self.is_corpus = base is not None

    def pass_(self, dry_run: bool) -> IngestResult:
        written = self._compare()
        self.phases.end("compare")
        if self.base is None:
            check_fields((listed.item for listed, _ in self.new), self.config.source)
        outcome = Outcome()
        snapshot = self.base
        work = bool(len(self.rewritten) or len(self.new) or self.vanished)
        if work and dry_run:
            refuse(self.config, self.store)
        elif work:
            batcher = None
            try:
                batcher = self._batcher()
                snapshot = self._batches(batcher) or snapshot
            except BaseException as error:
                outcome = batcher.outcome if batcher else outcome
                stats = {**outcome.work.stats(self.phases.total()["total"]), "command": "ingest", "changes": dict(self.kinds)}
                if self.is_corpus:  # a record in an empty location would block every later pass
                    record_failure(self.store, self.run_id, error, {**stats, "snapshots": outcome.snapshots})
                raise
            outcome = batcher.outcome
        if not dry_run and snapshot is not None:
            written.keep()
            self._settle(snapshot, outcome, written)
        return _result(self.run_id, self.config, self.inventory, self.kinds, snapshot, outcome, self.phases, dry_run)

    def _compare(self) -> VersionWriter:
        """Sort every object by the work that it needs.

        Raises:
            ValueError: nothing is listed, and nothing of it is published.
            RunFailed: more is to be dropped than `ingest.drop_share` allows.
        """
        ingest, fingerprint = self.config.ingest, self.recipe.fingerprint
        known = self.memory.versions() if self.base else iter(())
        listing = self.memory.watch(versions(self.inventory, known))
        self.stack.callback(listing.close)

        def given_up(listed: Listed) -> bool:
            return self.tries[try_id(listed.name, listed.item.version, fingerprint)] >= ingest.tries

        for change in compare(
            listing,
            published_sources(self.store, self.base),
            uris=self.config.sources,
            fingerprint=fingerprint,
            replace_settings=ingest.other_settings == "replace",
            given_up=given_up,
        ):
            self.kinds[change.kind] += 1
            if change.kind in ("new", "rewritten") and change.listed:
                spill = self.new if change.kind == "new" else self.rewritten
                spill.add(change.listed, change.published.state if change.published else frozenset())
            elif change.kind == "vanished" and ingest.vanished == "drop":
                self.vanished.append(change.name)
        published = sum(self.kinds[kind] for kind in ("unchanged", "other_settings", "rewritten", "vanished"))
        if not len(self.inventory) and not self.kinds["vanished"]:
            named = ", ".join(self.config.sources)
            passed = f" ({passed})" if (passed := str(self.inventory.passed_over)) else ""
            raise UsageError(
                f"sources: {named}: nothing is there to read{passed}, and nothing of it is published; name what holds the objects"
            )
        if self.vanished and len(self.vanished) > ingest.drop_share * published:
            raise RunFailed(
                f"{len(self.vanished)} of {published} published objects are no longer listed, more than ingest.drop_share = "
                f"{ingest.drop_share:.1%} may be dropped at once. Nothing was changed. Is the listing complete? If they are "
                f'really gone, raise the share for one pass, or set ingest.vanished = "keep"'
            )
        return listing

    def _new_objects(self) -> Iterator[SourceObject]:
        return (listed.item for listed, _ in islice(chain(self.new, self.rewritten), SAMPLED))

    def _batcher(self) -> Batcher:
        """Set up the work: create the corpus, check the configuration against the model, and start Ray on its first use."""
        prepare(self.config)
        create_corpus(self.store)
        self.is_corpus = True
        self.recipe = settled_codebook(self.store, self.recipe, self._new_objects())
        self.stack.enter_context(at_work(self.store, self.run_id, self.recipe.fingerprint, "ingest"))
        probe(self.store)
        self.phases.end("prepare")
        todo = len(self.rewritten) + len(self.new)
        return Batcher(
            config=self.config,
            recipe=self.recipe,
            store=self.store,
            run_id=self.run_id,
            find=self._find,
            executor=self.executor,
            check=self._check,
            record=self._record,
            tries=self.tries,
            progress=Progress(
                bytes_total=self.rewritten.bytes + self.new.bytes, stages=self.executor.stage_seconds, watch=self.watch
            ),
            metrics=RunMetrics(self.config.out, todo),
            outcome=Outcome(work=Work(stages=self.executor.stage_seconds)),
        )

    def _batches(self, batcher: Batcher) -> Snapshot | None:
        """Put replaced sources and their dependents first, so that no new unit leaves a document to a unit that is removed."""
        snapshot: Snapshot | None = None
        vanished = self.vanished
        with batcher.metrics.run():
            for spill in (self.rewritten, self.new):
                for batch in self._cut(spill):
                    snapshot = batcher.run(batch, vanished) or snapshot
                    vanished = []
                    self.phases.end("batches")
            if vanished:
                snapshot = batcher.run({}, vanished) or snapshot
                self.phases.end("batches")
            newest = snapshot or latest(self.store)
            if newest:
                batcher.metrics.published(newest.number, time.time(), findings=bool(batcher.outcome.work.unread_sources))
        return newest

    def _cut(self, spill: Spill) -> Iterator[dict[str, tuple[Listed, State]]]:
        limits, unit_bytes = self.config.ingest, self.config.source.unit_bytes
        batch: dict[str, tuple[Listed, State]] = {}
        units = size = 0
        for listed, seen in spill:
            batch[listed.name] = listed, seen
            units += 1 + listed.item.size // unit_bytes
            size += listed.item.size
            if units >= limits.batch_units or size >= limits.batch_bytes:
                yield batch
                batch, units, size = {}, 0, 0
        if batch:
            yield batch

    def _find(self, names: set[str]) -> Mapping[str, Listed]:
        return {listed.name: listed for listed in self.inventory if listed.name in names}

    def _check(self, counts: Counts, work: Work) -> None:
        """Raise RunFailed if too many documents of this pass are quarantined; an unread source counts as one document."""
        refuse_absent(self.config, work)
        unread = len(work.unread_sources)
        refuse_quarantine(
            counts.documents_quarantined + unread,
            counts.documents_in + unread,
            work.reasons,
            share=self.config.limits.quarantine_share,
            slack=self.config.ingest.quarantine_documents,
            what="documents of this pass",
            then="What was published before stays; this batch is not published, its work is kept.",
        )

    def _record(self) -> None:
        if not self.recorded:
            record_configuration(self.store, self.recipe.config, self.run_id)
            self.recorded = True

    def _settle(self, snapshot: Snapshot, outcome: Outcome, written: VersionWriter) -> None:
        """Record that nothing is left to do, if so: the next pass over the same listing then reads nothing more."""
        settled = not (outcome.work.unread_sources or outcome.blocked or outcome.waiting or outcome.elsewhere)
        if settled and written.settled == written.local:
            counts = Counter(self.kinds)
            counts["unchanged"] += counts.pop("new", 0) + counts.pop("rewritten", 0)
            counts["vanished"] -= outcome.dropped
            self.memory.settle(self.inventory.digest, snapshot.number, self.recipe.fingerprint, dict(+counts))


def _result(
    run_id: str,
    config: JobConfig,
    inventory: Inventory,
    kinds: Counter[str],
    snapshot: Snapshot | None,
    outcome: Outcome,
    phases: _Phases,
    dry_run: bool,
) -> IngestResult:
    last = {lost.source_uri: lost for lost in outcome.work.unread_sources if lost.source_uri not in outcome.given_up}
    return IngestResult(
        run_id=run_id,
        out=config.out,
        listed=len(inventory),
        bytes=inventory.bytes,
        changes={kind: kinds[kind] for kind in KINDS},
        snapshot=snapshot.number if snapshot else None,
        snapshots=tuple(outcome.snapshots),
        units_new=len(outcome.work.records),
        units_done=outcome.done,
        units_waiting=outcome.waiting,
        stale=outcome.stale,
        elsewhere=outcome.elsewhere,
        dropped=outcome.dropped,
        unread=tuple(last.values()),
        given_up=tuple(outcome.given_up),
        blocked=tuple(outcome.blocked),
        fresh=sum((record.counts for record in outcome.work.records), Counts()),
        reasons=dict(outcome.work.reasons),
        passed_over=inventory.passed_over.to_json(),
        set_aside=tuple(outcome.set_aside),
        nulled=dict(outcome.work.metadata.nulled),
        absent_fields=absent_fields(config.source, outcome.work.metadata),
        seconds=phases.total(),
        dry_run=dry_run,
    )
