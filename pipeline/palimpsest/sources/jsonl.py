"""JSON: one document a line, an element of an array, or one object; lines are sliced by bytes."""

from __future__ import annotations

import codecs
import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from palimpsest.config import SourceConfig
from palimpsest.sources.cells import DoubledKey
from palimpsest.sources.documents import Document, Reason, Rejected, Unusable, decode, excerpt
from palimpsest.sources.fields import ABSENT, build_document, lookup, reject
from palimpsest.sources.json_values import LINES, shape_of, split_lines, split_values
from palimpsest.sources.objects import SourceObject
from palimpsest.sources.streams import MAGIC_BYTES, compression, compression_of, read_bytes, read_stored
from palimpsest.sources.text import looks_like_utf16, marked_encoding, refuse_other_format, with_head
from palimpsest.sources.units import Unit

_LINE_SLACK = 1 << 16  # bytes of a line besides its text
_KINDS = {type(None): "null", bool: "a truth value", int: "a number", float: "a number", str: "a string", list: "an array"}
_LOOKED_AT = 20  # records, for the fields that they have
_HEAD_BYTES = 1 << 16  # by which the shape is judged


class JsonlSource:
    """`.jsonl`, `.ndjson` and `.json`: lines, one array, or objects over several lines, by content.

    Blank lines are no records; raw control characters inside strings are accepted; a byte-order mark at the start of any line is
    dropped. A big plain object is sliced at multiples of `unit_bytes`, without being read: a line belongs to the slice in which
    it starts. A compressed one is a single unit: its stream cannot be entered in the middle. Of an object that turns out to be an
    array, or compressed under another name, the first slice reads everything.
    """

    extensions = (".jsonl", ".ndjson", ".json")

    def plan(self, item: SourceObject, config: SourceConfig) -> list[Unit]:
        if compression(item.uri) or item.size <= config.unit_bytes:
            return [Unit(object=item)]
        starts = range(0, item.size, config.unit_bytes)
        return [Unit(object=item, span=(start, min(start + config.unit_bytes, item.size))) for start in starts]

    def read(self, unit: Unit, config: SourceConfig) -> Iterator[Document | Rejected]:
        try:
            for offset, line in _values(unit, config):
                yield _read_line(line, offset, unit.object, config)
        except Unusable as problem:
            yield reject(problem, unit.object)


@dataclass(frozen=True, kw_only=True, slots=True)
class LineRecord:
    """One record as a JSON object, or the problem with it; `excerpt` is its beginning as it is written."""

    record: dict[str, Any]
    problem: Unusable | None
    excerpt: bytes


def read_records(unit: Unit, config: SourceConfig) -> Iterator[LineRecord]:
    """The records of a unit as JSON objects, for records that are not one text each. Nothing is raised for bad data.

    A record in which any object has a key twice, with different values, is refused: all of it may be read.
    """
    try:
        for offset, line in _values(unit, config):
            start = excerpt(line or b"")
            try:
                if line is None:
                    raise Unusable(Reason.TOO_LARGE, _too_long(offset, config))
                yield LineRecord(record=_parse(decode(line, config.charset), _REFUSING), problem=None, excerpt=start)
            except Unusable as problem:
                problem.record = problem.record or start
                yield LineRecord(record={}, problem=problem, excerpt=start)
    except Unusable as problem:
        yield LineRecord(record={}, problem=problem, excerpt=problem.record)


def column_names(item: SourceObject, config: SourceConfig) -> list[str]:
    """The fields of the first records of an object. Raises Unusable where none of them is a JSON object."""
    found: dict[str, None] = {}
    for number, (_, line) in enumerate(_values(Unit(object=item), config)):
        if number == _LOOKED_AT:
            break
        with suppress(Unusable):
            found.update(dict.fromkeys(_parse(decode(line or b"", config.charset))))
    if not found:
        raise Unusable(Reason.INVALID_JSON, "no record among the first is a JSON object")
    return list(found)


