"""Memory of a reader: how much its process grows by at most, over an epoch of a corpus that is much larger than the window.

A process of its own reads a small corpus first, so that modules and pools are there, gives free memory back, and then reads the
corpus. Linux keeps the peak of its resident memory (proc(5): VmHWM, set back through clear_refs).
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow.parquet as pq

from palimpsest.corpus.reader import Corpus
from palimpsest.loading.mix import Mix
from palimpsest.loading.pages import Pages
from palimpsest.loading.source import Source

Kind = Literal["plain", "mixed"]
KINDS: tuple[Kind, ...] = get_args(Kind)
BATCH, MIXED_BATCHES = 8, 400  # a mix has no end; large batches take memory of their own
MIB = 1 << 20


def peak_growth(corpus: Path, small: Path, kind: Kind, window_bytes: int) -> dict[str, Any]:
    """Growth of a process that reads an epoch, all in MiB, with what bounds it: the window, and the largest row group."""
    command = [sys.executable, "-m", __name__, str(corpus), str(small), kind, str(window_bytes)]
    grown = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    files = [pq.ParquetFile(path).metadata for path in Corpus(str(corpus)).files()]
    largest = max(file.row_group(n).total_byte_size for file in files for n in range(file.num_row_groups))
    stored = sum(path.stat().st_size for path in corpus.rglob("*.parquet"))
    sizes = {"window_mib": window_bytes, "row_group_mib": largest, "corpus_mib": stored, "peak_growth_mib": grown["bytes"]}
    return {"kind": kind, **{name: round(size / MIB, 1) for name, size in sizes.items()}, "samples": grown["samples"]}


def _source(corpus: str, kind: str, window_bytes: int) -> Source:
    pages = Pages(corpus, window_bytes=window_bytes)
    if kind == "plain":
        return pages
    return Mix({pages: 2, Pages(corpus, give="int8", where="page_number > 0"): 1}, window_bytes=window_bytes)


def _read(corpus: str, kind: str, window_bytes: int) -> int:
    samples = 0
    for number, batch in enumerate(_source(corpus, kind, window_bytes).loader(BATCH)):
        samples += len(batch["page_id"])
        if kind == "mixed" and number + 1 == MIXED_BATCHES:
            break
    return samples


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) << 10


def main(corpus: str, small: str, kind: str, window_bytes: int) -> None:
    import torch

    torch.set_num_threads(1)
    _read(small, kind, window_bytes)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    samples = _read(corpus, kind, window_bytes)
    print(json.dumps({"bytes": _status("VmHWM") - before, "samples": samples}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
