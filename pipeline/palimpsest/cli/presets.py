"""`palimpsest presets`: the presets that come with Palimpsest, one of them with comments, and the reference of all settings."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palimpsest.cli.console import explained, out, pairs, print_json
from palimpsest.cli.options import Json

if TYPE_CHECKING:
    from palimpsest.settings import Settings


def presets(
    name: Annotated[str | None, typer.Argument(help="Print this preset, or a TOML file, as TOML with comments.")] = None,
    reference: Annotated[bool, typer.Option("--reference", help="Print the reference of all settings as Markdown.")] = False,
    as_json: Json = False,
) -> None:
    """List the presets that come with Palimpsest, or print one with every setting and what it does.

    palimpsest presets local > mine.toml
    """
    from palimpsest.config import parse
    from palimpsest.settings import preset_names, read_preset, to_json

    with explained():
        if reference:
            sys.stdout.write(settings_page())
        elif name is None:
            found = {preset: _first_line(read_preset(preset)[1]) for preset in preset_names()}
            print_json(found) if as_json else out.print(pairs("presets", found))
        else:
            table, text = read_preset(name)
            kind = _kind(name, table)
            if kind is None:
                sys.stdout.write(text)
            elif as_json:
                print_json(to_json(parse(table, (), kind)))
            else:
                sys.stdout.write(commented(table, kind, _header(text)))


def commented(table: dict[str, Any], kind: type[Settings], header: str = "") -> str:
    """A preset as TOML that `config.load` reads: its own settings, and every other as a comment with its default.

    Args:
        table: the preset's parsed TOML.
        header: comment lines to begin with.
    """
    from palimpsest.settings import parse, to_json, toml_line

    config = parse(table, (), kind)
    values, lines = to_json(config), [header] if header else []

    def entries(section: type[Settings], given: dict[str, Any], shown: dict[str, Any]) -> Iterator[str]:
        for name, field in section.model_fields.items():
            if isinstance(shown[name], dict):
                continue
            yield from textwrap.wrap(field.description or "", 110, initial_indent="# ", subsequent_indent="# ")
            line = toml_line(name, "" if shown[name] is None else shown[name])
            yield line if name in given else f"#{line}"

    lines += entries(kind, table, values)
    for name, section in kind.sections().items():
        lines += ["", *textwrap.wrap(_summary(section), 110, initial_indent="# ", subsequent_indent="# "), f"[{name}]"]
        lines += entries(section, table.get(name, {}), values[name])
    return "\n".join(lines) + "\n"


def settings_page() -> str:
    """The reference of all settings as Markdown, from the models: docs/settings.md."""
    from palimpsest.config import JobConfig
    from palimpsest.operations.conversations.settings import MemoryConfig

    lines = [
        "# Settings",
        "",
        "Every setting of a job, from the models in `pipeline/palimpsest/config.py`. This page is printed by",
        "`palimpsest presets --reference`; change the models, not the page. A preset is a TOML file with any of them, and",
        "`--set section.key=value` overrides one. Sizes in bytes may have a unit: `64KB` is 64,000 bytes, `64KiB` 65,536.",
        "",
        "`[limits]`, `[placement]` and `[ingest]` do not change a byte of a corpus; the other sections are part of its",
        "fingerprint.",
        "",
    ]
    sections: dict[str, type[Settings]] = {"": JobConfig, **JobConfig.sections(), **MemoryConfig.sections()}
    for name, section in sections.items():
        settings = [(key, field) for key, field in section.model_fields.items() if key not in section.sections()]
        lines += [f"## [{name}]" if name else "## Top level", "", _summary(section), ""]
        if name == "conversations":
            lines += ["Only of `palimpsest conversations`.", ""]
        lines += ["| setting | type | default | |", "|---|---|---|---|"]
        described = section.model_json_schema(mode="validation")["properties"]
        for key, field in settings:
            default = "" if field.default is None else f"`{_toml_value(field.default)}`"
            text = " ".join((field.description or "").split()).replace("|", "\\|")
            lines.append(f"| `{key}` | {_type(described[key])} | {default} | {text} |")
        lines.append("")
    return "\n".join(lines)


def _type(schema: dict[str, Any]) -> str:
    """A JSON schema in words."""
    if "anyOf" in schema:
        return _type(schema["anyOf"][0]) + " or nothing"
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    if schema.get("type") == "array":
        return "list of texts"
    low, high = schema.get("minimum"), schema.get("maximum")
    name = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}.get(schema["type"], "")
    name = "bytes" if schema.get("format") == "bytes" else name
    return f"{name}, {low:g} to {high:g}" if high is not None else f"{name}, at least {low:g}" if low is not None else name


def _toml_value(value: Any) -> str:
    from palimpsest.settings import toml_line

    return toml_line("", list(value) if isinstance(value, tuple) else value).removeprefix(" = ")


def _kind(name: str, table: dict[str, Any]) -> type[Settings] | None:
    """The model of a preset's settings; None for the training of the codec, which is lab code."""
    from palimpsest.config import JobConfig
    from palimpsest.operations.conversations.settings import MemoryConfig

    if "blends" in table:
        return None
    return MemoryConfig if "conversations" in (name, *table) else JobConfig


def _summary(section: type[Settings]) -> str:
    return " ".join((section.__doc__ or "").split())


def _header(text: str) -> str:
    """The comment lines at the beginning of a preset."""
    lines = text.splitlines()
    return "\n".join(lines[: next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))])


def _first_line(text: str) -> str:
    return text.partition("\n")[0].lstrip("# ")
