"""Published corpora of random tokens for the tests of the loader, and re-tiered versions of them, in a second."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from palimpsest.corpus.format import create_corpus
from palimpsest.corpus.shards import write_shards
from palimpsest.corpus.snapshots import Snapshot, latest, publish
from palimpsest.corpus.units import CommitRecord, Counts, commit_unit, unit_id
from palimpsest.schemas import SHARD
from palimpsest.storage.local_store import LocalStore

DIM = 16
MODES = {"tiny": (64, 73, 512), "small": (100, 111, 640)}
FINGERPRINT = "f" * 16


def page_row(unit: str, document: int, number: int, pages: int, mode: str | None, dim: int = DIM) -> dict[str, Any]:
    """A row of the contract whose tokens follow from its page and mode; None is a page kept as text."""
    page_id = hashlib.sha256(f"{unit} {document} {number}".encode()).hexdigest()[:24]
    text = f"page {number} of document {document} in {unit}: " + "word " * (document * 7 % 40)
    row: dict[str, Any] = {
        **{"page_id": page_id, "doc_id": f"{hashlib.sha256(f'{unit} {document}'.encode()).hexdigest()[:16]}"},
        **{"source_uri": f"file:///{unit}", "source_version": "v1", "page_number": number, "num_pages": pages},
        **{"char_start": 0, "char_end": len(text), "text": text, "num_text_tokens": 1 + len(text) // 4},
        **{"text_tokenizer": "deepseek-v3", "fingerprint": FINGERPRINT, "text_class": "prose" if document % 3 else "code"},
    }
    if mode is None:
        return {**row, "tier": "text", "status": "text", "num_context_tokens": row["num_text_tokens"]}
    vision, context, px = MODES[mode]
    rng = np.random.default_rng(int(page_id[:8], 16) + vision)
    steps = rng.integers(-127, 128, (vision, dim), dtype=np.int8)
    scales = rng.random(vision, dtype=np.float32)
    return {
        **row,
        **{"tier": mode, "mode": mode, "image_px": px, "grid_w": 64, "grid_h": 32, "layout": "grid"},
        **{"num_vision_tokens": vision, "num_context_tokens": context, "tokens": steps.tobytes(), "token_dim": dim},
        **{"token_dtype": "int8", "token_scales": scales.tobytes(), "tokens_sha256": hashlib.sha256(steps.tobytes()).hexdigest()},
        **{"codec": "embedded", "codec_revision": "r1", "precision": float(np.float32(1 - (document % 20) / 100))},
        "status": "verified" if (document + number) % 11 else "below_target",
    }


def unit_of(store: LocalStore, name: str, rows: list[dict[str, Any]], new_id: str | None = None, cut: int = 40) -> CommitRecord:
    """Commit a unit, written in several batches as the flow writes it."""
    identity = new_id or unit_id(name, "v1", "", FINGERPRINT)
    shards = []
    for number, start in enumerate(range(0, len(rows), cut)):
        table = pa.Table.from_pylist(rows[start : start + cut], schema=SHARD)
        attempt = hashlib.sha256(f"{identity}{number}".encode()).hexdigest()[:12]
        shards += write_shards(store, table, unit_id=identity, attempt=attempt, row_group_bytes=20_000)
    documents = len({row["doc_id"] for row in rows})
    counts = Counts(
        documents_in=documents,
        documents_committed=documents,
        pages_in=len(rows),
        pages_committed=len(rows),
        rows=len(rows),
        bytes=sum(shard.bytes for shard in shards),
    )
    record = CommitRecord(
        unit_id=identity,
        run_id="run-1",
        attempt="a",
        source_uri=f"file:///{name}",
        source_version="v1",
        slice="",
        fingerprint=FINGERPRINT,
        shards=tuple(shards),
        counts=counts,
    )
    return commit_unit(store, record)


def rows_of(name: str, documents: int, mode_of: Callable[[int], str | None], dim: int = DIM) -> list[dict[str, Any]]:
    rows = []
    for document in range(documents):
        pages = 1 + document % 5
        rows += [page_row(name, document, number, pages, mode_of(document), dim) for number in range(pages)]
    return rows


def by_document(document: int) -> str | None:
    return ("tiny", "small", "tiny", None)[document % 4]


def publish_corpus(root: Path, units: int = 6, documents: int = 24, dim: int = DIM) -> tuple[LocalStore, Snapshot]:
    """A corpus of `units` units, pages in tiers tiny, small and text; a part of its pages is below target."""
    store = LocalStore(root)
    create_corpus(store)
    records = [unit_of(store, f"in-{u}", rows_of(f"in-{u}", documents + u, by_document, dim)) for u in range(units)]
    return store, publish(store, "run-1", records)


def retier_corpus(root: Path, touched: Collection[int], units: int = 6, documents: int = 24) -> Snapshot:
    """As `palimpsest retier`: the pages in mode small of some units become tiny, in units of new ids."""
    store = LocalStore(root)
    old = latest(store)
    assert old is not None
    gone, fresh = set(), []
    for unit in list(old.units):
        number = int(unit.source_uri.rpartition("-")[2])
        if number in touched:
            rows = rows_of(f"in-{number}", documents + number, lambda d: "tiny" if by_document(d) else None)
            new_id = unit_id(f"retier {unit.unit_id}", "v1", "", FINGERPRINT)
            fresh.append(unit_of(store, f"in-{number}", rows, new_id, cut=23))
            gone.add(unit.unit_id)
    return publish(store, "run-2", fresh, drop=gone)
