"""Documents that several units contain, and pages that appear twice.

The hash of its content identifies a document. Within a unit the reader drops repeats. Across units *the plan decides, not the
race*: of all units that contain a document, the first in plan order stores it, and the others omit and count it. The plan depends
on the sources alone, so a rerun after a crash omits the same documents. The omitted documents are part of a unit's id, and the
unit names the units that it relies on (`defers_to`). When the owner of a document is superseded, the next plan gives the document
to the next unit that contains it, which then has a new id and is processed again. `publish` refuses, and `fsck` reports, a
snapshot in which a unit relies on a missing one.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Hashable, Iterable, Iterator
from typing import IO, TypeVar

import numpy as np

from palimpsest.corpus.shards import read_proven
from palimpsest.corpus.units import CommitRecord
from palimpsest.storage.object_store import ObjectStore

Holder = TypeVar("Holder", bound=Hashable)


def later_copies(plan: Iterable[tuple[Holder, Iterable[str]]]) -> dict[Holder, dict[str, Holder]]:
    """The documents that each holder omits, and the earlier holder that stores them.

    Args:
        plan: (holder, its document ids), in plan order. Memory grows with the number of distinct documents.

    Returns:
        {holder: {doc_id: the earlier holder that stores it}}, only for holders that omit documents.
    """
    owner: dict[str, Holder] = {}
    copies: dict[Holder, dict[str, Holder]] = {}
    for holder, doc_ids in plan:
        for doc_id in doc_ids:
            first = owner.setdefault(doc_id, holder)
            if first != holder:
                copies.setdefault(holder, {})[doc_id] = first
    return copies


def stored_documents(store: ObjectStore, record: CommitRecord) -> set[str]:
    """The ids of the documents that a committed unit stores, read from one column of its shards."""
    return {doc_id for shard in record.shards for doc_id in read_proven(store, shard, ["doc_id"])["doc_id"].to_pylist()}


class PageCensus:
    """Page ids that occur more than once, in constant memory: 128-bit hashes in temporary files.

    Use as a context manager; one bucket of 1/64 of the pages (24 bytes each) is in memory at a time.
    """

    _BUCKETS = 64
    _ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("shard", "<u4"), ("row", "<u4")])

    def __init__(self) -> None:
        self._files: list[IO[bytes]] = [tempfile.TemporaryFile() for _ in range(self._BUCKETS)]  # noqa: SIM115

    def __enter__(self) -> PageCensus:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def add(self, page_ids: Iterable[str], shard: int, first_row: int = 0) -> None:
        """Add pages of shard number `shard`, from row `first_row` on."""
        digests = b"".join(hashlib.blake2b(page_id.encode(), digest_size=16).digest() for page_id in page_ids)
        halves = np.frombuffer(digests, "<u8").reshape(-1, 2)
        entries = np.empty(len(halves), self._ENTRY)
        entries["high"], entries["low"] = halves.T
        entries["shard"] = shard
        entries["row"] = np.arange(first_row, first_row + len(halves))
        buckets = entries["high"] % self._BUCKETS
        for bucket in np.unique(buckets):
            self._files[bucket].write(entries[buckets == bucket].tobytes())

    def repeats(self) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        """Pairs of (shard, row) with the same page."""
        for file in self._files:
            file.seek(0)
            entries = np.frombuffer(file.read(), self._ENTRY)
            entries = entries[np.lexsort((entries["row"], entries["shard"], entries["low"], entries["high"]))]
            same = (entries["high"][1:] == entries["high"][:-1]) & (entries["low"][1:] == entries["low"][:-1])
            for at in np.flatnonzero(same):
                a, b = entries[at], entries[at + 1]
                yield (int(a["shard"]), int(a["row"])), (int(b["shard"]), int(b["row"]))
