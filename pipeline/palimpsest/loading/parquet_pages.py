"""Payloads of single rows, read straight from the data pages of a Parquet column chunk.

pyarrow reads whole row groups. The shards store tokens plain and uncompressed, in data pages of a few rows, so that one row costs
one read of about its own bytes. What is not stored like that (older shards, other writers) raises NotPlain, and the caller lets
pyarrow read the row group. Format: https://github.com/apache/parquet-format (Thrift compact protocol).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from palimpsest.storage.stable_json import Damaged

Read = Callable[[int, int], memoryview]
"""(offset, length) -> bytes of the object."""

HEADER_BYTES = 128  # a page header without statistics takes about 30
_DATA_PAGE, _PLAIN = 0, 0


class NotPlain(ValueError):
    """A column chunk that is not plain, uncompressed and without nulls."""


@dataclass(frozen=True)
class DataPage:
    """The body of a data page in its object, and the rows in it: `rows` from `first` of the row group on."""

    first: int
    rows: int
    offset: int
    length: int


def data_pages(column: pq.ColumnChunkMetaData, read: Read) -> list[DataPage]:
    """The data pages of a column chunk.

    Raises:
        NotPlain: pages are compressed or encoded, or a header is damaged.
    """
    name = column.path_in_schema
    if column.compression != "UNCOMPRESSED" or column.has_dictionary_page:
        raise NotPlain(f"column {name} is {column.compression}")
    at, end = column.data_page_offset, column.data_page_offset + column.total_compressed_size
    pages: list[DataPage] = []
    row = 0
    while at < end:
        head = read(at, min(HEADER_BYTES, end - at))
        try:
            fields, size = _struct(head, 0)
            kind, length, page = fields[1], fields[3], fields[5]
            if kind != _DATA_PAGE or page[2] != _PLAIN or length < 0 or page[1] < 1:
                raise NotPlain(f"column {name} has pages of another kind or encoding")
        except (IndexError, KeyError, TypeError) as error:
            raise NotPlain(f"column {name}: no page header at byte {at}") from error
        pages.append(DataPage(row, page[1], at + size, length))
        row += page[1]
        at += size + length
    if at != end or row != column.num_values:
        raise NotPlain(f"column {name}: its pages hold {row} rows of {column.num_values}")
    return pages


def values(page: DataPage, body: memoryview, rows: Sequence[int]) -> list[memoryview]:
    """Values of a page of an optional byte array column that has no nulls, by their row in the row group: views of `body`.

    Raises:
        NotPlain: there are nulls.
        Damaged: lengths that contradict each other.
    """
    try:
        at = 4 + struct.unpack_from("<I", body)[0]
        run, used = _varint(bytes(body[4:at]), 0)
        if run != page.rows << 1 or body[4 + used] != 1 or 4 + used + 1 != at:
            raise NotPlain("a page with nulls")
        found: dict[int, memoryview] = {}
        wanted = set(rows)
        for row in range(page.first, max(rows) + 1):
            size = struct.unpack_from("<I", body, at)[0]
            if at + 4 + size > len(body):
                raise Damaged("a data page holds a value that is longer than the page")
            if row in wanted:
                found[row] = body[at + 4 : at + 4 + size]
            at += 4 + size
    except (struct.error, IndexError) as error:
        raise Damaged("a data page is shorter than its values") from error
    return [found[row] for row in rows]


def _varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    shift = result = 0
    while True:
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
        shift += 7


def _struct(data: memoryview, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """A Thrift struct as {field id: value}; page headers have integers, booleans, bytes and structs only."""
    fields: dict[int, Any] = {}
    number = 0
    while True:
        head = data[at]
        at += 1
        if not head:
            return fields, at
        kind = head & 15
        if head >> 4:
            number += head >> 4
        else:
            raw, at = _varint(data, at)
            number = (raw >> 1) ^ -(raw & 1)
        if kind in (1, 2):
            fields[number] = kind == 1
        elif kind == 3:
            fields[number] = data[at]
            at += 1
        elif kind in (4, 5, 6):
            raw, at = _varint(data, at)
            fields[number] = (raw >> 1) ^ -(raw & 1)
        elif kind == 8:
            size, at = _varint(data, at)
            fields[number] = data[at : at + size]
            at += size
        elif kind == 12 and depth < 4:
            fields[number], at = _struct(data, at, depth + 1)
        else:
            raise KeyError(kind)
