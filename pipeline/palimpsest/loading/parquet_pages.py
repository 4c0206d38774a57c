"""Payloads of single rows, read straight from the data pages of a Parquet column chunk.

pyarrow reads whole row groups. The shards store each row's tokens as a data page of its own, plain and uncompressed, so that one
row costs one read of its own bytes. What is not stored like that (older shards, other writers) raises NotPlain, and the caller
lets pyarrow read the row group. Format: https://github.com/apache/parquet-format (Thrift compact protocol).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from palimpsest.storage.stable_json import Damaged

Read = Callable[[int, int], bytes]
"""(offset, length) -> bytes of the object."""

HEADER_BYTES = 128  # a page header without statistics takes about 30
_DATA_PAGE, _PLAIN = 0, 0


class NotPlain(ValueError):
    """A column chunk that is not plain, uncompressed and of one row a page."""


@dataclass(frozen=True)
class RowPlace:
    """The body of one data page in its object, with the checksum of its header (None where it has none)."""

    offset: int
    length: int
    crc: int | None


def row_places(column: pq.ColumnChunkMetaData, read: Read) -> list[RowPlace]:
    """Where the rows of a column chunk are.

    Raises:
        NotPlain: pages are compressed, encoded or hold several rows, or a header is damaged.
    """
    if column.compression != "UNCOMPRESSED" or column.has_dictionary_page:
        raise NotPlain(f"column {column.path_in_schema} is {column.compression}")
    at, end = column.data_page_offset, column.data_page_offset + column.total_compressed_size
    places: list[RowPlace] = []
    while at < end:
        head = read(at, min(HEADER_BYTES, end - at))
        try:
            fields, size = _struct(head, 0)
            page = fields.get(5)
            if fields[1] != _DATA_PAGE or page is None or page[1] != 1 or page[2] != _PLAIN:
                raise NotPlain(f"column {column.path_in_schema} has pages of several rows or of another encoding")
            length = fields[3]
        except (IndexError, KeyError, struct.error, TypeError) as error:
            raise NotPlain(f"column {column.path_in_schema}: no page header at byte {at}") from error
        if length < 0 or at + size + length > end:
            raise NotPlain(f"column {column.path_in_schema}: the page at byte {at} is longer than its column chunk")
        crc = fields.get(4)
        places.append(RowPlace(at + size, length, None if crc is None else crc & 0xFFFFFFFF))
        at += size + length
    if len(places) != column.num_values:
        raise NotPlain(f"column {column.path_in_schema} has {len(places)} pages for {column.num_values} rows")
    return places


def value(body: bytes | memoryview, crc: int | None) -> bytearray | None:
    """The value of a page of one row of an optional byte array column; None for a null.

    Args:
        crc: compared where it is given.

    Raises:
        Damaged: another checksum, or lengths that contradict each other.
    """
    if crc is not None and zlib.crc32(body) != crc:
        raise Damaged("a data page does not have its checksum")
    if len(body) < 4:
        raise Damaged("a data page is too short")
    levels = struct.unpack_from("<I", body)[0]
    at = 4 + levels
    if len(body) == at:
        return None
    if len(body) < at + 4 or struct.unpack_from("<I", body, at)[0] != len(body) - at - 4:
        raise Damaged("a data page holds a value of another length")
    return bytearray(memoryview(body)[at + 4 :])


def _varint(data: bytes, at: int) -> tuple[int, int]:
    shift = result = 0
    while True:
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
        shift += 7


def _struct(data: bytes, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
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
