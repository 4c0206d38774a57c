"""JSON lines: one document per line, sliced by bytes."""

from __future__ import annotations

import codecs
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from palimpsest.config import SourceConfig
from palimpsest.sources.documents import Document, Reason, Rejected, Unusable, decode, excerpt
from palimpsest.sources.fields import build_document, reject
from palimpsest.sources.objects import SourceObject
from palimpsest.sources.streams import compression, read_bytes
from palimpsest.sources.text import looks_like_utf16, marked_encoding, with_head
from palimpsest.sources.units import Unit

_LINE_SLACK = 1 << 16  # bytes of a line beside its text


class JsonlSource:
    """`.jsonl` and `.ndjson`. Blank lines are no records; raw control characters inside strings are accepted.

    A big plain object is sliced at multiples of `unit_bytes`, without being read: a line belongs to the slice in which it starts.
    A compressed one is a single unit: its stream cannot be entered in the middle, so a slice would decompress all before it.
    """

    extensions = (".jsonl", ".ndjson")

    def plan(self, item: SourceObject, config: SourceConfig) -> list[Unit]:
        if compression(item.uri) or item.size <= config.unit_bytes:
            return [Unit(object=item)]
        starts = range(0, item.size, config.unit_bytes)
        return [Unit(object=item, span=(start, min(start + config.unit_bytes, item.size))) for start in starts]

    def read(self, unit: Unit, config: SourceConfig) -> Iterator[Document | Rejected]:
        try:
            for offset, line in _lines(unit, config):
                yield _read_line(line, offset, unit.object, config)
        except Unusable as problem:
            yield reject(problem, unit.object)


@dataclass(frozen=True, kw_only=True, slots=True)
class LineRecord:
    """One line as a JSON object, or the problem with it; `excerpt` is the beginning of the line."""

    record: dict[str, Any]
    problem: Unusable | None
    excerpt: bytes


def read_records(unit: Unit, config: SourceConfig) -> Iterator[LineRecord]:
    """The lines of a unit as JSON objects, for records that are not one text each. Nothing is raised for bad data."""
    try:
        for offset, line in _lines(unit, config):
            start = excerpt(line or b"")
            try:
                if line is None:
                    raise Unusable(Reason.TOO_LARGE, _too_long(offset, config))
                yield LineRecord(record=_parse(decode(line, config.encoding)), problem=None, excerpt=start)
            except Unusable as problem:
                problem.record = problem.record or start
                yield LineRecord(record={}, problem=problem, excerpt=start)
    except Unusable as problem:
        yield LineRecord(record={}, problem=problem, excerpt=problem.record)


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


def _lines(unit: Unit, config: SourceConfig) -> Iterator[tuple[int, bytes | None]]:
    """The lines that start in the unit's slice, with their offsets in the (decompressed) object; blank ones left out."""
    start, stop = unit.span or (0, None)
    limit = 4 * config.max_document_chars + _LINE_SLACK
    if start == 0:
        chunks = with_head(read_bytes(unit.object))
        head = next(chunks, b"")
        if _is_wide(head, config):
            raise Unusable(Reason.UTF16_DETECTED, "JSON lines are read as UTF-8 only: convert the file", excerpt(head))
        mark = len(codecs.BOM_UTF8) if config.is_utf8 and head.startswith(codecs.BOM_UTF8) else 0
        chunks = itertools.chain([head], chunks)
    else:
        if _is_wide(next(with_head(read_bytes(unit.object)), b""), config):
            return  # the first slice has said so
        start, chunks = _after_line_feed(read_bytes(unit.object, start - 1), start - 1, stop)
        mark = 0
    for offset, line in split_lines(chunks, limit, None if stop is None else stop - start):
        if line is not None and offset == 0:
            line = line[mark:]
        if line is None or (line and not line.isspace()):
            yield start + offset, line


def _after_line_feed(chunks: Iterator[bytes], position: int, stop: int | None) -> tuple[int, Iterator[bytes]]:
    """The bytes after the first line feed, and their offset; none where no line starts in the slice."""
    for chunk in chunks:
        end = chunk.find(b"\n")
        if end >= 0:
            position += end + 1
            rest = chunk[end + 1 :]
            return position, iter(()) if stop is not None and position >= stop else itertools.chain([rest], chunks)
        position += len(chunk)
        if stop is not None and position >= stop:
            break
    return position, iter(())


def _is_wide(head: bytes, config: SourceConfig) -> bool:
    return config.is_utf8 and (marked_encoding(head) not in (None, "utf-8-sig") or looks_like_utf16(head[:4096]))


def _read_line(line: bytes | None, offset: int, item: SourceObject, config: SourceConfig) -> Document | Rejected:
    record: Any = None
    try:
        if line is None:
            raise Unusable(Reason.TOO_LARGE, _too_long(offset, config))
        record = _parse(decode(line, config.encoding))
        return build_document(record, item, config)
    except Unusable as problem:
        source_id = record.get(config.id_field) if isinstance(record, dict) else None
        return reject(problem, item, source_id=source_id, record=line or b"")


def _too_long(offset: int, config: SourceConfig) -> str:
    return f"the line at byte {offset} is longer than 4 × max_document_chars={config.max_document_chars} bytes"


def _parse(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line, strict=False)
    except RecursionError:
        raise Unusable(Reason.INVALID_JSON, "nested too deeply") from None
    except ValueError as error:  # JSONDecodeError, and integers of thousands of digits
        raise Unusable(Reason.INVALID_JSON, str(error)) from None
    if not isinstance(record, dict):
        raise Unusable(Reason.INVALID_JSON, f"a {type(record).__name__}, not an object")
    return record
