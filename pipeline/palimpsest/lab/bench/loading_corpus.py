"""Corpora of random tokens and real text for the benchmarks of loading."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from palimpsest.corpus.format import create_corpus
from palimpsest.corpus.shards import ROW_GROUP_BYTES, write_shards
from palimpsest.corpus.snapshots import publish
from palimpsest.corpus.units import CommitRecord, Counts, commit_unit, unit_id
from palimpsest.lab.bench.texts import bench_text
from palimpsest.schemas import SHARD
from palimpsest.storage.local_store import LocalStore

TOKENS, DIM, PX = 64, 1024, 512
UNIT_PAGES = 512


def publish_pages(
    root: Path, pages: int, *, unit_pages: int = UNIT_PAGES, dim: int = DIM, row_group_bytes: int = ROW_GROUP_BYTES
) -> None:
    """A published corpus of one shard a unit, its pages of `TOKENS` x `dim` int8 and 2,000 characters."""
    store = LocalStore(root)
    create_corpus(store)
    rng = np.random.default_rng(0)
    text = bench_text(400_000)
    records = []
    for number, start in enumerate(range(0, pages, unit_pages)):
        rows = [_row(rng, text, start + page, dim) for page in range(min(unit_pages, pages - start))]
        identity = unit_id(f"bench-{number}", "v1", "", "f" * 16)
        shards = write_shards(
            store, pa.Table.from_pylist(rows, schema=SHARD), unit_id=identity, attempt="a", row_group_bytes=row_group_bytes
        )
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
            unit_id=identity, run_id="bench", attempt="a", source_uri=f"bench-{number}", source_version="v1", slice="",
            fingerprint="f" * 16, shards=shards, counts=counts,
        )  # fmt: skip
        records.append(commit_unit(store, record))
    publish(store, "bench", records)


def _row(rng: np.random.Generator, text: str, number: int, dim: int) -> dict[str, Any]:
    steps = rng.normal(0, 36, (TOKENS, dim)).clip(-127, 127).astype(np.int8).tobytes()
    scales = rng.random(TOKENS, dtype=np.float32).tobytes()
    start = number * 997 % (len(text) - 2000)
    return {
        **{"page_id": f"{number:024x}", "doc_id": f"{number // 4:064x}", "source_uri": "bench", "source_version": "v1"},
        **{"page_number": number % 4, "num_pages": 4, "char_start": 0, "char_end": 2000, "text": text[start : start + 2000]},
        **{"num_text_tokens": 500, "text_tokenizer": "deepseek-v3", "tier": "tiny", "mode": "tiny", "image_px": PX},
        **{"grid_h": 32, "grid_w": 64, "layout": "grid", "num_vision_tokens": TOKENS, "num_context_tokens": 73, "tokens": steps},
        **{"token_dim": dim, "token_dtype": "int8", "token_scales": scales, "tokens_sha256": hashlib.sha256(steps).hexdigest()},
        **{"codec": "embedded", "codec_revision": "r1", "fingerprint": "f" * 16, "precision": 0.99, "status": "verified"},
        **{"text_class": "prose"},
    }
