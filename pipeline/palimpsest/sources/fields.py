"""The fields of one record, as JSON, Parquet, Arrow or CSV give them, to a document."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from palimpsest.config import SourceConfig
from palimpsest.sources.cells import DoubledKey, OddCell, carried, identifier, importance, is_missing, text_class, text_of_bytes
from palimpsest.sources.documents import Document, Reason, Rejected, Unusable, decode, document_id, excerpt, shorten
from palimpsest.sources.objects import SourceObject
from palimpsest.sources.timestamps import parse_timestamp

__all__ = ["build_document", "field_names", "lookup", "parse_timestamp", "reject"]

ABSENT = object()
_NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"


def field_names(config: SourceConfig) -> tuple[str, ...]:
    """The fields that are read from every record, the text's first."""
    named = (config.id_field, config.timestamp_field, config.importance_field, config.class_field)
    return tuple(dict.fromkeys((*text_fields(config), *named, *config.carry)))


def text_fields(config: SourceConfig) -> tuple[str, ...]:
    """The fields that make the text."""
    return template_fields(config.text_template) if config.text_template else (config.text_field,)


@lru_cache(maxsize=8)
def template_fields(template: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(template) if name))


def build_document(record: Mapping[str, Any], item: SourceObject, config: SourceConfig, text: str | None = None) -> Document:
    """The document of a record.

    Optional metadata that cannot be used is null and its reason is in `Document.nulled`, unless `source.bad_metadata` says
    otherwise. A cell that cannot be read at all costs the record.

    Args:
        text: where the record is a file of text and has no fields.

    Raises:
        Unusable: with the reason of the first field that is wrong; the text is looked at first.
    """
    text = _text(record, config) if text is None else _checked(text, config.text_field, config)
    cells = _Cells(record, item, config)
    limit = config.max_metadata_chars
    return Document(
        doc_id=document_id(text),
        source_id=cells.get(config.id_field, Reason.BAD_ID, identifier, limit),
        source_uri=item.uri,
        source_version=item.version,
        text=text,
        timestamp=cells.get(config.timestamp_field, Reason.BAD_TIMESTAMP, parse_timestamp),
        importance=cells.get(config.importance_field, Reason.BAD_IMPORTANCE, importance),
        text_class=cells.get(config.class_field, Reason.BAD_CLASS, text_class, limit),
        extra={name: text for name in config.carry if (text := cells.get(name, Reason.BAD_EXTRA, carried, limit)) is not None}
        or None,
        nulled=cells.nulled,
        present=cells.present,
    )


class _Cells:
    """The optional fields of one record."""

    def __init__(self, record: Mapping[str, Any], item: SourceObject, config: SourceConfig) -> None:
        self.record, self.item = record, item
        self.strict = config.bad_metadata == "quarantine"
        self.nulled: list[Reason] = []
        self.present: list[str] = []

    def get(self, field: str, reason: Reason, convert: Callable[..., Any], *arguments: int) -> Any:
        """The converted value of a field; `reason` is that of one which means nothing. Raises Unusable."""
        value = lookup(self.record, field, self.item)
        if value is ABSENT:
            return None
        self.present.append(field)
        if isinstance(value, OddCell) and not isinstance(value, DoubledKey):
            raise value.refuse(field, reason)
        if isinstance(value, bytes) and convert not in (identifier, carried):
            value = text_of_bytes(value)
        try:
            if isinstance(value, DoubledKey):
                raise value.refuse(field, reason)
            return convert(value, *arguments)
        except Unusable as problem:
            if self.strict:
                raise
            self.nulled.append(problem.reason)
            return None


def reject(
    problem: Unusable, item: SourceObject, *, source_id: Any = None, record: bytes = b"", config: SourceConfig | None = None
) -> Rejected:
    """The quarantine's row for a problem; `source_id` is kept where it can be, `record` where the problem brings no bytes."""
    try:
        known_id = identifier(source_id, (config or SourceConfig()).max_metadata_chars)
    except Unusable:
        known_id = None
    return Rejected(
        source_uri=item.uri,
        source_version=item.version,
        source_id=known_id,
        reason=problem.reason,
        detail=problem.detail,
        record=problem.record or excerpt(record),
    )


def lookup(record: Mapping[str, Any], field: str, item: SourceObject | None = None) -> Any:
    """The value of a field: of that name, at that path (`doc.text`), or of a folder `field=value` of the object; else ABSENT."""
    if field in record:
        return record[field]
    if "." in field:
        value: Any = record
        for step in field.split("."):
            if isinstance(value, OddCell):
                return value
            if not isinstance(value, Mapping) or step not in value:
                value = ABSENT
                break
            value = value[step]
        if value is not ABSENT:
            return value
    return partitions(item.key).get(field, ABSENT) if item else ABSENT


@lru_cache(maxsize=64)
def partitions(key: str) -> dict[str, str | None]:
    """The fields that the folders of a path give: `dt=2024-01-01` as Hive, Spark and DuckDB write them."""
    found: dict[str, str | None] = {}
    for step in key.split("/")[:-1]:
        name, equals, value = step.partition("=")
        if name and equals:
            found[unquote(name)] = None if value == _NO_PARTITION else unquote(value)
    return found


def _text(record: Mapping[str, Any], config: SourceConfig) -> str:
    fields = text_fields(config)
    values = {field: lookup(record, field) for field in fields}
    if all(value is ABSENT for value in values.values()):
        named = repr(fields[0]) if len(fields) == 1 else f"of {', '.join(map(repr, fields))}"
        raise Unusable(Reason.MISSING_TEXT, f"no field {named} among {shorten(list(record))}")
    for field, value in values.items():
        if isinstance(value, OddCell):
            raise value.refuse(field, Reason.NON_STRING_TEXT)
    if not config.text_template:
        return _checked(values[config.text_field], config.text_field, config)
    parts = {field: "" if value is ABSENT or is_missing(value) else _part(value, field) for field, value in values.items()}
    if not any(parts.values()):
        raise Unusable(Reason.EMPTY_TEXT, f"the fields {', '.join(map(repr, fields))} are empty")
    return _checked(_fill(config.text_template, parts), "text_template", config)


def _part(value: Any, field: str) -> str:
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    raise Unusable(Reason.NON_STRING_TEXT, f"field {field!r} is of type {type(value).__name__}: {shorten(value)}")


def _fill(template: str, parts: Mapping[str, str]) -> str:
    return "".join(literal + (parts[name] if name else "") for literal, name, _, _ in string.Formatter().parse(template))


def _checked(text: Any, field: str, config: SourceConfig) -> str:
    """`text`, where it is usable."""
    if text is None:
        raise Unusable(Reason.NULL_TEXT, f"field {field!r} is null")
    if isinstance(text, bytes):
        text = decode(text, "utf-8")  # many writers store strings without saying that they are
    if not isinstance(text, str):
        if is_missing(text):
            raise Unusable(Reason.NULL_TEXT, f"field {field!r} is NaN")
        raise Unusable(Reason.NON_STRING_TEXT, f"field {field!r} is of type {type(text).__name__}: {shorten(text)}")
    if not text:
        raise Unusable(Reason.EMPTY_TEXT, f"field {field!r} is empty")
    if len(text) > config.max_document_chars:
        raise Unusable(Reason.TOO_LARGE, f"{len(text)} characters; source.max_document_chars = {config.max_document_chars}")
    return text
