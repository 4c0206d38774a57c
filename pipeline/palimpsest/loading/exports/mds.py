"""Shards of MosaicML Streaming (MDS, version 2): index.json, and shard.00000.mds and so on.

A shard is: number of samples, uint32; where each sample begins, and where the last one ends, uint32 each; the configuration as
JSON; the samples. A sample is: the size of each column that has no fixed one, uint32 each; the columns in the order of their
names. Integers are little-endian. The format is that of mosaicml-streaming 0.13, which is not needed to write it, and whose
requirements contradict this package's (decision 0037).

MDS has no missing values. A missing text or payload is empty, a missing float nan, a missing integer or truth value -1, and a
missing list or map null.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from palimpsest.loading.exports.snapshot_pages import SnapshotPages
from palimpsest.schemas import SHARD

SHARD_BYTES = 64 << 20  # of a shard, as MosaicML's own writer has it; offsets have 32 bits
VERSION = 2
Encode = Callable[[Any], bytes]


def write(pages: SnapshotPages, target: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write the shards, and then the index.

    Args:
        shard_bytes: at most, of one shard; one page that is larger has a shard of its own.
    """
    shards = _Shards(target, shard_bytes)
    for row in pages.rows():
        shards.add(_sample(row))
    shards.end()


def encoding(kind: pa.DataType) -> tuple[str, int | None, Encode]:
    """The name of a type's encoding in MDS, its size in bytes where that is fixed, and the encoding itself."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "str", None, lambda value: (value or "").encode()
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return "bytes", None, lambda value: value or b""
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return "int", 8, lambda value: struct.pack("<q", -1 if value is None else value)
    if pa.types.is_floating(kind):
        return "float32", 4, lambda value: struct.pack("<f", float("nan") if value is None else value)
    if pa.types.is_timestamp(kind):
        return "str", None, lambda value: b"" if value is None else value.isoformat().encode()
    assert pa.types.is_nested(kind), kind
    return "json", None, lambda value: json.dumps(value).encode()


COLUMNS = {name: encoding(SHARD.field(name).type) for name in sorted(SHARD.names)}


def _sample(row: dict[str, Any]) -> bytes:
    parts = [encode(row[name]) for name, (_, _, encode) in COLUMNS.items()]
    sizes = [len(part) for part, (_, fixed, _) in zip(parts, COLUMNS.values(), strict=True) if fixed is None]
    return struct.pack(f"<{len(sizes)}I", *sizes) + b"".join(parts)


class _Shards:
    """Shards that are written when they are full."""

    def __init__(self, target: Path, limit: int) -> None:
        self._target = target
        self._config: dict[str, Any] = {
            "version": VERSION,
            "format": "mds",
            "compression": None,
            "hashes": ["sha256"],
            "size_limit": limit,
            "column_names": list(COLUMNS),
            "column_encodings": [name for name, _, _ in COLUMNS.values()],
            "column_sizes": [size for _, size, _ in COLUMNS.values()],
        }
        self._head = json.dumps(self._config, sort_keys=True).encode()
        self._limit = limit
        self._written: list[dict[str, Any]] = []
        self._samples: list[bytes] = []
        self._bytes = 0

    def add(self, sample: bytes) -> None:
        size = len(sample) + 4
        if self._samples and 8 + len(self._head) + self._bytes + size > self._limit:
            self._flush()
        self._samples.append(sample)
        self._bytes += size

    def end(self) -> None:
        if self._samples:
            self._flush()
        index = {"version": VERSION, "shards": self._written}
        (self._target / "index.json").write_text(json.dumps(index, sort_keys=True), "utf-8")

    def _flush(self) -> None:
        count = len(self._samples)
        offsets = [4 + 4 * (count + 1) + len(self._head)]
        for sample in self._samples:
            offsets.append(offsets[-1] + len(sample))
        body = b"".join([struct.pack(f"<{count + 2}I", count, *offsets), self._head, *self._samples])
        name = f"shard.{len(self._written):05}.mds"
        (self._target / name).write_bytes(body)
        file = {"basename": name, "bytes": len(body), "hashes": {"sha256": hashlib.sha256(body).hexdigest()}}
        self._written.append({**self._config, "samples": count, "raw_data": file, "zip_data": None})
        self._samples, self._bytes = [], 0
