"""Reading for training: this loader compared with raw pyarrow, HF streaming and Lance, on the same pages in the same run.

All rates are per CPU second of one process, after a warm-up pass, on a local disk whose pages are in memory. MB are of tokens as
handed over: int8 with scales, or bfloat16. Memory is what a reader's process grows by at most, in a process of its own.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from palimpsest.corpus.reader import Corpus
from palimpsest.lab.bench.loading_corpus import DIM, TOKENS, publish_pages
from palimpsest.lab.bench.loading_memory import KINDS, peak_growth

STORED_MB, DECODED_MB = TOKENS * (DIM + 4) / 1e6, TOKENS * DIM * 2 / 1e6  # of one page
WINDOWS = (8 << 20, 32 << 20)
OURS, RAW = "palimpsest, hashes checked", "pyarrow"  # no other reader checks the hashes of tokens


def bench_loading(pages: int = 2048, random_pages: int = 2000) -> dict[str, Any]:
    """Rates of sequential and random reading, by reader."""
    import torch

    torch.set_num_threads(1)  # as in a worker of a DataLoader
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "corpus"
        publish_pages(root, pages)
        publish_pages(Path(folder) / "small", 64)
        first = _first_batch(root)
        memory = [peak_growth(root, Path(folder) / "small", kind, size) for kind in KINDS for size in WINDOWS]
        rows = [*_ours(root, random_pages), *_pyarrow(root, random_pages)]
        if find_spec("datasets"):
            rows += _hugging_face(root, Path(folder))
        if find_spec("lance"):
            rows += _lance(root, Path(folder), random_pages)
    raw = {row["what"]: row["rate"] for row in rows if row["reader"] == RAW}
    for row in rows:
        row["times_pyarrow"] = row["rate"] / raw[row["what"]] if row["what"] in raw else None
    return {
        "pages": pages,
        "tokens_of_a_page": f"{TOKENS} x {DIM} int8",
        "first_batch_seconds": first,
        "rates": rows,
        "memory": memory,
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
