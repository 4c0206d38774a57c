"""Single rows of a shard: short columns through pyarrow, payloads straight from their data pages."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from palimpsest.codecs.token_storage import NONE
from palimpsest.corpus.codebooks import read_codebook
from palimpsest.corpus.page import AGAIN as ENCODED_AGAIN
from palimpsest.corpus.shards import TEXT_TIER, ShardRecord, open_shard
from palimpsest.loading.parquet_pages import DataPage, NotPlain, data_pages, values
from palimpsest.loading.shard_cache import ShardCache
from palimpsest.schemas import SAMPLES, SHARD
from palimpsest.storage.object_store import ObjectStore, StoreError
from palimpsest.storage.stable_json import Damaged

AGAIN = "again"
"""Of a row without stored tokens: the columns from which its page is encoded again."""
ROOM = 6 << 20  # bytes that a reader keeps of footers and short columns, at least
FOOTER_BYTES = 36 << 10  # in memory, for each row group of an open shard: 14,000 column chunks took 9.2 MiB
FOOTERS = 2 / 3  # share of the room
OBJECT_BYTES = 60  # of a short value as a Python object in a list
TOKENS, WITH_TOKENS = "tokens", ("token_scales", "tokens_sha256")
MOST_OF_A_GROUP = 0.75  # share of a row group's rows from which on its column chunk is read whole


class ShardRows:
    """One open shard."""

    def __init__(self, store: ObjectStore, shard: ShardRecord, short: ShortColumns, cache: ShardCache | None = None) -> None:
        self.shard, self.uri, self._store, self._kept = shard, store.uri(shard.key), store, short
        self._stream = opened(store, shard, cache)
        self._fd = _descriptor(self._stream)
        try:
            self.file = pq.ParquetFile(self._stream, page_checksum_verification=True)
            metadata, names = self.file.metadata, self.file.schema_arrow.names
            self._columns = _leaves(metadata)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise Damaged(f"{self.uri} is not readable as Parquet: {error}") from error
        if metadata.num_rows != shard.rows:
            raise Damaged(f"{self.uri} has {metadata.num_rows} rows, its record says {shard.rows}")
        check_names(store, shard, names)
        self._starts = [0]
        for group in range(metadata.num_row_groups):
            self._starts.append(self._starts[-1] + metadata.row_group(group).num_rows)
        self._known = frozenset(names)
        self._pages: dict[int, list[DataPage] | None] = {}

    @property
    def footer_bytes(self) -> int:
        """Of the open file's footer, about."""
        return FOOTER_BYTES * (len(self._starts) - 1)

    def close(self) -> None:
        self._stream.close()

    def group(self, row: int) -> int:
        """The row group of a row."""
        return bisect_right(self._starts, row) - 1

    def read(self, rows: Sequence[int], columns: Sequence[str], *, payload: bool) -> list[dict[str, Any]]:
        """Rows of one row group, as dicts in the order asked for.

        Args:
            columns: short columns; those that an older shard lacks are None.
            payload: read `tokens` (a writable buffer) and `token_scales` too; the hash of the tokens is compared.

        Raises:
            Damaged: bytes that are not those that were written.
        """
        group = self.group(rows[0])
        names = tuple(dict.fromkeys([*columns, *(WITH_TOKENS if payload else [])]))
        try:
            columns_of_group = self._short(group, names)
            numbers = [row - self._starts[group] for row in rows]
            found = [{name: values[number] for name, values in columns_of_group.items()} for number in numbers]
            if payload and self.shard.tier != TEXT_TIER:
                self._add_payloads(group, numbers, found)
        except (pa.ArrowException, OSError) as error:
            raise Damaged(f"{self.uri}, row group {group}: not readable as Parquet: {error}") from error
        except Damaged as error:
            raise Damaged(f"{self.uri}, row group {group}: {error}") from error
        return found

    def _short(self, group: int, names: tuple[str, ...]) -> dict[str, list[Any]]:
        """Short columns of a row group, as lists."""
        key = (self.shard.key, group, names)
        found = self._kept.get(key)
        if found is None:
            known = [name for name in names if name in self._known]
            table = self.file.read_row_group(group, columns=known, use_threads=False)
            lists = {name: table[name].to_pylist() for name in known}
            found = {name: lists.get(name) or [None] * table.num_rows for name in names}
            self._kept.keep(key, found, table.nbytes + OBJECT_BYTES * table.num_rows * len(names))
        return found

    def _add_payloads(self, group: int, rows: list[int], found: list[dict[str, Any]]) -> None:
        for number, row, tokens in zip(rows, found, self._tokens(group, rows), strict=True):
            row[TOKENS] = tokens
            if tokens is None and row.get("token_dtype") == NONE:
                row[AGAIN] = {name: values[number] for name, values in self._short(group, ENCODED_AGAIN).items()}
                continue
            if tokens is not None:
                read_codebook(self._store, row["token_dtype"] or "")
            if (None if tokens is None else sha256(tokens).hexdigest()) != row["tokens_sha256"]:
                raise Damaged(f"the tokens of page {row.get('page_id')} do not have their sha256")

    def _tokens(self, group: int, rows: list[int]) -> list[Any]:
        """The payloads of rows of a row group, by their number in it."""
        pages = self._data_pages(group)
        if pages is not None:
            try:
                return self._direct(pages, rows)
            except NotPlain:
                self._pages[group] = None
        column = self.file.read_row_group(group, columns=[TOKENS], use_threads=False)[TOKENS]
        return [None if (cell := column[row].as_py()) is None else bytearray(cell) for row in rows]

    def _direct(self, pages: list[DataPage], rows: list[int]) -> list[Any]:
        by_page: dict[int, list[int]] = {}
        for row in rows:
            by_page.setdefault(bisect_right(pages, row, key=lambda page: page.first) - 1, []).append(row)
        first, last = pages[min(by_page)], pages[max(by_page)]
        whole = len(by_page) >= MOST_OF_A_GROUP * (max(by_page) - min(by_page) + 1)
        body = self._at(first.offset, last.offset + last.length - first.offset) if whole else None
        found: dict[int, memoryview] = {}
        for number, some in by_page.items():
            page = pages[number]
            start = page.offset - first.offset
            piece = self._at(page.offset, page.length) if body is None else body[start : start + page.length]
            found.update(zip(some, values(page, piece, some), strict=True))
        return [found[row] for row in rows]

    def _data_pages(self, group: int) -> list[DataPage] | None:
        """Where the tokens of a row group are; None where only pyarrow can read them."""
        if group not in self._pages:
            if TOKENS not in self._columns:
                raise Damaged(f"there is no column {TOKENS}")
            column = self.file.metadata.row_group(group).column(self._columns[TOKENS])
            read = self._at
            if self._fd is None:  # a request for each header would cost more than the chunk
                start = column.data_page_offset
                chunk = self._at(start, column.total_compressed_size)

                def read(offset: int, length: int) -> memoryview:
                    return chunk[offset - start : offset - start + length]

            try:
                self._pages[group] = data_pages(column, read)
            except NotPlain:
                self._pages[group] = None
        return self._pages[group]

    def _at(self, offset: int, length: int) -> memoryview:
        """Bytes of the object, writable, because tensors share them."""
        if offset < 0 or length < 0 or offset + length > self.shard.bytes:
            raise Damaged(f"{length} bytes at {offset} are not there")
        if self._fd is not None:
            body = np.empty(length, np.uint8).data
            got = os.preadv(self._fd, [body], offset)
        else:
            self._stream.seek(offset)
            body = memoryview(bytearray(self._stream.read(length)))
            got = len(body)
        if got != length:
            raise Damaged(f"{length} bytes at {offset} are not there")
        return body