def _values(unit: Unit, config: SourceConfig) -> Iterator[tuple[int, bytes | None]]:
    """The values that start in the unit's slice, with their offsets in the (decompressed) object; blank lines left out."""
    start, stop = unit.span or (0, None)
    limit = 4 * config.max_document_chars + _LINE_SLACK
    if start == 0:
        stored_head = next(read_stored(unit.object), b"")[:MAGIC_BYTES] if stop is not None else b""
        chunks = with_head(read_bytes(unit.object, config), _HEAD_BYTES)
        head = next(chunks, b"")
        if _is_wide(head, config):
            raise Unusable(Reason.UTF16_DETECTED, "JSON is read as UTF-8 only: convert the file", excerpt(head))
        refuse_other_format(head)
        chunks = itertools.chain([head], chunks)
        if (shape := shape_of(head)) != LINES:
            yield from _without_marks(split_values(chunks, limit, shape), config)
            return
        if compression_of(unit.object.uri, stored_head):
            stop = None
    else:
        head = next(with_head(read_stored(unit.object), _HEAD_BYTES), b"")
        if compression_of(unit.object.uri, head) or _is_wide(head, config) or shape_of(head) != LINES:
            return  # the first slice reads all of it, or has said what is wrong
        start, chunks = _after_line_feed(read_stored(unit.object, start - 1), start - 1, stop)
    lines = split_lines(chunks, limit, None if stop is None else stop - start)
    yield from _without_marks(((start + offset, line) for offset, line in lines), config)


def _without_marks(values: Iterator[tuple[int, bytes | None]], config: SourceConfig) -> Iterator[tuple[int, bytes | None]]:
    """The values that are not blank, without the byte-order marks that a join of files leaves at the start of some."""
    for offset, value in values:
        if value is not None and config.is_utf8:
            while value.startswith(codecs.BOM_UTF8):  # some writers put one before that of their source
                value = value.removeprefix(codecs.BOM_UTF8)
        if value is None or (value and not value.isspace()):
            yield offset, value


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
        record = _parse(decode(line, config.charset))
        return build_document(record, item, config)
    except Unusable as problem:
        source_id = lookup(record, config.id_field) if isinstance(record, dict) else None
        return reject(problem, item, source_id=None if source_id is ABSENT else source_id, record=line or b"")


def _too_long(offset: int, config: SourceConfig) -> str:
    return f"the record at byte {offset} is longer than 4 × source.max_document_chars = {config.max_document_chars} bytes"


def _marked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, in which keys with several different values are marked: JSON's own rule keeps the last without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        differing = {name for name, value in pairs if value != found[name]}
        times = Counter(name for name, _ in pairs)
        found |= {name: DoubledKey(times[name]) for name in differing}
    return found


def _refused(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = _marked(pairs)
    for name, value in found.items() if len(found) < len(pairs) else ():
        if isinstance(value, DoubledKey):
            raise value.refuse(name, Reason.DOUBLED_KEY)
    return found


_MARKING = json.JSONDecoder(strict=False, object_pairs_hook=_marked)
_REFUSING = json.JSONDecoder(strict=False, object_pairs_hook=_refused)


def _parse(line: str, decoder: json.JSONDecoder = _MARKING) -> dict[str, Any]:
    try:
        record = decoder.decode(line)
    except RecursionError:
        raise Unusable(Reason.INVALID_JSON, "nested too deeply") from None
    except json.JSONDecodeError as error:
        raise Unusable(Reason.INVALID_JSON, str(error)) from None
    except ValueError:
        raise Unusable(Reason.INVALID_JSON, f"an integer of more than {sys.get_int_max_str_digits():,} digits") from None
    if not isinstance(record, dict):
        raise Unusable(Reason.INVALID_JSON, f"{_KINDS[type(record)]}, not an object")
    return record
