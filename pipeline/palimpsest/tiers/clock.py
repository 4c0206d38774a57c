"""Durations, dates and ages. The time is a setting (`tiers.as_of`, `--as-of`), so that the same input gives the same pages."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from palimpsest.config import ConfigError

_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400, "mo": 30 * 86_400, "y": 365 * 86_400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")


def parse_duration(text: str, setting: str) -> timedelta:
    """`"90min"`, `"1d"`, `"1.5y"` as a duration; a month (mo) has 30 days, a year (y) 365.

    Raises:
        ConfigError: naming the setting, the value and the units.
    """
    match = _DURATION.fullmatch(text.strip())
    if not match or match[2] not in _UNITS:
        raise ConfigError(f"{setting} = {text!r}: expected a number and one of {', '.join(_UNITS)}, for example 30d")
    try:
        return timedelta(seconds=float(match[1]) * _UNITS[match[2]])
    except OverflowError as error:
        raise ConfigError(f"{setting} = {text!r}: longer than any clock runs") from error


def parse_as_of(text: str, setting: str = "tiers.as_of") -> datetime:
    """A date or a time in ISO 8601; UTC if it names no zone, midnight if it names no time.

    Raises:
        ConfigError: naming the setting and the value.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"{setting} = {text!r}: expected a date or time such as 2026-01-31 or 2026-01-31T12:00Z") from error


def age_of(timestamp: datetime | None, as_of: datetime | None) -> timedelta | None:
    """The age of a page; None if it is unknown. A time in the future counts as now."""
    if timestamp is None or as_of is None:
        return None
    if timestamp.tzinfo is None:
        timestamp = timestamp.replace(tzinfo=UTC)
    return max(as_of - timestamp, timedelta(0))