class ShortColumns:
    """Short columns of the row groups that were read last, up to a number of bytes."""

    def __init__(self, room: int) -> None:
        self._room, self._bytes = room, 0
        self._groups: OrderedDict[Any, tuple[dict[str, list[Any]], int]] = OrderedDict()

    def get(self, key: Any) -> dict[str, list[Any]] | None:
        if key not in self._groups:
            return None
        self._groups.move_to_end(key)
        return self._groups[key][0]

    def keep(self, key: Any, columns: dict[str, list[Any]], size: int) -> None:
        self._groups[key] = (columns, size)
        self._bytes += size
        while self._bytes > self._room and len(self._groups) > 1:
            self._bytes -= self._groups.popitem(last=False)[1][1]

    def forget(self, shard: ShardRecord) -> None:
        for key in [key for key in self._groups if key[0] == shard.key]:
            self._bytes -= self._groups.pop(key)[1]


class OpenShards:
    """The shards that a reader has open; the one used longest ago is closed first.

    Args:
        room: bytes of footers and short columns that are kept, about; ROOM where that is more.
    """

    def __init__(self, store: ObjectStore, cache: ShardCache | None = None, room: int = ROOM) -> None:
        self.store, self.cache = store, cache
        room = max(room, ROOM)
        self._room, self._bytes = int(FOOTERS * room), 0
        self._short = ShortColumns(room - self._room)
        self._open: OrderedDict[str, ShardRows] = OrderedDict()

    def get(self, shard: ShardRecord) -> ShardRows:
        """Raises NoSuchObject, Damaged, StoreError."""
        if shard.key not in self._open:
            self._open[shard.key] = fresh = ShardRows(self.store, shard, self._short, self.cache)
            self._bytes += fresh.footer_bytes
            while self._bytes > self._room and len(self._open) > 1:
                self._close(next(iter(self._open)))
        self._open.move_to_end(shard.key)
        return self._open[shard.key]

    def stream(self, shard: ShardRecord) -> BinaryIO:
        """The bytes of a shard as a stream of its own."""
        return opened(self.store, shard, self.cache)

    def forget(self, shard: ShardRecord) -> None:
        """Open it anew the next time: it, or what was cached of it, is damaged."""
        self._short.forget(shard)
        if shard.key in self._open:
            self._close(shard.key)
        if self.cache is not None:
            self.cache.drop(shard)

    def _close(self, key: str) -> None:
        shard = self._open.pop(key)
        self._bytes -= shard.footer_bytes
        shard.close()


READ_ERRORS = (StoreError, OSError, pa.ArrowException)
"""What a damaged or unreachable object raises."""


def opened(store: ObjectStore, shard: ShardRecord, cache: ShardCache | None) -> BinaryIO:
    """A shard as a stream, through the cache where there is one."""
    return store.open(shard.key) if cache is None else cache.open(store, shard)


def check_names(store: ObjectStore, shard: ShardRecord, names: Sequence[str]) -> None:
    """Hash a shard that has columns of other names than the row contract's.

    Nothing guards a footer against a flipped bit. One in a name would make a column look like one that older shards lack.

    Raises:
        Damaged: its bytes are not those that were written.
    """
    if len(set(names)) < len(names) or not set(names) <= {*SHARD.names, *SAMPLES.names}:
        open_shard(store, shard, verify=True).close()


def _leaves(metadata: pq.FileMetaData) -> dict[str, int]:
    """The numbers of the Parquet columns by path. `metadata.schema` is a reference cycle, which would keep footers alive."""
    if not metadata.num_row_groups:
        return {}
    group = metadata.row_group(0)
    return {group.column(number).path_in_schema: number for number in range(metadata.num_columns)}


def _descriptor(stream: BinaryIO) -> int | None:
    try:
        return stream.fileno()
    except OSError:
        return None
