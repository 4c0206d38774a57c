"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Preset = Annotated[str, typer.Argument(help="Name of a preset (see `palimpsest presets`) or path of a TOML file.")]
Corpus = Annotated[str, typer.Argument(help="The corpus: a directory, or s3://bucket/prefix.")]
Sources = Annotated[list[str] | None, typer.Option("--source", "-s", help="File, folder, glob or URI; may be repeated.")]
Out = Annotated[str | None, typer.Option("--out", "-o", help="The corpus to write.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Override a setting: section.key=value; may be repeated.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Share = Annotated[float, typer.Option(help="Share of the pages, chosen by page id.")]
Strict = Annotated[bool, typer.Option("--strict", help="Fail where a field that was set occurs in no document.")]
Write = Annotated[Path | None, typer.Option(help="Also write the result to this folder, as Markdown and JSON.")]
Text = Annotated[Path | None, typer.Option(help="A file of text to use instead of invented prose.")]
