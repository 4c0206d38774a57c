"""Reading for training: this loader compared with raw pyarrow, HF streaming and Lance, on the same pages in the same run.

All rates are per CPU second of one process, after a warm-up pass, on a local disk whose pages are in memory. MB are of tokens as
handed over: int8 with scales, or bfloat16.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from palimpsest.corpus.format import create_corpus
from palimpsest.corpus.reader import Corpus
from palimpsest.corpus.shards import write_shards
from palimpsest.corpus.snapshots import publish
from palimpsest.corpus.units import CommitRecord, Counts, commit_unit, unit_id
from palimpsest.lab.bench.texts import bench_text
from palimpsest.schemas import SHARD
from palimpsest.storage.local_store import LocalStore

TOKENS, DIM, PX = 64, 1024, 512
STORED_MB, DECODED_MB = TOKENS * (DIM + 4) / 1e6, TOKENS * DIM * 2 / 1e6  # of one page
UNIT_PAGES = 512
OURS, RAW = "palimpsest, hashes checked", "pyarrow"  # no other reader checks the hashes of tokens


def bench_loading(pages: int = 2048, random_pages: int = 2000) -> dict[str, Any]:
    """Rates of sequential and random reading, by reader."""
    import torch

    torch.set_num_threads(1)  # as in a worker of a DataLoader
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "corpus"
        _publish(root, pages)
        first = _first_batch(root)
        rows = [*_ours(root, random_pages), *_pyarrow(root, random_pages)]
        if find_spec("datasets"):
            rows += _hugging_face(root, Path(folder))
        if find_spec("lance"):
            rows += _lance(root, Path(folder), random_pages)
    raw = {row["what"]: row["rate"] for row in rows if row["reader"] == RAW}
    for row in rows:
        row["times_pyarrow"] = row["rate"] / raw[row["what"]] if row["what"] in raw else None
    return {"pages": pages, "tokens_of_a_page": f"{TOKENS} x {DIM} int8", "first_batch_seconds": first, "rates": rows}


def _publish(root: Path, pages: int) -> None:
    store = LocalStore(root)
    create_corpus(store)
    rng = np.random.default_rng(0)
    text = bench_text(400_000)
    records = []
    for number, start in enumerate(range(0, pages, UNIT_PAGES)):
        rows = [_row(rng, text, start + page) for page in range(min(UNIT_PAGES, pages - start))]
        identity = unit_id(f"bench-{number}", "v1", "", "f" * 16)
        shards = write_shards(store, pa.Table.from_pylist(rows, schema=SHARD), unit_id=identity, attempt="a")
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


def _row(rng: np.random.Generator, text: str, number: int) -> dict[str, Any]:
    steps = rng.normal(0, 36, (TOKENS, DIM)).clip(-127, 127).astype(np.int8).tobytes()
    scales = rng.random(TOKENS, dtype=np.float32).tobytes()
    start = number * 997 % (len(text) - 2000)
    return {
        **{"page_id": f"{number:024x}", "doc_id": f"{number // 4:064x}", "source_uri": "bench", "source_version": "v1"},
        **{"page_number": number % 4, "num_pages": 4, "char_start": 0, "char_end": 2000, "text": text[start : start + 2000]},
        **{"num_text_tokens": 500, "text_tokenizer": "deepseek-v3", "tier": "tiny", "mode": "tiny", "image_px": PX},
        **{"grid_h": 32, "grid_w": 64, "layout": "grid", "num_vision_tokens": TOKENS, "num_context_tokens": 73, "tokens": steps},
        **{"token_dim": DIM, "token_dtype": "int8", "token_scales": scales, "tokens_sha256": hashlib.sha256(steps).hexdigest()},
        **{"codec": "embedded", "codec_revision": "r1", "fingerprint": "f" * 16, "precision": 0.99, "status": "verified"},
        **{"text_class": "prose"},
    }


def _rate(what: str, reader: str, unit: str, per_page: float, read: Callable[[], Iterable[Any]]) -> dict[str, Any]:
    """Pages (or their MB) per CPU second of the second of two passes; `read` gives one value a page."""
    for _ in read():
        pass
    began, pages = time.process_time(), 0
    for _ in read():
        pages += 1
    seconds = time.process_time() - began
    return {"what": what, "reader": reader, "rate": pages * per_page / seconds, "unit": f"{unit} per CPU second"}


def _ours(root: Path, random_pages: int) -> list[dict[str, Any]]:
    from palimpsest.loading.pages import Give, Pages

    def epoch(give: Give) -> Callable[[], Iterable[Any]]:
        source = Pages(root, give=give)
        loader = source.loader(32, collate=list)
        return lambda: (sample for batch in loader for sample in batch)

    source = Pages(root, give="int8")
    picks = np.random.default_rng(1).integers(0, source.rows, random_pages).tolist()
    return [
        _rate("int8 in order", OURS, "MB", STORED_MB, epoch("int8")),
        _rate("bf16 in order", OURS, "MB", DECODED_MB, epoch("tokens")),
        _rate("images of 512 px", OURS, "pages", 1, epoch("image")),
        _rate("random pages", OURS, "pages", 1, lambda: (source.at(index) for index in picks)),
    ]


def _first_batch(root: Path) -> float:
    """Seconds from opening a snapshot to its first batch, in the middle of an epoch that a state continues."""
    from palimpsest.loading.pages import Pages

    stopped = Pages(root, seed=1).loader(32)
    for number, _ in enumerate(stopped):
        if number == 8:
            break
    state, began = stopped.state_dict(), time.perf_counter()
    resumed = Pages(root, seed=1).loader(32)
    resumed.load_state_dict(state)
    next(iter(resumed))
    return round(time.perf_counter() - began, 3)


def _pyarrow(root: Path, random_pages: int) -> list[dict[str, Any]]:
    columns = ["page_id", "tokens", "token_scales"]
    files = [pq.ParquetFile(path) for path in Corpus(str(root)).files()]

    def in_order() -> Iterable[Any]:
        for file in files:
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group, columns=columns, use_threads=False)["tokens"].chunk(0)

    groups = [(file, group) for file in files for group in range(file.num_row_groups)]
    picks = np.random.default_rng(1).integers(0, len(groups), random_pages).tolist()
    return [
        _rate("int8 in order", RAW, "MB", STORED_MB, in_order),
        _rate(
            "random pages", RAW, "pages", 1,
            lambda: (groups[p][0].read_row_group(groups[p][1], columns=columns, use_threads=False)["tokens"][0] for p in picks),
        ),
    ]  # fmt: skip


def _hugging_face(root: Path, folder: Path) -> list[dict[str, Any]]:
    import datasets

    from palimpsest.loading.exports.protocol import export

    export("hf", Corpus(str(root)), folder / "hf")
    files = [str(path) for path in sorted((folder / "hf").rglob("*.parquet"))]
    streamed = datasets.load_dataset(
        "parquet", data_files=files, split="train", streaming=True, columns=["page_id", "tokens", "token_scales"]
    )
    return [_rate("int8 in order", "HF streaming", "MB", STORED_MB, lambda: iter(streamed))]


def _lance(root: Path, folder: Path, random_pages: int) -> list[dict[str, Any]]:
    import lance

    from palimpsest.loading.exports.protocol import export

    export("lance", Corpus(str(root)), folder / "pages.lance")
    table = lance.dataset(str(folder / "pages.lance"))
    columns = ["page_id", "tokens", "token_scales"]
    picks = np.random.default_rng(1).integers(0, table.count_rows(), random_pages).tolist()
    return [
        _rate(
            "int8 in order", "Lance", "MB", STORED_MB,
            lambda: (value for batch in table.to_batches(columns=columns, batch_size=32) for value in batch["tokens"]),
        ),
        _rate("random pages", "Lance", "pages", 1, lambda: (table.take([pick], columns=columns) for pick in picks)),
    ]  # fmt: skip
