"""The fields of one record, as JSON or Parquet give them, to a document."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

from palimpsest.config import SourceConfig
from palimpsest.sources.documents import Document, Reason, Rejected, Unusable, document_id, excerpt, utf8
from palimpsest.sources.objects import SourceObject

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_SECOND = 10**11  # larger numbers are milliseconds: as seconds this is the year 5138, as milliseconds 1973
_LAST_MILLISECOND = 10**14
_FLOAT32_MAX = 3.4028234663852886e38


def build_document(record: Mapping[str, Any], item: SourceObject, config: SourceConfig) -> Document:
    """The document of a record.

    Raises:
        Unusable: with the reason of the first field that is wrong; the text is looked at first.
    """
    if config.text_field not in record:
        raise Unusable(Reason.MISSING_TEXT, f"no field {config.text_field!r} among {_shorten(list(record))}")
    text = record[config.text_field]
    return Document(
        doc_id=_check_text(text, config),
        source_id=_identifier(record.get(config.id_field)),
        source_uri=item.uri,
        source_version=item.version,
        text=text,
        timestamp=parse_timestamp(record.get(config.timestamp_field)),
        importance=_importance(record.get(config.importance_field)),
        text_class=_text_class(record.get(config.class_field)),
    )


def reject(problem: Unusable, item: SourceObject, *, source_id: Any = None, record: bytes = b"") -> Rejected:
    """The quarantine's row for a problem; `source_id` is kept where it can be, `record` where the problem brings no bytes."""
    try:
        known_id = _identifier(source_id)
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


def _check_text(text: Any, config: SourceConfig) -> str:
    """The id of a usable text."""
    if text is None:
        raise Unusable(Reason.NULL_TEXT, f"field {config.text_field!r} is null")
    if not isinstance(text, str):
        raise Unusable(Reason.NON_STRING_TEXT, f"field {config.text_field!r} is of type {type(text).__name__}: {_shorten(text)}")
    if not text:
        raise Unusable(Reason.EMPTY_TEXT, f"field {config.text_field!r} is empty")
    if len(text) > config.max_document_chars:
        raise Unusable(Reason.TOO_LARGE, f"{len(text)} characters; max_document_chars={config.max_document_chars}")
    return document_id(text)


def _identifier(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise Unusable(Reason.BAD_ID, f"an id is a string or an integer, not {_shorten(value)}")
    utf8(value)
    return value


def parse_timestamp(value: Any) -> datetime | None:
    """A moment in UTC, to the microsecond.

    Args:
        value: ISO 8601 text, a date or datetime (without a zone: UTC), or a number of seconds since 1970; from 10^11
            on, of milliseconds.

    Raises:
        Unusable: BAD_TIMESTAMP.
    """
    try:
        match value:
            case None:
                return None
            case bool():
                raise ValueError("a truth value is no moment")
            case int() | float():
                if abs(value) >= _LAST_MILLISECOND:
                    raise ValueError("neither seconds nor milliseconds since 1970")
                unit = "milliseconds" if abs(value) >= _LAST_SECOND else "seconds"
                return _EPOCH + timedelta(**{unit: value})
            case str():
                moment = datetime.fromisoformat(value.strip())
            case datetime():
                moment = value
            case date():
                moment = datetime(value.year, value.month, value.day)
            case _:
                raise ValueError(f"of type {type(value).__name__}")
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Unusable(Reason.BAD_TIMESTAMP, f"{_shorten(value)}: {error}") from None


def _importance(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Unusable(Reason.BAD_IMPORTANCE, f"importance is a number, not {_shorten(value)}")
    if not abs(value) <= _FLOAT32_MAX:  # so that NaN fails too
        raise Unusable(Reason.BAD_IMPORTANCE, f"importance is a finite 32-bit float, not {_shorten(value)}")
    return float(value)


def _text_class(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise Unusable(Reason.BAD_CLASS, f"a class is a string, not {_shorten(value)}")
    utf8(value)
    return value


def _shorten(value: Any) -> str:
    """A value for a message: at most 80 characters, ASCII, so that it fits any column."""
    shown = ascii(value[:80] if isinstance(value, (str, bytes, list)) else value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
