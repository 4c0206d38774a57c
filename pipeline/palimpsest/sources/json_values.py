"""JSON values in a stream of bytes: one a line, the elements of an array, or objects one after the other.

No value is parsed here, and none longer than a limit is held in memory, so that a broken value costs only itself.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator

from palimpsest.sources.documents import Reason, Unusable, excerpt

LINES, ARRAY, OBJECTS = "lines", "array", "objects"
_OUTSIDE = re.compile(rb'["{}\[\],]')
_INSIDE = re.compile(rb'["\\]')
_BLANK = b" \t\r\n"


def shape_of(head: bytes) -> str:
    """How the values of an object are written, judged by its first bytes: LINES, ARRAY or OBJECTS (over several lines)."""
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    first, newline, rest = text.partition(b"\n")
    first, following = first.rstrip(), rest.lstrip()[:1]
    if text.startswith(b"["):
        return LINES if following and following not in b"]," and _parses(first) else ARRAY
    broken_off = first.endswith(b"[") or (first.endswith((b"{", b",", b":")) and following in (b'"', b"}"))
    if text.startswith(b"{") and newline and broken_off and not _parses(first):
        return OBJECTS
    return LINES


def _parses(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def split_lines(chunks: Iterable[bytes], limit: int, stop: int | None = None) -> Iterator[tuple[int, bytes | None]]:
    """The lines of a stream of bytes, with their offsets; None for a line of more than `limit` bytes, which is not held.

    Args:
        stop: lines that start at this offset or later are not read.

    Raises:
        Unusable: the stream's own, with the beginning of the line that it cut.
    """
    parts: list[bytes] = []
    offset = size = 0
    try:
        for chunk in chunks:
            start = 0
            while (end := chunk.find(b"\n", start)) >= 0:
                parts.append(chunk[start:end])
                size += end - start
                yield offset, (b"".join(parts) if size <= limit else None)
                parts, offset, size, start = [], offset + size + 1, 0, end + 1
                if stop is not None and offset >= stop:
                    return
            size += len(chunk) - start
            parts.append(chunk[start:])
            if size > limit:
                parts.clear()
    except Unusable as problem:
        problem.record = problem.record or excerpt(b"".join(parts))
        raise
    if size:
        yield offset, (b"".join(parts) if size <= limit else None)


def split_values(chunks: Iterable[bytes], limit: int, shape: str) -> Iterator[tuple[int, bytes | None]]:
    """The elements of an array, or objects one after the other, with their offsets; None for one of more than `limit` bytes.

    Raises:
        Unusable: the stream's own, with the beginning of the value that it cut; INVALID_JSON for an array without an end, or
            with something behind it.
    """
    splitter = _Splitter(limit, shape)
    try:
        for chunk in chunks:
            yield from splitter.feed(chunk)
    except Unusable as problem:
        problem.record = problem.record or excerpt(b"".join(splitter.parts))
        raise
    yield from splitter.end()


class _Splitter:
    """Cuts a stream at the commas of its outermost array, or at the ends of its outermost objects.

    Attributes:
        parts: what was read of the current value.
    """

    def __init__(self, limit: int, shape: str) -> None:
        self.limit, self.is_array = limit, shape == ARRAY
        self.parts: list[bytes] = []
        self._depth = -1 if self.is_array else 0  # of brackets around the next byte, the array's own not counted
        self._in_string = self._escaped = False
        self._at = self._start = self._size = 0
        self._closed = False

    def feed(self, chunk: bytes) -> Iterator[tuple[int, bytes | None]]:
        begin = place = 0
        while place < len(chunk):
            if self._escaped:
                self._escaped, place = False, place + 1
                continue
            found = (_INSIDE if self._in_string else _OUTSIDE).search(chunk, place)
            if found is None:
                break
            place = found.end()
            cut = self._cut(found[0])
            if cut:
                end = place if cut == "after" else place - 1
                self._hold(chunk[begin:end])
                yield from self._value(self._at + place)
                begin = place
            elif cut is None:
                begin = place
                self._start = self._at + place
        self._hold(chunk[begin:])
        self._at += len(chunk)

    def end(self) -> Iterator[tuple[int, bytes | None]]:
        rest = b"".join(self.parts).strip(_BLANK)
        if self.is_array and self._closed:
            if rest:
                raise Unusable(Reason.INVALID_JSON, "something follows the end of the array", excerpt(rest))
            return
        yield from self._value(self._at)
        if self.is_array:
            raise Unusable(Reason.INVALID_JSON, "the array has no end", excerpt(rest))

    def _cut(self, mark: bytes) -> str | None:
        """Effect of a mark: "" none, a value ends "after" or "before" it, None drops what came before (the array's bracket)."""
        if self._in_string:
            self._in_string, self._escaped = mark != b'"', mark == b"\\"
        elif mark == b'"':
            self._in_string = True
        elif mark in b"{[":
            self._depth += 1
            return None if self.is_array and self._depth == 0 and not self._closed and not self._size else ""
        elif mark in b"}]":
            if self.is_array and self._depth == 0 and not self._closed:
                self._closed, self._depth = True, -1
                return "before"
            self._depth = max(0, self._depth - 1)
            return "after" if not self.is_array and self._depth == 0 else ""
        elif self.is_array and self._depth == 0 and not self._closed:
            return "before"
        return ""

    def _hold(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self.limit:
            self.parts.clear()
        else:
            self.parts.append(part)

    def _value(self, after: int) -> Iterator[tuple[int, bytes | None]]:
        value = b"".join(self.parts) if self._size <= self.limit else None
        offset, self.parts, self._size, self._start = self._start, [], 0, after
        if value is None or (value := value.strip(_BLANK)):
            yield offset, value
