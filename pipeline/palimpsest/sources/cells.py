"""Optional metadata: one cell, as JSON, Parquet or CSV give it, to an id, an importance, a class or a value to carry.

Absent, null, NaN and "" are missing. Every function raises Unusable for a value that means nothing.
"""

from __future__ import annotations

import json
import math
import uuid
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

from palimpsest.sources.documents import Reason, Unusable, shorten, utf8
from palimpsest.sources.timestamps import MISSING

_FLOAT32_MAX = 3.4028234663852886e38


class OddCell:
    """A stored cell that has no value here: a date beyond the year 9999, a string that is not UTF-8. It costs its row."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def refuse(self, field: str, reason: Reason) -> Unusable:
        """The problem; `reason` is that of a value of this field that means nothing."""
        if isinstance(self.error, UnicodeDecodeError):
            reason = Reason.INVALID_UTF8
        return Unusable(reason, f"field {field!r} cannot be read: {type(self.error).__name__}: {self.error}")


class DoubledKey(OddCell):
    """A key that an object has several times, with different values: nobody knows which one is meant."""

    def __init__(self, times: int) -> None:
        self.times = times

    def __repr__(self) -> str:
        return f"<{self.times} values>"

    def refuse(self, field: str, reason: Reason) -> Unusable:
        return Unusable(Reason.DOUBLED_KEY, f"field {field!r} occurs {self.times} times in one object, with different values")


def is_missing(value: Any) -> bool:
    return value is None or value == "" or value == b"" or (isinstance(value, float | Decimal) and math.isnan(value))


def identifier(value: Any, limit: int) -> str | None:
    """An id as text: of a whole number its digits (`1.0` is 1), of bytes their text or hexadecimal digits.

    Args:
        limit: characters.
    """
    if is_missing(value):
        return None
    match value:
        case bool():
            pass
        case str() | uuid.UUID():
            return bounded(str(value), limit)
        case int():
            return bounded(_digits(value), limit)
        case float() | Decimal() if math.isfinite(value) and value == int(value):
            return bounded(_digits(int(value)), limit)
        case bytes():
            return bounded(text_of_bytes(value), limit)
    raise Unusable(Reason.BAD_ID, f"an id is a string, an integer or bytes, not {shorten(value)}")


def importance(value: Any) -> float | None:
    """A finite 32-bit float, also from text (CSV has nothing else)."""
    if is_missing(value) or (isinstance(value, str) and value.strip().lower() in MISSING):
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
            raise ValueError
        number = float(value)
    except (ValueError, OverflowError):
        raise Unusable(Reason.BAD_IMPORTANCE, f"importance is a number, not {shorten(value)}") from None
    if not abs(number) <= _FLOAT32_MAX:  # so that NaN fails too
        raise Unusable(Reason.BAD_IMPORTANCE, f"importance is a finite 32-bit float, not {shorten(value)}")
    return number


def text_class(value: Any, limit: int) -> str | None:
    if is_missing(value):
        return None
    if not isinstance(value, str):
        raise Unusable(Reason.BAD_CLASS, f"a class is a string, not {shorten(value)}")
    return bounded(value, limit)


def carried(value: Any, limit: int) -> str | None:
    """A value that goes through to the column `extra`: text as it is, anything else as JSON would write it."""
    if is_missing(value):
        return None
    match value:
        case str() | uuid.UUID() | Decimal():
            return bounded(str(value), limit)
        case bytes():
            return bounded(text_of_bytes(value), limit)
        case date() | time():  # a datetime is a date
            return value.isoformat()
        case timedelta():
            return f"{value.total_seconds():g} s"
    try:
        return bounded(json.dumps(value, ensure_ascii=False, default=_plain), limit)
    except (TypeError, ValueError, RecursionError) as error:
        raise Unusable(Reason.BAD_EXTRA, f"{shorten(value)}: {error}") from None


def text_of_bytes(value: bytes) -> str:
    """Printable UTF-8 as it is, other bytes as hexadecimal digits."""
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return value.hex()
    return text if text.isprintable() else value.hex()


def bounded(text: str, limit: int) -> str:
    """`text`. Raises Unusable where it is longer than `limit`, or has no UTF-8 bytes."""
    if len(text) > limit:
        raise Unusable(Reason.METADATA_TOO_LONG, f"{len(text)} characters; source.max_metadata_chars = {limit}: {shorten(text)}")
    utf8(text)
    return text


def _digits(value: int) -> str:
    if value.bit_length() > 10_000:  # Python refuses to write integers of thousands of digits
        raise Unusable(Reason.BAD_ID, f"an integer of {value.bit_length()} bits")
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, OddCell):
        raise value.refuse("within", Reason.BAD_EXTRA)
    if isinstance(value, bytes):
        return text_of_bytes(value)
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value)
