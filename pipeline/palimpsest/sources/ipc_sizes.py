"""Decoded sizes of the messages of an Arrow IPC stream, from their headers: how much memory decoding one takes.

A message is: 0xFFFFFFFF, the length of its header, the header (a FlatBuffers table), its body. Compressed buffers of a body begin
with their decoded length (https://arrow.apache.org/docs/format/Columnar.html, "Body Compression").
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

_CONTINUATION = 0xFFFFFFFF
_LARGEST_HEADER = 1 << 28
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3


def decoded_bytes(file: BinaryIO) -> Iterator[int]:
    """The decoded bytes of every record batch and dictionary batch, in order. Bodies are skipped, not read.

    Raises:
        ValueError: the headers are damaged.
    """
    while True:
        start = file.read(8)
        if len(start) < 8:
            return
        mark, length = struct.unpack("<Ii", start)
        if mark != _CONTINUATION:
            length = mark  # before format 0.15 there was no mark
            file.seek(-4, 1)
        if length == 0:
            return
        if not 0 < length <= _LARGEST_HEADER:
            raise ValueError(f"a message header of {length} bytes")
        header = _Table.root(file.read(length))
        body, at = header.integer(3, "<q"), file.tell()
        batch = header.table(2)
        if header.integer(1, "<B") == _DICTIONARY_BATCH and batch:
            batch = batch.table(1)
        if batch and header.integer(1, "<B") in (_DICTIONARY_BATCH, _RECORD_BATCH):
            yield _batch_bytes(batch, file, at) if batch.table(3) else body
        file.seek(at + body)


def _batch_bytes(batch: _Table, file: BinaryIO, body: int) -> int:
    total = 0
    for offset, length in batch.pairs(2):
        if length >= 8:
            file.seek(body + offset)
            (decoded,) = struct.unpack("<q", file.read(8))
            total += length if decoded == -1 else max(0, decoded)
    return total


class _Table:
    """A FlatBuffers table: as much of the format as the headers need."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at
        self._vtable = at - self._read("<i", at)

    @classmethod
    def root(cls, data: bytes) -> _Table:
        return cls(data, cls._unpack("<I", data, 0))

    def integer(self, field: int, form: str) -> int:
        """A scalar field; 0 where it is absent."""
        place = self._place(field)
        return self._read(form, place) if place else 0

    def table(self, field: int) -> _Table | None:
        place = self._place(field)
        return _Table(self.data, place + self._read("<I", place)) if place else None

    def pairs(self, field: int) -> list[tuple[int, int]]:
        """A vector of structs of two 64-bit integers."""
        place = self._place(field)
        if not place:
            return []
        vector = place + self._read("<I", place)
        count = self._read("<I", vector)
        if vector + 4 + 16 * count > len(self.data):
            raise ValueError("a message header ends too early")
        return [(self._read("<q", at), self._read("<q", at + 8)) for at in range(vector + 4, vector + 4 + 16 * count, 16)]

    def _place(self, field: int) -> int:
        slot = 4 + 2 * field
        if slot >= self._read("<H", self._vtable):
            return 0
        offset = self._read("<H", self._vtable + slot)
        return self.at + offset if offset else 0

    def _read(self, form: str, at: int) -> int:
        return self._unpack(form, self.data, at)

    @staticmethod
    def _unpack(form: str, data: bytes, at: int) -> int:
        if not 0 <= at <= len(data) - struct.calcsize(form):
            raise ValueError("a message header ends too early")
        return int(struct.unpack_from(form, data, at)[0])
