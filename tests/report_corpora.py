"""Published corpora of rows as the flow would write them, for the tests of the report and of the statistics under it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from palimpsest.corpus.format import create_corpus
from palimpsest.corpus.shards import write_quarantine, write_shards
from palimpsest.corpus.snapshots import Snapshot, publish
from palimpsest.corpus.units import CommitRecord, Counts, commit_unit, unit_id
from palimpsest.schemas import QUARANTINE, SHARD
from palimpsest.storage.local_store import LocalStore
from palimpsest.verification import fidelity

DIM = 8
TOKENS = {"tiny": (64, 73, 512), "small": (100, 111, 640)}


def page(
    name: str, text: str, read: str | None = None, *, kind: str = "prose", mode: str = "tiny", **columns: Any
) -> dict[str, Any]:
    """A row of the contract as the flow would write it; `read` is what the decoder made of `text`, None for exactly that."""
    vision, context, px = TOKENS[mode]
    decoded = text if read is None else read
    row = {
        **{"page_id": name, "doc_id": f"d-{name}", "source_uri": "file:///in.txt", "page_number": 0, "num_pages": 1},
        **{"text": text, "num_text_tokens": 200, "text_tokenizer": "deepseek", "tier": mode, "mode": mode, "image_px": px},
        **{"num_vision_tokens": vision, "num_context_tokens": context, "tokens": bytes(vision * DIM), "token_dim": DIM},
        **{"token_dtype": "int8", "token_scales": bytes(vision * 4), "codec": "embedded", "codec_revision": "r1"},
        **{"fingerprint": "f" * 16, "text_class": kind, "decoder_passes": 1 if read is None else 3, "exact": decoded == text},
        "precision": float(fidelity.precision([text], [decoded])[0]),
        "word_precision": float(fidelity.word_precision([text], [decoded])[0]),
        "set_precision": float(fidelity.fox_precision([text], [decoded])[0]),
        "decoded_text": read,
        "status": "verified" if read is None else "below_target",
    }
    return {**row, **columns}


def text_page(name: str, text: str) -> dict[str, Any]:
    """A page that is kept as text."""
    kept = (
        "page_id",
        "doc_id",
        "source_uri",
        "page_number",
        "num_pages",
        "text",
        "num_text_tokens",
        "text_tokenizer",
        "fingerprint",
    )
    row = page(name, text)
    return {
        **{column: row[column] for column in kept},
        "num_context_tokens": 200,
        "tier": "text",
        "status": "text",
        "reason": "not_covered",
    }


def corpus(root: Path, pages: Iterable[dict[str, Any]], broken: Iterable[dict[str, Any]] = (), duplicates: int = 0) -> Built:
    """A published corpus of one unit."""
    store = LocalStore(root)
    create_corpus(store)
    table = pa.Table.from_pylist(list(pages), schema=SHARD)
    unit = unit_id("in.txt", "v1", "", "f" * 16)
    lost = pa.Table.from_pylist([{"unit_id": unit, **row} for row in broken], schema=QUARANTINE)
    shards = write_shards(store, table, unit_id=unit, attempt="a", row_group_bytes=4000)
    documents = len(set(table["doc_id"].to_pylist()))
    counts = Counts(
        documents_in=documents + lost.num_rows + duplicates,
        documents_committed=documents,
        documents_quarantined=lost.num_rows,
        duplicates=duplicates,
        pages_in=table.num_rows,
        pages_committed=table.num_rows,
        rows=table.num_rows,
        bytes=sum(shard.bytes for shard in shards),
    )
    record = CommitRecord(
        unit_id=unit,
        run_id="run-1",
        attempt="a",
        source_uri="in.txt",
        source_version="v1",
        slice="",
        fingerprint="f" * 16,
        shards=shards,
        quarantine=write_quarantine(store, lost, unit_id=unit, attempt="a"),
        counts=counts,
    )
    return store, publish(store, "run-1", [commit_unit(store, record)])


Built = tuple[LocalStore, Snapshot]


@pytest.fixture
def mixed(tmp_path: Path) -> Built:
    pages: list[dict[str, Any]] = [
        page("p1", "0123456789", blank_precision=0.25),
        page("p2", "0123456789", "012345678x"),
        page("p3", "0123456789", "01234", mode="small", status="below_target", reason="loop"),
        page("c1", "x = 1", kind="code", num_text_tokens=100),
        page("c2", "y = 2", "y", kind="code", reason="early_stop", word_precision=None, num_text_tokens=100),
        page(
            "u1",
            "never read",
            kind="code",
            precision=None,
            word_precision=None,
            exact=None,
            decoder_passes=None,
            status="unverified",
        ),
        text_page("t1", "kept as text"),
    ]
    broken: list[dict[str, Any]] = [
        {
            "source_uri": "in.txt",
            "source_id": "7",
            "reason": "invalid_utf8",
            "detail": "byte 3",
            "record": b"abc\xff\x00\x1b[31m",
        },
        {"source_uri": "in.txt", "reason": "invalid_utf8", "record": b"\xfe"},
        {"source_uri": "other.txt", "reason": "null_text"},
    ]
    return corpus(tmp_path / "corpus", pages, broken, duplicates=2)
