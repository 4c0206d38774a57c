"""The base of every settings model: checked types, TOML in and out, and errors that name the setting, its value and the choices.

`config.py` has the settings of a job. Types, ranges and choices are part of a model's annotations, and the text under a field
is its documentation: `palimpsest presets NAME` and docs/settings.md are printed from both.
"""

from __future__ import annotations

import copy
import difflib
import json
import pathlib
import re
import tomllib
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, InstanceOf, ValidationError, WithJsonSchema

from palimpsest.errors import UsageError


class ConfigError(UsageError):
    """A setting is unknown, of the wrong type or out of range; the message names it, its value and the choices."""


UNITS = {"": 1, "B": 1} | {f"{p}{end}": base**n for end, base in (("B", 1000), ("iB", 1024)) for n, p in enumerate("KMGT", 1)}


def _bytes(value: Any) -> Any:
    """A size such as "64KB" or "1.5 GiB" in bytes; anything but text as it is."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", value)
    unit = next((factor for name, factor in UNITS.items() if found and name.lower() == found[2].lower()), None)
    if found is None or unit is None:
        raise ValueError(
            f"expected bytes, as a number or as text such as 64KB (1,000 bytes each) or 64MiB (1,024² each); not {value!r}"
        )
    return int(float(found[1]) * unit)


Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Number = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
Size = Annotated[int, BeforeValidator(_bytes), Field(ge=1, json_schema_extra={"format": "bytes"})]
SizeOrNone = Annotated[int, BeforeValidator(_bytes), Field(ge=0, json_schema_extra={"format": "bytes"})]
Texts = Annotated[tuple[str, ...], Field(strict=False)]
Path = Annotated[InstanceOf[str], WithJsonSchema({"type": "string"})]  # pydantic's own text refuses names that are not UTF-8
Paths = Annotated[tuple[Path, ...], Field(strict=False)]
Date = Annotated[str, BeforeValidator(lambda value: value.isoformat() if isinstance(value, date) else value)]


class Settings(BaseModel):
    """A frozen model that refuses unknown settings and wrong types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    @classmethod
    def sections(cls) -> dict[str, type[Settings]]:
        """The models of the sections, by name."""
        found = {name: field.annotation for name, field in cls.model_fields.items()}
        return {name: model for name, model in found.items() if isinstance(model, type) and issubclass(model, Settings)}

    def replace(self, **changes: Any) -> Self:
        """The same settings with some changed, checked again.

        Args:
            changes: values by name; for a section a mapping of what changes in it: `config.replace(tiers={"mode": "small"})`.

        Raises:
            ConfigError: naming the setting, its value and the choices.
        """
        values = {name: getattr(self, name) for name in type(self).model_fields}
        for name, value in changes.items():
            section = values.get(name)
            values[name] = section.replace(**value) if isinstance(section, Settings) and isinstance(value, Mapping) else value
        return check(type(self), values)


Kind = TypeVar("Kind", bound=Settings)


def check(kind: type[Kind], table: Mapping[str, Any]) -> Kind:
    """The settings that a table describes, sections within sections.

    Raises:
        ConfigError: naming every setting that is wrong, its value and the choices.
    """
    try:
        return kind.model_validate(dict(table))
    except ValidationError as error:
        complaints = dict.fromkeys(_complaint(kind, table, found) for found in error.errors())
        raise ConfigError("\n".join(complaints)) from None


def parse(settings: Mapping[str, Any], overrides: Iterable[str], kind: type[Kind]) -> Kind:
    """Settings from parsed TOML and `key=value` overrides.

    An override's value is TOML where it parses as TOML, else the text itself: `tiers.mode=small`, `verification.share=0.1`.

    Raises:
        ConfigError: naming the setting, its value and the choices.
    """
    merged = copy.deepcopy(dict(settings))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override!r}: expected key=value, for example tiers.mode=small")
        *sections, name = key.strip().split(".")
        table = merged
        for section in sections:
            table = table.setdefault(section, {})
            if not isinstance(table, dict):
                raise ConfigError(f"--set {override!r}: {section!r} is a setting, not a section")
        try:
            table[name] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            table[name] = text
    return check(kind, merged)


