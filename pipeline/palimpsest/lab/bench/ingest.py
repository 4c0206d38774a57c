"""`palimpsest bench ingest`: what a night costs when nothing or one object changed, and what a publish costs among many units.

Nights: real objects and the real pass, on a corpus whose units stand for objects that were ingested (their records hold no pages,
for a pass does not look at them). Requests of a storage service are counted where they leave, repetitions included, but not those
of Ray's workers. Publishing: a manifest of invented units. Each is measured in a process of its own, for its memory.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import resource
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from palimpsest.config import JobConfig
from palimpsest.corpus import manifest
from palimpsest.corpus.format import create_corpus
from palimpsest.corpus.manifest import Units, write_segment
from palimpsest.corpus.shards import ShardRecord
from palimpsest.corpus.snapshots import Snapshot, latest, publish, snapshot_key
from palimpsest.corpus.units import CommitRecord, Counts, unit_id
from palimpsest.operations.ingest import ingest
from palimpsest.operations.resolving import identify, located
from palimpsest.sources.inventory import Inventory, versions
from palimpsest.storage.local_store import LocalStore
from palimpsest.storage.object_store import ObjectStore
from palimpsest.storage.opening import open_store
from palimpsest.storage.stable_json import to_bytes

PER_FOLDER = 1000


def bench_ingest(
    config: JobConfig, *, objects: int = 100_000, units: int = 1_000_000, place: str | None = None
) -> dict[str, Any]:
    """Seconds, requests and peak memory.

    Args:
        objects: of the nights.
        units: units of the corpus that one unit is published into.
        place: an empty prefix of a bucket for the objects and their corpus, which stay there; files where None.
    """
    nights: list[dict[str, Any]] = []
    with TemporaryDirectory(prefix="palimpsest-bench-") as temporary:
        folder = Path(temporary)
        root = (place or str(folder)).rstrip("/")
        config = located(config.replace(sources=(f"{root}/in/",), out=f"{root}/corpus"))
        source = open_store(config.sources[0])
        began = time.monotonic()
        _objects(source, objects)
        made = round(time.monotonic() - began, 2)
        _published(config)
        for name in ("first look at every object", "quiet night", "quiet night, its memory lost", "one object changed"):
            if name.startswith("one"):
                source.put(_name(7), b"this one was rewritten")
            if name.endswith("lost"):
                for info in list(open_store(config.out).list("_ingest/")):
                    if info.key.endswith("settled.json"):
                        open_store(config.out).delete(info.key)
            nights.append({"what": name, **_apart(_night, config)})
        store = open_store(folder / "many")
        began = time.monotonic()
        _many(store, units)
        written = round(time.monotonic() - began, 2)
        publishing = [
            {"what": what, **_apart(measure, str(folder / "many"))}
            for what, measure in (("one unit published", _publish_one), ("all units read", _read_all))
        ]
        sizes = _sizes(store)
    return {
        "objects": objects, "place": place and urlsplit(place).scheme, "objects_made_seconds": made, "units": units,
        "segment_units": manifest.SEGMENT_UNITS, "manifest_written_whole_seconds": written,
        **sizes, "nights": nights, "publishing": publishing,
    }  # fmt: skip


def _asked(store: CountedStore) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(store.asked.items()))


class CountedStore:
    """A store that counts the requests and bytes that go through it."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.asked: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name not in ("create", "put", "read", "open", "list", "exists", "delete"):
            return method

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.asked[name] += 1
            if name in ("create", "put"):
                body = args[1]
                self.asked["bytes written"] += body.stat().st_size if isinstance(body, Path) else len(body)
            return method(*args, **kwargs)

        return counted


def _name(number: int) -> str:
    return f"{number // PER_FOLDER:03d}/{number % PER_FOLDER}.txt"


def _objects(store: ObjectStore, objects: int) -> None:
    """As many small texts; on a disk not through the store, which would force each to it."""
    if isinstance(store, LocalStore):
        for number in range(objects):
            path = store.root / _name(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"the text of object {number}")
        return
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda number: store.put(_name(number), f"the text of object {number}".encode()), range(objects)):
            pass


def _published(config: JobConfig) -> None:
    """A corpus that looks as if it had ingested the objects."""
    fingerprint = identify(config).fingerprint
    with Inventory(config.sources) as inventory:
        listed = (found for found, _ in versions(inventory, ()))
        records = (_record(one.name, one.item.version, fingerprint, shard=False) for one in listed)
        _write(open_store(config.out), sorted(records, key=manifest.order))


