"""Sizes of the pages of a Parquet column chunk, from their headers: how much memory decoding one takes.

A page header is a Thrift struct in the compact protocol; its second field is the page's uncompressed size, its third the
compressed one (https://github.com/apache/parquet-format, parquet.thrift).
"""

from __future__ import annotations

from typing import BinaryIO

_HEADER_BYTES = 1 << 12  # statistics may make one longer: then twice as many are read
_STRUCT, _LIST, _SET, _BINARY = 12, 9, 10, 8
_FIXED = {1: 0, 2: 0, 3: 1, 7: 8}  # true, false, byte, double
_INTEGERS = (4, 5, 6)


def largest_page(file: BinaryIO, start: int, length: int) -> int:
    """The uncompressed size of the largest page of the chunk at `start`, in bytes.

    Raises:
        ValueError: the headers are damaged.
    """
    largest, end = 0, start + length
    while start < end:
        header, uncompressed, compressed = _header(file, start, end)
        largest = max(largest, uncompressed)
        start += header + compressed
    return largest


def _header(file: BinaryIO, start: int, end: int) -> tuple[int, int, int]:
    """(its own bytes, uncompressed, compressed) of the page header at `start`."""
    size = _HEADER_BYTES
    while True:
        file.seek(start)
        data = file.read(min(size, end - start))
        reader = _Compact(data)
        try:
            fields = reader.struct()
        except IndexError:
            if len(data) < size:
                raise ValueError("a page header has no end") from None
            size *= 2
            continue
        uncompressed, compressed = fields.get(2, -1), fields.get(3, -1)
        if uncompressed < 0 or compressed < 0:
            raise ValueError("a page header has no sizes")
        return reader.at, uncompressed, compressed


class _Compact:
    """Reads as much of Thrift's compact protocol as the sizes need; everything else is skipped."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def struct(self) -> dict[int, int]:
        """The integers of a struct, by field number."""
        found: dict[int, int] = {}
        number = 0
        while head := self._byte():
            kind, step = head & 15, head >> 4
            number = number + step if step else self._zigzag()
            if kind in _INTEGERS:
                found[number] = self._zigzag()
            else:
                self._skip(kind)
        return found

    def _skip(self, kind: int) -> None:
        if kind in _FIXED:
            self._move(_FIXED[kind])
        elif kind in _INTEGERS:
            self._varint()
        elif kind == _BINARY:
            self._move(self._varint())
        elif kind == _STRUCT:
            self.struct()
        elif kind in (_LIST, _SET):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._varint()
            for _ in range(count):
                self._skip(head & 15)
        else:
            raise ValueError(f"a page header has a field of type {kind}")

    def _move(self, length: int) -> None:
        self.at += length
        if self.at > len(self.data):
            raise IndexError

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
