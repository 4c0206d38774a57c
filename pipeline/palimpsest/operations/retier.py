"""`palimpsest retier`: the tier policy, applied to a published corpus.

plan -> render, encode and verify the pages that are due -> commit each changed unit -> publish them together. Shards without
changed pages are shared with the old snapshot, which stays readable until gc. Every step can be interrupted; the next run resumes
from the committed units.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from palimpsest.config import JobConfig
from palimpsest.corpus.format import open_corpus
from palimpsest.corpus.run_records import PUBLISHED, new_run_id, record_configuration, record_stats
from palimpsest.corpus.shards import ShardRecord, new_attempt, read_shard, write_quarantine
from palimpsest.corpus.snapshots import Snapshot, latest, publish
from palimpsest.corpus.units import CommitRecord, commit_unit, is_committed, read_unit
from palimpsest.errors import UsageError
from palimpsest.flow.executor import started
from palimpsest.flow.ledger import EventLog, InFlight, Ledger, Subscriber, UnreadSource, WorkerFailed
from palimpsest.flow.recipe import Recipe
from palimpsest.operations.progress import Progress
from palimpsest.operations.resolving import identify
from palimpsest.operations.retier_plan import RetierPlan, UnitPlan, plan_retier, shards_of
from palimpsest.operations.run import Work
from palimpsest.schemas import RowKind
from palimpsest.storage.object_store import ObjectStore
from palimpsest.storage.opening import open_store
from palimpsest.storage.probe import probe


@dataclass(frozen=True, kw_only=True)
class RetierResult:
    """The outcome of a re-tiering, or of its dry run.

    Attributes:
        snapshot, before: the corpus's newest snapshot now, and the one that was re-tiered.
        policy: description of the policy, one line per recipe of the corpus's units.
        pages, due: number of pages checked, and of pages to change.
        moves: pages by "tier now → requested tier"; with policy fidelity a page may end sharper than requested.
        ended: pages of this run by their new tier.
        held: pages that the policy would store sharper; they stay unchanged, unless sharpening is requested.
        units, units_replaced: number of units in the snapshot, and of those that are replaced.
        shards, shards_touched: the same for shards.
        context_tokens, text_tokens: of the whole snapshot, before and now.
        unknown: units by fingerprint whose configuration is not recorded; they stay unchanged.
    """

    corpus: str
    run_id: str
    snapshot: int
    before: int
    dry_run: bool
    policy: tuple[str, ...]
    pages: int
    due: int
    moves: dict[str, int]
    ended: dict[str, int]
    held: int
    units: int
    units_replaced: int
    shards: int
    shards_touched: int
    context_tokens: tuple[int, int]
    text_tokens: tuple[int, int]
    unknown: dict[str, int]
    seconds: float
    total_seconds: float

    @property
    def findings(self) -> bool:
        return bool(self.unknown)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def retier(
    corpus: str,
    overrides: tuple[str, ...] = (),
    *,
    as_of: str | None = None,
    sharpen: bool = False,
    dry_run: bool = False,
    watch: Callable[[Progress], None] = lambda progress: None,
) -> RetierResult:
    """Apply the policy of `overrides`, or else the corpus's own policy, to its newest snapshot.

    Args:
        as_of: the clock, in place of `tiers.as_of`.
        sharpen: also restore pages to the sharper tier that the policy would now choose.
        dry_run: only report the pages that are due.
        watch: called whenever rows arrive.

    Raises:
        ValueError: there is no published corpus, or the settings do not fit it.
        StoreError, WorkerFailed: committed units are kept; the same call resumes from there.
    """
    began = time.monotonic()
    corpus = corpus if "://" in corpus else str(Path(corpus).expanduser().absolute())
    store = open_store(corpus)
    open_corpus(store, "pages")
    base = latest(store)
    if base is None:
        raise UsageError(f"corpus {corpus!r} has no snapshot yet: run `palimpsest run … --out {corpus}` to its end")
    plan = plan_retier(store, base, corpus, overrides, as_of, sharpen=sharpen)
    run_id = new_run_id()
    work = _Work()
    snapshot = base
    if plan.units and not dry_run:
        probe(store)
        records = _commit(store, plan, run_id, work, Progress(pages_total=plan.due, units_total=len(plan.units), watch=watch))
        # The configuration that made the pages remains the corpus's; this run's changes are in its stats.json.
        record_configuration(store, next(iter(plan.made.values())), run_id)
        snapshot = publish(store, run_id, records, drop={planned.old.unit_id for planned in plan.units})
    result = _result(corpus, run_id, base, snapshot, plan, work, dry_run, time.monotonic() - began)
    if snapshot.run_id == run_id:
        recipe = next(iter(plan.recipes.values()))
        named = {"codec": recipe.codec, "codec_revision": recipe.revision, "command": "retier", "outcome": PUBLISHED}
        record_stats(store, run_id, {**result.to_json(), **named})
    return result


@dataclass
class _Work(Subscriber):
    """The work of a re-tiering.

    Attributes:
        ended: pages by their new tier.
    """

    ended: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def arrived(self, row: Mapping[str, Any]) -> None:
        if row["kind"] == RowKind.WRITTEN:
            for shard in row["shards"]:
                self.ended[shard["tier"]] += shard["rows"]


@dataclass
class _RetieredUnit:
    """A unit that replaces a published one; see `ledger.UnitInFlight`."""

    planned: UnitPlan
    waiting: set[str]  # shards whose end has not arrived
    arrived: InFlight = field(default_factory=InFlight)
    pages_expected: int = 0
    bytes: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    unread: UnreadSource | None = None

    @property
    def unit_id(self) -> str:
        return self.planned.new_id

    @property
    def complete(self) -> bool:
        return not self.waiting and self.arrived.counts["pages"] == self.pages_expected

    @property
    def missing(self) -> str:
        return f"{self.arrived.counts['pages']} of {self.pages_expected} pages, shards {sorted(self.waiting)}"

    def restarted(self) -> _RetieredUnit:
        return _in_flight(self.planned)

    def take(self, row: Mapping[str, Any]) -> None:
        if row["kind"] == RowKind.WRITTEN:
            self.arrived.add_pages(row)
        elif row["kind"] == RowKind.UNIT_END:
            control = row["control"]
            self.waiting.remove(control["shard"])
            self.pages_expected += control["pages"]
            self.arrived.shards += [ShardRecord(**shard) for shard in control["kept"]]
        else:  # a document that ended its workers while it was rendered, encoded or read
            raise WorkerFailed(f"unit {self.unit_id}: {row['kind']}: {row['reason']}: {row['detail']}")

    def commit(self, store: ObjectStore, run_id: str) -> CommitRecord:
        return _commit_unit(store, self, run_id)


def _in_flight(planned: UnitPlan) -> _RetieredUnit:
    return _RetieredUnit(planned, {touched.shard.key for touched in planned.touched})


def _commit(store: ObjectStore, plan: RetierPlan, run_id: str, work: _Work, progress: Progress) -> list[CommitRecord]:
    """Commit every unit of the plan; units that an earlier run has committed are used unchanged."""
    done = {planned.new_id: read_unit(store, planned.new_id) for planned in plan.units if is_committed(store, planned.new_id)}
    todo: dict[str, list[UnitPlan]] = {}
    for planned in plan.units:
        if planned.new_id in done:
            progress.pages += sum(len(touched.changes) for touched in planned.touched)
            progress.units += 1
        elif planned.touched:
            todo.setdefault(planned.old.fingerprint, []).append(planned)
    for print_ in todo:
        _refuse_other_codec(plan.made[print_], plan.recipes[print_])
    for planned in plan.units:
        if planned.new_id not in done and not planned.touched:
            done[planned.new_id] = _commit_unit(store, _in_flight(planned), run_id)
            progress.units += 1
    progress.watch(progress)
    start = time.monotonic()
    if todo:
        with started(next(iter(plan.recipes.values())).config.placement) as executor:
            progress.stages = executor.stage_seconds
            for print_, units in todo.items():
                records = Work()
                ledger = Ledger([_in_flight(planned) for planned in units], [progress, work, records, EventLog()])
                with progress.stoppable():
                    ledger.settle(executor.retier(shards_of(units), plan.recipes[print_]), store, run_id)
                done.update((record.unit_id, record) for record in records.records)
    work.seconds = time.monotonic() - start
    return list(done.values())


def _refuse_other_codec(made: JobConfig, recipe: Recipe) -> None:
    """Check, before anything is written, that the codec is the one that made the unit: no other can encode its pages again.

    Raises:
        ValueError: the codecs differ; the message names both.
    """
    now = identify(made)
    if now.fingerprint != recipe.fingerprint:
        raise UsageError(
            f"units with fingerprint {recipe.fingerprint} were made with codec {recipe.codec} {recipe.revision}, and "
            f"codec.name = {made.codec.name!r} is now {now.codec} {now.revision}: install the version that made them, or run "
            "their sources again"
        )


def _commit_unit(store: ObjectStore, unit: _RetieredUnit, run_id: str) -> CommitRecord:
    """Write the commit record; returns the record that is in the store."""
    planned, old, attempt = unit.planned, unit.planned.old, new_attempt()
    touched = {shard.shard.key for shard in planned.touched}
    shards = (*(shard for shard in old.shards if shard.key not in touched), *unit.arrived.shards)
    quarantine = None
    if old.quarantine is not None:
        table = read_shard(store, old.quarantine)
        ids = pa.array([planned.new_id] * table.num_rows, pa.string())
        table = table.set_column(0, table.schema.field("unit_id"), ids)
        quarantine = write_quarantine(store, table, unit_id=planned.new_id, attempt=attempt)
    counts = replace(
        old.counts,
        bytes=sum(shard.bytes for shard in shards),
        text_tokens=old.counts.text_tokens - planned.text_tokens + unit.arrived.counts["text_tokens"],
        context_tokens=old.counts.context_tokens - planned.context_tokens + unit.arrived.counts["context_tokens"],
        tokens_as_text=old.counts.tokens_as_text - planned.tokens_as_text + unit.arrived.counts["tokens_as_text"],
    )
    record = replace(
        old,
        unit_id=planned.new_id,
        run_id=run_id,
        attempt=attempt,
        shards=tuple(sorted(shards, key=lambda shard: (shard.tier, shard.key))),
        quarantine=quarantine,
        counts=counts,
        defers_to=planned.defers_to,
    )
    return commit_unit(store, record)


def _result(
    corpus: str, run_id: str, base: Snapshot, now: Snapshot, plan: RetierPlan, work: _Work, dry_run: bool, seconds: float
) -> RetierResult:
    before, after = base.totals, now.totals
    return RetierResult(
        corpus=corpus,
        run_id=run_id if now.run_id == run_id else "",
        snapshot=now.number,
        before=base.number,
        dry_run=dry_run,
        policy=tuple(dict.fromkeys(recipe.policy.described for recipe in plan.recipes.values())),
        pages=plan.pages,
        due=plan.due,
        moves={f"{old} → {new}": pages for (old, new), pages in sorted(plan.moves.items())},
        ended=dict(sorted(work.ended.items())),
        held=plan.held,
        units=len(base.units),
        units_replaced=len(plan.units),
        shards=sum(len(unit.shards) for unit in base.units),
        shards_touched=len(shards_of(plan.units)),
        context_tokens=(before.context_tokens, after.context_tokens),
        text_tokens=(before.text_tokens, after.text_tokens),
        unknown=dict(plan.unknown),
        seconds=round(work.seconds, 3),
        total_seconds=round(seconds, 3),
    )