def _many(store: ObjectStore, units: int) -> None:
    _write(store, (_record(f"s3://texts/2026/{n:09d}.jsonl", f"etag:{n:032x}", "f" * 16, shard=True) for n in range(units)))


def _record(source: str, version: str, fingerprint: str, *, shard: bool) -> CommitRecord:
    name = unit_id(source, version, "", fingerprint)
    attempt, digest = name[:12], hashlib.sha256(name.encode()).hexdigest()
    shards = (ShardRecord(key=f"data/tiny/{name}-{attempt}-0.parquet", tier="tiny", rows=900, bytes=10**7, sha256=digest),)
    return CommitRecord(
        unit_id=name,
        run_id="20261123T000000-abcdef",
        attempt=attempt,
        source_uri=source,
        source_version=version,
        slice="",
        fingerprint=fingerprint,
        shards=shards if shard else (),
        counts=Counts(pages_in=900, pages_committed=900, rows=900, bytes=10**7) if shard else Counts(),
    )


def _write(store: ObjectStore, records: Any) -> None:
    create_corpus(store)
    segments, waiting = [], []
    for record in records:
        waiting.append(record)
        if len(waiting) == manifest.SEGMENT_UNITS:
            segments.append(write_segment(store, waiting))
            waiting = []
    if waiting:
        segments.append(write_segment(store, waiting))
    snapshot = Snapshot(number=1, parent=None, run_id="bench", units=Units(store, tuple(segments)), documents=())
    store.create(snapshot_key(1), to_bytes(snapshot.to_json()))


def _night(config: JobConfig) -> dict[str, Any]:
    store = CountedStore(open_store(config.out))
    sent: Counter[str] = Counter()
    if urlsplit(config.out).scheme == "s3":
        from palimpsest.storage import s3_client as s3

        def count(event_name: str, **_: Any) -> None:
            sent[event_name.rpartition(".")[2]] += 1

        s3.client().meta.events.register("before-send.s3", count)
    result = ingest(config, store=store)  # type: ignore[arg-type]
    changes = ", ".join(f"{count:,} {kind}" for kind, count in result.changes.items() if count)
    phases = ", ".join(f"{name} {seconds}" for name, seconds in result.seconds.items())
    http = ", ".join(f"{number:,} {operation}" for operation, number in sorted(sent.items()))
    found = {"changes": changes, "units_new": result.units_new, "phases": phases, "requests": _asked(store)}
    return {**found, "http_requests": http or None}


def _publish_one(place: str) -> dict[str, Any]:
    store = CountedStore(open_store(place))
    publish(store, "bench-2", [_record("s3://texts/2026/000500000a.jsonl", "etag:0", "f" * 16, shard=False)])  # type: ignore[arg-type]
    return {"requests": _asked(store)}


def _read_all(place: str) -> dict[str, Any]:
    store = CountedStore(open_store(place))
    snapshot = latest(store)  # type: ignore[arg-type]
    assert snapshot is not None
    assert sum(1 for _ in snapshot.units) == len(snapshot.units)
    return {"requests": _asked(store)}


def _sizes(store: ObjectStore) -> dict[str, int]:
    snapshot = latest(store)
    assert snapshot is not None
    first = [unit for _, unit in zip(range(1000), snapshot.units, strict=False)]
    return {
        "segments": len(snapshot.segments),
        "manifest_bytes": sum(segment.bytes for segment in snapshot.segments),
        "snapshot_bytes": len(store.read(snapshot_key(snapshot.number))),
        "format_1_bytes_per_unit": round(sum(len(to_bytes(asdict(unit))) for unit in first) / len(first)),
    }


def _apart(measure: Callable[[Any], dict[str, Any]], argument: Any) -> dict[str, Any]:
    """Run in a new process; adds its seconds and memory in MB: before the measurement, and at its peak."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_measured, args=(there, measure, argument))
    process.start()
    there.close()
    try:
        found: dict[str, Any] | str = here.recv()
    except EOFError:
        found = "it ended without an answer"
    process.join()
    if isinstance(found, str):
        raise RuntimeError(f"bench ingest, {measure.__name__}: {found}")
    return found


def _measured(answer: Connection, measure: Callable[[Any], dict[str, Any]], argument: Any) -> None:
    try:
        import torch  # noqa: F401  # what identifies a codec imports it; its memory is none of the measurement's

        before, began = _peak_mb(), time.monotonic()
        found = measure(argument)
        answer.send({"seconds": round(time.monotonic() - began, 2), "mb_before": before, "mb_peak": _peak_mb(), **found})
    except Exception as error:
        answer.send(f"{type(error).__name__}: {error}")


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