def _complaint(kind: type[Settings], table: Any, found: Any) -> str:
    """One error of pydantic in the words of a user of TOML."""
    path, problem, bounds = found["loc"], found["type"], found.get("ctx", {})
    if path and isinstance(path[-1], int) and problem in ("string_type", "is_instance_of"):
        path, problem = path[:-1], "tuple_type"
    where = ".".join(str(part) for part in path).replace(".[", "[")
    where = re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", where)
    if problem == "missing":
        return f"{where} is missing; choose a value for it"
    value = table
    for part in path:
        value = getattr(value, str(part)) if isinstance(value, Settings) else value[part]
    if problem == "extra_forbidden":
        parent, _, name = where.rpartition(".")
        section, prefix = _section(kind, path[:-1]), f"{parent}." if parent else ""
        near = difflib.get_close_matches(name, section.model_fields, 1)
        hint = (
            f"did you mean {prefix}{near[0]}?" if near else f"choose one of {', '.join(prefix + k for k in section.model_fields)}"
        )
        return f"unknown setting {where} = {value!r}; {hint}"
    if problem == "value_error":
        section_or_top = not path or isinstance(value, Mapping | Settings)
        return f"{where}{'.' if where else ''}{bounds['error']}" if section_or_top else f"{where} = {value!r}: {bounds['error']}"
    return f"{where} = {value!r}: {_expected(kind, path, problem, bounds, value)}"


def _expected(kind: type[Settings], path: tuple[int | str, ...], problem: str, bounds: Mapping[str, Any], value: Any) -> str:
    types = {"int": "int", "float": "float", "bool": "bool", "string": "str", "is_instance_of": "str"}
    if problem in ("model_type", "model_attributes_type"):
        return f"expected a section with {', '.join(_section(kind, path).model_fields)}"
    if problem == "tuple_type":
        return f"expected a list of {'tables' if _section(kind, path) is not kind else 'strings'}"
    if problem == "literal_error":
        return f"choose {bounds['expected'].replace(chr(39), '')}"
    if problem in ("greater_than_equal", "less_than_equal", "finite_number"):
        limits = _limits(kind, path)
        return (
            "a share lies between 0 and 1"
            if limits == (0, 1)
            else f"at least {bounds['ge']}"
            if "ge" in bounds
            else f"at most {bounds['le']}"
        )
    name = next((types[start] for start in types if problem.startswith(start)), None)
    return f"expected {name}, not {type(value).__name__}" if name else problem.replace("_", " ")


def _field(kind: type[Settings], path: tuple[int | str, ...]) -> Any:
    """The field that a path leads to."""
    *sections, name = [part for part in path if isinstance(part, str)]
    return _section(kind, tuple(sections)).model_fields[name]


def _limits(kind: type[Settings], path: tuple[int | str, ...]) -> tuple[Any, Any]:
    found = _field(kind, path).metadata
    return next((m.ge for m in found if hasattr(m, "ge")), None), next((m.le for m in found if hasattr(m, "le")), None)


def _section(kind: type[Settings], path: tuple[int | str, ...]) -> type[Settings]:
    """The model of a section; where a path ends at a setting, the model that has it."""
    for part in path:
        if isinstance(part, str) and part in kind.model_fields:
            annotation = kind.model_fields[part].annotation
            inner = next((a for a in (annotation, *getattr(annotation, "__args__", ())) if _is_model(a)), None)
            kind = inner or kind
    return kind


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Settings)


def to_json(config: Settings) -> dict[str, Any]:
    """Everything, as plain JSON values."""
    return json.loads(json.dumps(config.model_dump()))


def toml_line(name: str, value: Any) -> str:
    """One setting as TOML, without a line end.

    TOML has no way to write bytes of a file name that are not UTF-8; they are written as the escapes that Python shows for them.
    """
    text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"{name} = " + re.sub("[\ud800-\udfff]", lambda lone: f"\\\\u{ord(lone[0]):04x}", text)


def to_toml(config: Settings) -> str:
    """The settings as TOML that `parse` reads back, for the run record."""
    settings = to_json(config)
    top = "".join(toml_line(k, v) + "\n" for k, v in settings.items() if not isinstance(v, dict))
    sections = (
        f"\n[{name}]\n" + "".join(toml_line(k, v) + "\n" for k, v in table.items() if v is not None)
        for name, table in settings.items()
        if isinstance(table, dict)
    )
    return top + "".join(sections)


def read_preset(preset: str) -> tuple[dict[str, Any], str]:
    """The tables of a preset and its text. Raises ConfigError like `load`.

    Relative sources of a preset that comes with Palimpsest are in the folder of the presets.
    """
    path = pathlib.Path(preset) if preset.endswith(".toml") else presets_folder() / f"{preset}.toml"
    if not path.is_file():
        raise ConfigError(f"preset {preset!r}: no such file; presets that come with Palimpsest: {', '.join(preset_names())}")
    try:
        text = path.read_text("utf-8")
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"preset {path}: {error}") from error
    if not preset.endswith(".toml") and "sources" in table:
        table["sources"] = [str(presets_folder() / source) for source in table["sources"]]
    return table, text


def presets_folder() -> pathlib.Path:
    """Folder of the presets that come with Palimpsest."""
    return pathlib.Path(__file__).parent / "presets"


def preset_names() -> list[str]:
    """Names of the presets that come with Palimpsest."""
    return sorted(path.stem for path in presets_folder().glob("*.toml"))
