"""`palimpsest run`: sources in, a published snapshot out.

plan -> process the units that are new -> commit each when it is complete -> publish them together -> record the run. Every step
can be interrupted; the next run finds what was committed and goes on.
"""

from __future__ import annotations

import platform
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline import config as configs
from pipeline.config import JobConfig
from pipeline.pages.grid import Grid
from pipeline.pages.pagination import layout_fingerprint
from pipeline.plan import Plan, make_plan, publishable, source_uri
from pipeline.sources.listing import expand
from pipeline.sources.tables import plan_units
from pipeline.store.corpus import create_corpus
from pipeline.store.object_store import ObjectStore, open_store, probe
from pipeline.store.snapshots import Snapshot, latest, publish
from pipeline.store.stable_json import to_bytes
from pipeline.store.units import CommitRecord, Counts
from pipeline.tally import Tally, UnreadSource


class RunFailed(RuntimeError):
    """The run ended without a snapshot; what was committed stays and the next run goes on from there."""


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        units, units_total: committed, and to be processed in this run.
        pages, text_tokens, context_tokens: written so far, not necessarily committed.
        bytes, bytes_total: of the sources of the committed units, and of all to be processed.
        seconds: since processing began.
    """

    units_total: int = 0
    bytes_total: int = 0
    units: int = 0
    bytes: int = 0
    documents: int = 0
    pages: int = 0
    text_tokens: int = 0
    context_tokens: int = 0
    quarantined: int = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run did.

    Attributes:
        snapshot: the corpus's newest snapshot.
        units_done, units_new: found committed, and processed now.
        units_waiting: committed, but not published before the sources that they rely on can be read.
        unread: sources that could not be read as they were listed; the next run tries them again.
        counts: of all units that this run's sources hold.
        fresh: of the units processed now.
        seconds: wall time of the processing, Ray's start and planning left out; `total_seconds` has them.
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

    @property
    def pages_per_second(self) -> float:
        return self.fresh.pages_committed / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "pages_per_second": round(self.pages_per_second, 3)}


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A configuration made concrete: its grid, mode and fingerprint."""

    config: JobConfig
    grid: Grid
    px: int
    codec: str
    revision: str
    fingerprint: str


def prepare(config: JobConfig) -> Prepared:
    """Check a configuration against the codec that it names.

    Raises:
        ValueError: for a mode, grid, token storage or checkpoint that does not exist, with the choices.
    """
    import torch

    from pipeline.codecs.adapter import load_codec
    from pipeline.codecs.token_storage import STORAGES
    from pipeline.stages import codec_options

    if config.storage.tokens not in STORAGES:
        raise configs.ConfigError(f"storage.tokens = {config.storage.tokens!r}: choose one of {', '.join(STORAGES)}")
    codec = load_codec(config.codec.name, config.codec.path, **codec_options(config), parts="encoder")
    alphabet = config.layout.alphabet
    if alphabet == "codec":
        alphabet = codec.preset.alphabet
    grid = Grid.parse(config.layout.grid, alphabet)
    mode = codec.mode(config.tiers.mode)
    codec.prompt_ids(mode, (grid.columns, grid.rows))
    if config.verification.reader == "cells":
        codec.read_cells(torch.zeros(1, mode.num_vision_tokens, codec.token_dim), (grid.columns, grid.rows))
    config = replace(config, layout=replace(config.layout, alphabet=alphabet))
    print_ = configs.fingerprint(config, layout_fingerprint(grid), codec.id, codec.revision)
    return Prepared(config=config, grid=grid, px=mode.px, codec=codec.id, revision=codec.revision, fingerprint=print_)


def plan_only(config: JobConfig) -> dict[str, Any]:
    """What `run` would do, as names and values; nothing is written, and Ray is not started."""
    config = _located(config)
    prepared = prepare(config)
    items = expand(config.sources, config.source)
    units = [unit for item in items for unit in plan_units(item, config.source)]
    held = _published(config.out)
    known = sum((source_uri(unit), unit.object.version, unit.slice, prepared.fingerprint) in held for unit in units)
    return {
        "sources": len(items),
        "bytes": sum(item.size for item in items),
        "units": len(units),
        "published already": known,
        "to process": len(units) - known,
        "grid": str(prepared.grid),
        "mode": f"{config.tiers.mode} ({prepared.px} px)",
        "codec": f"{prepared.codec} {prepared.revision}",
        "fingerprint": prepared.fingerprint,
        "out": config.out,
    }


def _published(out: str) -> set[tuple[str, str, str, str]]:
    """Source, version, slice and fingerprint of the units in the newest snapshot of a corpus that may not exist yet."""
    snapshot = latest(open_store(out)) if out else None
    units = snapshot.units if snapshot else ()
    return {(unit.source_uri, unit.source_version, unit.slice, unit.fingerprint) for unit in units}


def _located(config: JobConfig) -> JobConfig:
    """The configuration with places that mean the same in every worker.

    Raises:
        ConfigError: where no source or no output is named.
    """
    if not config.sources:
        raise configs.ConfigError("sources = []: name at least one file, folder, glob or URI (--source)")
    if not config.out:
        raise configs.ConfigError("out = '': name the corpus to write (--out)")
    out = config.out if "://" in config.out else str(Path(config.out).expanduser().absolute())
    path = config.codec.path and str(Path(config.codec.path).expanduser().absolute())
    return replace(config, out=out, codec=replace(config.codec, path=path))


