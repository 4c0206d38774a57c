"""Tables of strict TOML into frozen dataclasses: a setting that is unknown or of another type is an error that names it."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import date
from typing import Any

DATE = "date"  # in a field's metadata: a text that TOML may give as a date, without quotation marks


class ConfigError(ValueError):
    """A setting is unknown, of the wrong type or out of range; the message names it, its value and the choices."""


def build(cls: type, table: Mapping[str, Any], path: str = "") -> Any:
    """The dataclass that `table` describes, sections within sections.

    Args:
        path: of the section, with a dot behind it, for messages.

    Raises:
        ConfigError: naming the setting, the value and the choices.
    """
    known = typing.get_type_hints(cls)
    dated = {field.name for field in fields(cls) if DATE in field.metadata}
    values: dict[str, Any] = {}
    for name, value in table.items():
        where = f"{path}{name}"
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {path}{near[0]}?" if near else f"choose one of {', '.join(path + k for k in known)}"
            raise ConfigError(f"unknown setting {where} = {value!r}; {hint}")
        if name in dated and isinstance(value, date):  # a datetime is one too
            value = value.isoformat()
        values[name] = _convert(known[name], value, where)
    try:
        return cls(**values)
    except ConfigError:
        raise
    except ValueError as error:  # of a section that checks itself; it does not know what it is called here
        raise ConfigError(f"{path}{error}") from error


def _convert(kind: Any, value: Any, where: str) -> Any:
    if is_dataclass(kind):
        if not isinstance(value, dict):
            raise ConfigError(f"{where} = {value!r}: expected a section with {', '.join(f.name for f in fields(kind))}")
        return build(typing.cast(type, kind), value, f"{where}.")
    if typing.get_origin(kind) is tuple:
        item_kind = typing.get_args(kind)[0]
        if is_dataclass(item_kind):
            if not isinstance(value, list):
                raise ConfigError(f"{where} = {value!r}: expected a list of tables")
            return tuple(_convert(item_kind, item, f"{where}[{place}]") for place, item in enumerate(value))
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise ConfigError(f"{where} = {value!r}: expected a list of strings")
        return tuple(value)
    if isinstance(kind, types.UnionType):
        kinds = [k for k in typing.get_args(kind) if k is not type(None)]
        return value if value is None else _convert(kinds[0], value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise ConfigError(f"{where} = {value!r}: expected {kind.__name__}, not {type(value).__name__}")
    return value
