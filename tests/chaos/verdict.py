"""A corpus that was under fire against what the world says it must hold, and against one that was left in peace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from palimpsest.corpus.fsck import fsck
from palimpsest.corpus.gc import gc
from palimpsest.corpus.shards import read_shard
from palimpsest.corpus.snapshots import iter_rows, latest
from palimpsest.storage.object_store import ObjectStore

PROVENANCE = ("source_uri", "source_version", "source_id")
"""Of a document that several objects hold, any of them may be named: whose unit stores it hangs on who was published first."""


@dataclass
class Verdict:
    """What is wrong with a corpus; `pages` and `documents` are how much there was to go wrong."""

    pages: int = 0
    documents: int = 0
    quarantined: int = 0
    lost: int = 0
    doubled: int = 0
    different: int = 0
    foreign: int = 0
    quarantine_differs: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.different or self.foreign or self.quarantine_differs or self.examples)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def judge(store: ObjectStore, peaceful: ObjectStore, documents: Mapping[str, set[str]], prefix: str) -> Verdict:
    """Compare.

    Args:
        documents: what the world holds: the names of the objects of each document.
        prefix: of the objects' URIs.

    `lost` are pages of the peaceful corpus, and documents of the world, that are not there; `doubled` are rows of a page beyond
    its first, `foreign` rows of no document of the world, `different` rows that are not equal in every column.
    """
    theirs, ours = rows(peaceful), rows(store)
    by_page: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in ours:
        by_page.setdefault((row["doc_id"], row["page_number"]), []).append(row)
    verdict = Verdict(pages=len(ours), documents=len({row["doc_id"] for row in ours}))
    wanted = {(row["doc_id"], row["page_number"]): row for row in theirs}
    missing = [page for page in wanted if page not in by_page]
    gone = set(documents) - {doc_id for doc_id, _ in by_page}
    verdict.lost = len(missing) + len(gone - {doc_id for doc_id, _ in missing})
    verdict.doubled = sum(len(found) - 1 for found in by_page.values())
    verdict.foreign = sum(len(found) for (doc_id, _), found in by_page.items() if doc_id not in documents)
    for page, row in wanted.items():
        found = by_page.get(page, [row])[0]
        if not _equal(found, row, documents.get(page[0], set()), prefix):
            verdict.different += 1
            verdict.examples += [f"page {page}: {_difference(found, row)}"]
    verdict.examples += [f"lost: {page}" for page in missing[:3]] + [f"lost document {doc_id}" for doc_id in sorted(gone)[:3]]
    if len(theirs) != len(wanted) or set(documents) != {doc_id for doc_id, _ in wanted}:
        verdict.examples.append("the peaceful corpus itself is not what the world holds")
    mine, other = quarantined(store), quarantined(peaceful)
    verdict.quarantined = sum(mine.values())
    verdict.quarantine_differs = sum(((mine - other) + (other - mine)).values())
    verdict.examples += [f"quarantine: {row}" for row in list((mine - other) + (other - mine))[:3]]
    return verdict


def swept(store: ObjectStore) -> list[str]:
    """What fsck finds before gc that is an error, and whatever it finds after."""
    broken = [f"fsck: {finding.key}: {finding.what}" for finding in fsck(store) if finding.severity == "error"]
    gc(store, now=datetime.now(UTC) + timedelta(days=8), delete=True)
    return broken + [f"fsck after gc: {finding.key}: {finding.what}" for finding in fsck(store)]


def rows(store: ObjectStore) -> list[dict[str, Any]]:
    snapshot = latest(store)
    return list(iter_rows(store, snapshot)) if snapshot else []


def quarantined(store: ObjectStore) -> Counter[tuple[str, ...]]:
    snapshot = latest(store)
    shards = [unit.quarantine for unit in snapshot.units if unit.quarantine] if snapshot else []
    found: Counter[tuple[str, ...]] = Counter()
    for shard in shards:
        for row in read_shard(store, shard).to_pylist():
            found[tuple(str(row[name]) for name in ("source_uri", "source_version", "reason", "detail", "record"))] += 1
    return found


def _equal(found: dict[str, Any], wanted: dict[str, Any], holders: set[str], prefix: str) -> bool:
    if found == wanted:
        return True
    plain = {name: value for name, value in wanted.items() if name not in PROVENANCE}
    same = all(found[name] == value for name, value in plain.items())
    return same and len(holders) > 1 and found["source_uri"].removeprefix(prefix) in holders


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    return "; ".join(
        f"{name}: {str(found[name])[:80]!r} != {str(value)[:80]!r}" for name, value in wanted.items() if found[name] != value
    )