def run(config: JobConfig, watch: Callable[[Progress], None] = lambda progress: None) -> RunResult:
    """Run a job to its end.

    Args:
        watch: called whenever something arrived.

    Raises:
        ValueError: for a configuration, source or output that cannot be used.
        RunFailed: when too much was quarantined.
        StoreError: when the output cannot be written.
    """
    from pipeline import flow

    began = time.monotonic()
    config = _located(config)
    expand(config.sources, config.source)
    prepared = prepare(config)
    store = open_store(config.out)
    create_corpus(store)
    probe(store)
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
    base = latest(store)
    with flow.cluster(config.placement):
        index = flow.index_units(config.source)
        plan = make_plan(store, base, config.sources, config.source, prepared.fingerprint, index)
        progress = Progress(units_total=len(plan.todo), bytes_total=plan.bytes)
        work = _process(plan, prepared, store, run_id, progress, watch) if plan.todo else Work()
    seconds = progress.seconds
    fresh = sum((record.counts for record in work.records), Counts())
    counts = sum((record.counts for record in plan.done), fresh)
    _refuse_quarantine(counts, work, config.limits.quarantine_share)
    records = [*plan.done, *work.records]
    ready = publishable(store, base, records, {source.source_uri for source in work.unread})
    snapshot = _publish(store, base, run_id, ready, prepared)
    result = RunResult(
        run_id=run_id,
        out=config.out,
        snapshot=snapshot.number,
        units_done=len(plan.done),
        units_new=len(work.records),
        units_waiting=len(records) - len(ready),
        unread=tuple(work.unread),
        counts=counts,
        fresh=fresh,
        reasons=dict(work.reasons),
        seconds=round(seconds, 3),
        total_seconds=round(time.monotonic() - began, 3),
    )
    if plan.todo or snapshot.run_id == run_id:
        record_run(store, prepared, result)
    return result


@dataclass
class Work:
    """What the processing of a plan brought forth; `reasons` counts quarantined documents."""

    records: list[CommitRecord] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    unread: list[UnreadSource] = field(default_factory=list)


def _process(
    plan: Plan, prepared: Prepared, store: ObjectStore, run_id: str, progress: Progress, watch: Callable[[Progress], None]
) -> Work:
    from pipeline import flow

    tally, work = Tally(plan.todo), Work()
    watch(progress)
    for row in flow.run_units(plan.todo, prepared.config, prepared.grid, prepared.px, prepared.fingerprint):
        if row["kind"] == "quarantined":
            work.reasons[row["payload"]["reason"]] += 1
            progress.quarantined += 1
        elif row["kind"] == "written":
            for name in ("pages", "text_tokens", "context_tokens"):
                setattr(progress, name, getattr(progress, name) + row["payload"][name])
            progress.documents += row["payload"]["first_pages"]
        complete = tally.add(row)
        if complete:
            if complete.unread:
                work.unread.append(complete.unread)
            else:
                work.records.append(complete.commit(store, run_id, prepared.fingerprint))
            progress.units += 1
            progress.bytes += complete.planned.bytes
        watch(progress)
    if len(tally):
        raise AssertionError("the flow ended, but units are incomplete: " + "; ".join(tally.unfinished()))
    return work


def _refuse_quarantine(counts: Counts, work: Work, limit: float) -> None:
    """A source that could not be read counts as one document."""
    lost = counts.documents_quarantined + len(work.unread)
    documents = counts.documents_in + len(work.unread)
    share = lost / max(1, documents)
    if share > limit:
        named = ", ".join(f"{reason} {count}" for reason, count in work.reasons.most_common()) or "see the quarantine"
        raise RunFailed(
            f"{lost} of {documents} documents ({share:.1%}) are quarantined, more than "
            f"limits.quarantine_share = {limit:.1%}: {named}. Nothing was published; the work is kept. Mend the sources, or "
            f"raise the limit and run again"
        )


def _publish(store: ObjectStore, base: Snapshot | None, run_id: str, records: list[CommitRecord], prepared: Prepared) -> Snapshot:
    """Publish the units of whole sources in place of what the snapshot holds of these sources."""
    ours = {record.unit_id for record in records}
    sources = {record.source_uri for record in records}
    theirs = {unit.unit_id: unit.source_uri for unit in (base.units if base else ())}
    drop = {name for name, source in theirs.items() if source in sources and name not in ours}
    if base and not drop and ours <= theirs.keys():
        return base
    record_configuration(store, prepared, run_id)
    return publish(store, run_id, records, drop=drop)


def record_configuration(store: ObjectStore, prepared: Prepared, run_id: str) -> None:
    """Write the configuration and the environment into `runs/<run_id>/`: before the snapshot, which is read with them."""
    store.put(f"runs/{run_id}/config.toml", configs.to_toml(prepared.config).encode())
    store.put(f"runs/{run_id}/environment.json", to_bytes(environment()))


def record_run(store: ObjectStore, prepared: Prepared, result: RunResult) -> None:
    """Write into `runs/<run_id>/` what was done."""
    named = {"codec": prepared.codec, "codec_revision": prepared.revision, "fingerprint": prepared.fingerprint}
    store.put(f"runs/{result.run_id}/stats.json", to_bytes({**result.to_json(), **named}))


def environment() -> dict[str, Any]:
    """Versions and machine, for the run record."""
    packages = ("palimpsest", "ray", "torch", "transformers", "pyarrow", "numpy", "pillow", "tokenizers", "safetensors")
    versions = {name: metadata.version(name) for name in packages if _installed(name)}
    return {"python": sys.version.split()[0], "platform": platform.platform(), "processors": _processors(), "packages": versions}


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _processors() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
