"""`palimpsest snapshots` and `palimpsest status`: the published versions, and whether a corpus is up to date."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from palimpsest.config import SourceConfig
from palimpsest.corpus.attempts import PREFIX as TRIES
from palimpsest.corpus.format import open_corpus
from palimpsest.corpus.manifest import Segment, Units, read_columns
from palimpsest.corpus.run_records import began_at, read_run
from palimpsest.corpus.shards import ShardRecord, read_shard
from palimpsest.corpus.snapshots import PREFIX as SNAPSHOTS
from palimpsest.corpus.snapshots import Snapshot, read_snapshot, snapshot_key, snapshot_numbers
from palimpsest.corpus.units import committed_units
from palimpsest.operations.changes import compare, published_sources
from palimpsest.report.committed import committed
from palimpsest.sources.inventory import Inventory, versions
from palimpsest.storage.object_store import NoSuchObject, ObjectStore
from palimpsest.storage.opening import open_store
from palimpsest.storage.stable_json import Damaged, read_json

RUNS = 5  # shown by status


@dataclass(frozen=True, kw_only=True)
class Version:
    """One published version and its changes.

    Attributes:
        published: time of publication, UTC.
        added, dropped: units that its parent does not have, and that only its parent has; None if the parent was deleted.
        shards, shards_shared: objects with rows, and the number of them that the parent has too, in any unit.
        tiers: pages by tier.
        bytes, bytes_new: bytes of the shards, and of those that the parent does not have.
        manifest, manifest_shared: the same for the segments of the manifest and the index.
    """

    number: int
    parent: int | None
    run_id: str
    published: datetime
    units: int
    pages: int
    text_tokens: int
    context_tokens: int
    tokens_as_text: int
    tiers: dict[str, int]
    bytes: int
    bytes_new: int | None
    added: int | None
    dropped: int | None
    shards: int
    shards_shared: int | None
    manifest: int
    manifest_shared: int | None


def list_versions(corpus: str, last: int = 20) -> list[Version]:
    """The newest `last` versions of a corpus, oldest first. Segments that two versions share are not read.

    Raises:
        ValueError: there is no corpus.
        StoreError: a snapshot is damaged.
    """
    store = open_store(corpus)
    open_corpus(store)
    times = {info.key: info.modified for info in store.list(SNAPSHOTS)}
    found: list[Version] = []
    parent: Snapshot | None = None
    numbers = snapshot_numbers(store)
    for number in numbers[-last - 1 :]:
        snapshot = read_snapshot(store, number)
        if number in numbers[-last:]:
            found.append(_version(store, snapshot, parent if parent and parent.number == snapshot.parent else None, times))
        parent = snapshot
    return found


def _version(store: ObjectStore, snapshot: Snapshot, parent: Snapshot | None, times: dict[str, datetime]) -> Version:
    totals = snapshot.totals
    mine, theirs = _unshared(store, snapshot, parent), _unshared(store, parent, snapshot) if parent else {}
    first = snapshot.parent is None
    known = parent is not None or first
    old = {shard.key for shards in theirs.values() for shard in shards}
    fresh = [shard for shards in mine.values() for shard in shards if shard.key not in old]
    tiers: Counter[str] = Counter()
    shards = 0
    for unit in snapshot.units:
        shards += len(unit.shards)
        for shard in unit.shards:
            tiers[shard.tier] += shard.rows
    pieces = set(snapshot.keys)
    return Version(
        number=snapshot.number,
        parent=snapshot.parent,
        run_id=snapshot.run_id,
        published=times[snapshot_key(snapshot.number)],
        units=len(snapshot.units),
        pages=totals.pages_committed,
        text_tokens=totals.text_tokens,
        context_tokens=totals.context_tokens,
        tokens_as_text=totals.tokens_as_text,
        tiers=dict(tiers.most_common()),
        bytes=totals.bytes,
        bytes_new=sum(shard.bytes for shard in fresh) if known else None,
        added=len(mine.keys() - theirs.keys()) if known else None,
        dropped=len(theirs.keys() - mine.keys()) if known else None,
        shards=shards,
        shards_shared=shards - len(fresh) if known else None,
        manifest=len(pieces),
        manifest_shared=len(pieces & set(parent.keys if parent else ())) if known else None,
    )


def _unshared(store: ObjectStore, snapshot: Snapshot, other: Snapshot | None) -> dict[str, tuple[ShardRecord, ...]]:
    """Units in segments that the other version does not have: {unit_id: its shards}."""
    shared = {segment.key for segment in other.segments} if other else set()
    units = Units(store, tuple(segment for segment in snapshot.segments if segment.key not in shared))
    return {unit.unit_id: tuple(unit.shards) for unit in units}


@dataclass(frozen=True, kw_only=True)
class Lag:
    """The lag of a corpus behind its sources.

    Attributes:
        behind: objects that are new or rewritten; `oldest`, `newest`: their times of last change, UTC.
        vanished: published objects that are no longer listed.
    """

    listed: int
    behind: int
    bytes: int
    vanished: int
    oldest: datetime | None
    newest: datetime | None


@dataclass(frozen=True, kw_only=True)
class Status:
    """The state of a corpus.

    Attributes:
        age: seconds since the newest snapshot was published, or since a pass last found that it is current.
        pending: committed units that are in no existing snapshot.
        quarantine: records of the newest snapshot by reason; before the first snapshot, those of the committed units.
        tries: objects that could not be read so far: {number of tries: number of objects}.
        runs: the last runs, newest first, from their stats.json.
    """

    corpus: str
    snapshot: int | None
    published: datetime | None
    age: float | None
    too_old: bool
    units: int
    pages: int
    bytes: int
    pending: int
    quarantine: dict[str, int]
    tries: dict[str, int]
    runs: tuple[dict[str, Any], ...] = field(default=())
    lag: Lag | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def status_of(
    corpus: str, *, sources: Sequence[str] = (), max_age: timedelta | None = None, now: datetime | None = None
) -> Status:
    """The status of a corpus, compared with its sources if they are given, under the source settings of its newest run.

    Raises:
        ValueError: there is no corpus.
        StoreError: something in it is damaged.
    """
    store = open_store(corpus)
    open_corpus(store)
    now = now or datetime.now(UTC)
    times = {info.key: info.modified for info in store.list(SNAPSHOTS)}
    numbers = snapshot_numbers(store)
    snapshot = read_snapshot(store, numbers[-1]) if numbers else None
    published = times[snapshot_key(snapshot.number)] if snapshot else None
    runs = tuple(_runs(store))
    looked = [published] if published else []
    looked += [
        run["at"] for run in runs if snapshot and run.get("outcome") != "failed" and run.get("snapshot") == snapshot.number
    ]
    age = (now - max(looked)).total_seconds() if looked else None
    totals = snapshot.totals if snapshot else None
    tried = Counter(info.key.split("/")[2] for info in store.list(TRIES))
    return Status(
        corpus=corpus,
        snapshot=snapshot.number if snapshot else None,
        published=published,
        age=None if age is None else round(age, 1),
        too_old=max_age is not None and (age is None or age > max_age.total_seconds()),
        units=len(snapshot.units) if snapshot else 0,
        pages=totals.pages_committed if totals else 0,
        bytes=totals.bytes if totals else 0,
        pending=_pending(store, numbers),
        quarantine=_quarantine(store, snapshot or committed(store)),
        tries={str(times): count for times, count in sorted(Counter(tried.values()).items())},
        runs=runs[:RUNS],
        lag=_lag(corpus, store, snapshot, sources) if sources else None,
    )


def _runs(store: ObjectStore) -> Iterator[dict[str, Any]]:
    """The last runs, newest first, each with the time of its record; a run without a record is active or was killed."""
    seen: dict[str, tuple[datetime, bool]] = {}
    for info in store.list("runs/"):
        _, run_id, name = (*info.key.split("/"), "", "")[:3]
        modified, has = seen.get(run_id, (info.modified, False))
        seen[run_id] = max(modified, info.modified), has or name == "stats.json"
    for run_id in sorted(seen, reverse=True)[: 4 * RUNS]:
        at, has = seen[run_id]
        began = began_at(run_id)
        run: dict[str, Any] = {"run_id": run_id, "at": at, "began": began, "outcome": "unfinished"}
        if has:
            try:
                stats = read_json(store, f"runs/{run_id}/stats.json")
            except (NoSuchObject, Damaged) as error:
                stats = {"outcome": "damaged", "reason": str(error)}
            known = {name: stats[name] for name, kind in _SHOWN.items() if isinstance(stats.get(name), kind)}
            run |= {"outcome": PUBLISHED_BEFORE} | known
        yield run


_SHOWN: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("outcome", "reason", "command"), (str,)),
    **dict.fromkeys(("snapshot", "units_new"), (int,)),
    **dict.fromkeys(("reasons", "changes"), (dict,)),
    "pages_per_second": (int, float),
    "seconds": (int, float, dict),
}
"""What is shown of a run record, and of which types: a record is untrusted."""
PUBLISHED_BEFORE = "published"  # meaning of a record without an outcome: older versions wrote one only after a publish


def _pending(store: ObjectStore, numbers: Sequence[int]) -> int:
    """Committed units that no snapshot has. Memory: the ids of all units."""
    published: set[str] = set()
    seen: set[str] = set()
    for number in numbers:
        snapshot = read_snapshot(store, number)
        for segment in snapshot.segments:
            if segment.key not in seen:
                seen.add(segment.key)
                published.update(_ids(store, segment))
    return sum(unit_id not in published for unit_id in committed_units(store))


def _ids(store: ObjectStore, segment: Segment) -> list[str]:
    return read_columns(store, segment, ["unit_id"])["unit_id"].to_pylist()


def _quarantine(store: ObjectStore, snapshot: Snapshot) -> dict[str, int]:
    counts: Counter[str] = Counter()
    if snapshot.totals.documents_quarantined + snapshot.totals.pages_quarantined:
        for unit in snapshot.units:
            if unit.quarantine:
                reasons = pc.value_counts(read_shard(store, unit.quarantine, ["reason"])["reason"].combine_chunks())
                counts.update({row["values"]: row["counts"] for row in pa.array(reasons).to_pylist()})
    return dict(counts.most_common())


def _lag(corpus: str, store: ObjectStore, snapshot: Snapshot | None, sources: Sequence[str]) -> Lag:
    kinds: Counter[str] = Counter()
    moments: list[float] = []
    size = 0
    config = read_run(store, snapshot.run_id).source() if snapshot else SourceConfig()
    with Inventory(sources, config, corpus) as inventory:
        listing = versions(inventory, ())
        fingerprint = ""  # the settings that made a page do not matter here
        for change in compare(
            listing, published_sources(store, snapshot), uris=sources, fingerprint=fingerprint, replace_settings=False,
            given_up=lambda listed: False,
        ):  # fmt: skip
            kinds[change.kind] += 1
            if change.kind in ("new", "rewritten") and change.listed:
                size += change.listed.item.size
                moments = [min([*moments[:1], change.listed.modified]), max([*moments[1:], change.listed.modified])]
        behind = kinds["new"] + kinds["rewritten"]
        at: list[datetime | None] = [datetime.fromtimestamp(moment, UTC) for moment in moments]
        at = at or [None, None]
        return Lag(listed=len(inventory), behind=behind, bytes=size, vanished=kinds["vanished"], oldest=at[0], newest=at[1])
