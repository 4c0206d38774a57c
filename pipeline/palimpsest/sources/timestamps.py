"""Timestamps as corpora write them: a moment in UTC, or a refusal; nothing absurd in between.

    numbers    seconds, milliseconds, microseconds or nanoseconds since 1970, told apart by their size; 20240301, 202403 and 2024
               are a day, a month and a year
    digits     the same as text; also 20240301120000 and 202403011200
    text       ISO 8601, `2024-03-01 12:00:00 UTC`, `2024-03`, `2024/03/01`, mail dates (RFC 2822), `Fri Mar 01 12:00:00 2024`

Without a zone a moment is UTC; a month or a year is its first moment. Forms in which the order of day and month is a matter of
country (`03/01/2024`) are refused, and zones whose offset is not known (`CET` in a mail date, `[Europe/Berlin]` alone).
"""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime
from fractions import Fraction
from typing import Any

from palimpsest.sources.documents import Reason, Unusable, shorten

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
YEARS = range(1000, 2201)  # of dates; 0001 and 9999 are how databases write "none" and "never"
EPOCH_YEARS = range(1900, 2201)  # of numbers of seconds: anything else has another unit, or is no time at all
MISSING = frozenset(("", "nan", "nat", "null", "none", "n/a", "<na>"))
_SIZES = ((10**11, 1), (10**14, 10**3), (10**17, 10**6), (10**20, 10**9))  # below this size, units a second
_ISO = re.compile(
    r"(?P<day>\d{4}-\d\d?-\d\d?|\d{4}/\d\d?/\d\d?|\d{4}\.\d\d?\.\d\d?)"
    r"(?:[T ]\s*(?P<time>\d\d?:\d\d(?::\d\d(?:[.,]\d+)?)?)\s*(?P<zone>Z|UTC|GMT|[+-]\d\d(?::?\d\d)?(?::\d\d)?)?"
    r"(?:\[(?P<place>[\w/+-]+)\])?)?",
    re.IGNORECASE,
)
_COMPACT = re.compile(r"\d{8}T\d{4,6}(?:\.\d+)?(?:Z|[+-]\d{2}:?\d{2})?")
_MAIL = re.compile(r"(?:[A-Za-z]{3},?\s+)?\d{1,2}\s+[A-Za-z]{3}\s+\d{4}\s+\d\d?:\d\d(?::\d\d)?(?:\s+(\S+))?(?:\s*\(.*\))?")
_MAIL_ZONES = frozenset(("UT", "UTC", "GMT", "Z", "EST", "EDT", "CST", "CDT", "MST", "MDT", "PST", "PDT", "AST", "ADT"))
"""Names that `email.utils` knows; it takes all others for UTC."""
_MONTH = re.compile(r"(\d{4})[-/](\d\d?)")
_DIGITS: dict[int, str] = {8: "%Y%m%d", 6: "%Y%m", 14: "%Y%m%d%H%M%S", 12: "%Y%m%d%H%M", 4: "%Y"}
_NAMED = (
    "%a %b %d %H:%M:%S %Y",
    "%a %b %d %H:%M:%S %z %Y",
    "%a %b %d %H:%M:%S UTC %Y",
    "%d %B %Y",
    "%d %b %Y",
    "%B %d, %Y",
    "%b %d, %Y",
)


def parse_timestamp(value: Any) -> datetime | None:
    """A moment in UTC, to the microsecond; None for a missing value (None, NaN, "").

    Args:
        value: a number, text, a date or a datetime, as the module describes them.

    Raises:
        Unusable: BAD_TIMESTAMP.
    """
    try:
        match value:
            case None:
                return None
            case bool():
                raise ValueError("a truth value is no moment")
            case float() if math.isnan(value):
                return None
            case int() | float() | Decimal():
                return _of_number(value)
            case str():
                return None if value.strip().lower() in MISSING else _of_text(value.strip())
            case datetime():
                return _plausible(value)
            case date():
                return _plausible(datetime(value.year, value.month, value.day))
            case _:
                raise ValueError(f"of type {type(value).__name__}")
    except (ValueError, OverflowError, ArithmeticError) as error:
        raise Unusable(Reason.BAD_TIMESTAMP, f"{shorten(value)}: {error}") from None


def _of_number(value: int | float | Decimal) -> datetime:
    if value == int(value) and (written := _of_digits(str(int(value)), (8, 6, 4))):
        return written
    number = Fraction(value)
    per_second = next((factor for size, factor in _SIZES if abs(number) < size), None)
    if per_second is None:
        raise ValueError("too large for nanoseconds since 1970")
    moment = EPOCH + timedelta(microseconds=int(number * 10**6 / per_second))
    if moment.year not in EPOCH_YEARS:
        raise ValueError(f"since 1970 this is the year {moment.year}")
    return moment


def _of_text(text: str) -> datetime:
    if re.fullmatch(r"[+-]?\d+(\.\d*)?", text):
        if written := _of_digits(text, tuple(_DIGITS)):
            return written
        number = Decimal(text)
        if text.lstrip("+-").partition(".")[0].lstrip("0") and abs(number) < 10**8:
            raise ValueError("neither a date nor a time since 1970")
        return _of_number(number)
    if found := _ISO.fullmatch(text):
        if found["place"] and not found["zone"] and found["place"].upper() not in ("UTC", "GMT", "Z"):
            raise ValueError(f"the zone [{found['place']}] without an offset such as +01:00")
        day = "-".join(part.zfill(2) for part in re.split(r"[-/.]", found["day"]))
        zone = (found["zone"] or "").upper().replace("UTC", "+00:00").replace("GMT", "+00:00").replace("Z", "+00:00")
        time = (found["time"] or "00:00").replace(",", ".")
        hours, _, rest = time.partition(":")
        return _plausible(datetime.fromisoformat(f"{day}T{hours.zfill(2)}:{rest}{zone}"))
    if found := _MONTH.fullmatch(text):
        return _plausible(datetime(int(found[1]), int(found[2]), 1))
    if _COMPACT.fullmatch(text) or re.match(r"\d{4}-W\d\d", text):
        return _plausible(datetime.fromisoformat(text))
    if found := _MAIL.fullmatch(text):
        if (zone := (found[1] or "").strip("()")) and zone.isalpha() and zone.upper() not in _MAIL_ZONES:
            raise ValueError(f"the zone {zone!r} is not known, write an offset such as +0100")
        return _plausible(parsedate_to_datetime(text))
    for form in _NAMED:
        if moment := _strptime(re.sub(r"\s+", " ", text), form):
            return _plausible(moment)
    raise ValueError("no form of date that is known (ISO 8601, a mail date, seconds to nanoseconds since 1970)")


def _of_digits(digits: str, lengths: tuple[int, ...]) -> datetime | None:
    """A date that is written as digits: its length and a plausible year tell it from a count of seconds."""
    form = _DIGITS.get(len(digits)) if digits.isdecimal() and len(digits) in lengths else None
    moment = _strptime(digits, form) if form else None
    plausible = EPOCH_YEARS if len(digits) != 4 else YEARS
    return moment.replace(tzinfo=UTC) if moment and moment.year in plausible else None


def _strptime(text: str, form: str) -> datetime | None:
    try:
        return datetime.strptime(text, form)
    except ValueError:
        return None


def _plausible(moment: datetime) -> datetime:
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    if moment.year not in YEARS:
        raise ValueError(f"the year {moment.year} is not plausible")
    return moment
