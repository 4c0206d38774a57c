"""The formats: what each can do, and which one an object has."""

from __future__ import annotations

from collections.abc import Callable

from palimpsest.config import SourceConfig
from palimpsest.sources import arrow, csv, jsonl, parquet, text
from palimpsest.sources.decompression import COMPRESSIONS
from palimpsest.sources.objects import SourceObject
from palimpsest.sources.streams import compression, path_of
from palimpsest.sources.units import Source

SOURCES: dict[str, Source] = {
    "text": text.TextSource(),
    "jsonl": jsonl.JsonlSource(),
    "parquet": parquet.ParquetSource(),
    "csv": csv.CsvSource(),
    "arrow": arrow.ArrowSource(),
}
COLUMNS: dict[str, Callable[[SourceObject, SourceConfig], list[str]]] = {
    "jsonl": jsonl.column_names,
    "parquet": parquet.column_names,
    "csv": csv.column_names,
    "arrow": arrow.column_names,
}


def format_of(uri: str, config: SourceConfig) -> Source | None:
    """The format that the settings or the name of an object tell; None where they tell none."""
    name = format_name(uri, config)
    return SOURCES[name] if name else None


def format_name(uri: str, config: SourceConfig) -> str:
    """The key in SOURCES of the format that the settings or the name of an object tell; "" where they tell none."""
    if config.format != "auto":
        return config.format
    last = path_of(uri).lower().removesuffix(compression(uri))
    return next((name for name, source in SOURCES.items() if last.endswith(source.extensions)), "")


def supported_names() -> str:
    """For messages: the file names that have a format."""
    names = " ".join(extension for source in SOURCES.values() for extension in source.extensions)
    return f"{names}, each plain or followed by {' '.join(COMPRESSIONS)}"
