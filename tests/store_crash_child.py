"""A small job on the store, and a process that dies in the middle of it.

    python store_crash_child.py sweep ROOT           for each n a job in ROOT/<n>, killed before its n-th disk change, and a rerun
    python store_crash_child.py run ROOT SEED UNITS  one job with an order of rows of its own, for races between processes

The job is deterministic apart from the names of its tries, as the flow is.
"""

from __future__ import annotations

import hashlib
import random
import sys
from pathlib import Path

import pyarrow as pa

from palimpsest.corpus.format import create_corpus
from palimpsest.corpus.shards import new_attempt, write_quarantine, write_shards
from palimpsest.corpus.snapshots import Snapshot, publish
from palimpsest.corpus.units import CommitRecord, Counts, commit_unit, is_committed, read_unit, unit_id
from palimpsest.schemas import QUARANTINE, SHARD
from palimpsest.storage.local_store import LocalStore
from palimpsest.storage.object_store import ObjectStore
from tests.crash_sweep import DISK, sweep

FINGERPRINT = "f" * 16


def page(doc: int, number: int, *, tier: str = "base", codec: str = "toy", payload: int = 48) -> dict[str, object]:
    """One row of the SHARD schema; documents and pages are known by their numbers."""
    text = f"page {number} of document {doc}"
    tokens = random.Random(f"{doc}/{number}").randbytes(payload)
    encoded = {
        "num_vision_tokens": payload // 8,
        "num_context_tokens": payload // 8 + 2,
        "tokens": tokens,
        "token_dim": 4,
        "token_dtype": "bf16",
        "tokens_sha256": hashlib.sha256(tokens).hexdigest(),
        "codec": codec,
        "codec_revision": "r1",
        "precision": 0.5,
    }
    return {
        "page_id": f"page-{doc}-{number}",
        "doc_id": f"doc-{doc}",
        "source_uri": "file:///in",
        "page_number": number,
        "num_pages": 2,
        "text": text,
        "tier": tier,
        "fingerprint": FINGERPRINT,
        "status": "text" if tier == "text" else "verified",
        **({} if tier == "text" else encoded),
    }


def rows(pages: list[dict[str, object]]) -> pa.Table:
    return pa.Table.from_pylist(pages, schema=SHARD)


def write_unit(
    store: ObjectStore, name: str, table: pa.Table, *, version: str = "v1", bad: int = 0, fingerprint: str = FINGERPRINT
) -> CommitRecord:
    """Commit `table` and `bad` quarantined documents as the unit of source `name`."""
    unit, attempt = unit_id(name, version, "", fingerprint), new_attempt()
    shards = write_shards(store, table, unit_id=unit, attempt=attempt, row_group_bytes=1000)
    broken = [{"unit_id": unit, "source_uri": name, "reason": "invalid_utf8", "record": bytes([n])} for n in range(bad)]
    quarantine = write_quarantine(store, pa.Table.from_pylist(broken, schema=QUARANTINE), unit_id=unit, attempt=attempt)
    documents = len(set(table["doc_id"].to_pylist()))
    counts = Counts(
        documents_in=documents + bad,
        documents_committed=documents,
        documents_quarantined=bad,
        pages_in=table.num_rows,
        pages_committed=table.num_rows,
        rows=table.num_rows,
        bytes=sum(shard.bytes for shard in shards),
        context_tokens=sum(number or 0 for number in table["num_context_tokens"].to_pylist()),
    )
    record = CommitRecord(
        unit_id=unit,
        run_id="run",
        attempt=attempt,
        source_uri=name,
        source_version=version,
        slice="",
        fingerprint=fingerprint,
        shards=shards,
        quarantine=quarantine,
        counts=counts,
    )
    return commit_unit(store, record)


def unit_pages(unit: int) -> list[dict[str, object]]:
    """Two documents of two pages, one of the pages as text."""
    return [
        page(10 * unit + doc, number, tier="text" if number == doc == 1 else "base") for doc in range(2) for number in range(2)
    ]


def job(root: Path, seed: int = 0, units: int = 2) -> Snapshot:
    """Corpus, `units` units, snapshot; what is committed is skipped."""
    store = LocalStore(root)
    create_corpus(store)
    records = []
    for unit in range(units):
        name = unit_id(f"in/{unit}", "v1", "", FINGERPRINT)
        if is_committed(store, name):
            records.append(read_unit(store, name))
        else:
            pages = unit_pages(unit)
            random.Random(seed).shuffle(pages)
            records.append(write_unit(store, f"in/{unit}", rows(pages), bad=unit))
    return publish(store, f"run-{seed}", records)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["sweep", root]:
            sweep(job, Path(root), DISK)
        case ["run", root, seed, units]:
            job(Path(root), int(seed), int(units))
        case _:
            sys.exit(__doc__)
