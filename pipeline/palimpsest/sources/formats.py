"""The seam of the room: what a format can do, and which format an object has."""

from __future__ import annotations

from palimpsest.config import SourceConfig
from palimpsest.sources import jsonl, parquet, text
from palimpsest.sources.decompression import COMPRESSIONS
from palimpsest.sources.streams import compression
from palimpsest.sources.units import Source

SOURCES: dict[str, Source] = {"text": text.TextSource(), "jsonl": jsonl.JsonlSource(), "parquet": parquet.ParquetSource()}


def format_of(uri: str, config: SourceConfig) -> Source | None:
    """The format that the settings or the name of an object tell; None where they tell none."""
    if config.format != "auto":
        return SOURCES[config.format]
    name = uri.lower().removesuffix(compression(uri))
    return next((source for source in SOURCES.values() if name.endswith(source.extensions)), None)


def supported_names() -> str:
    """For messages: the file names that have a format."""
    names = " ".join(extension for source in SOURCES.values() for extension in source.extensions)
    return f"{names}, each plain or followed by {' '.join(COMPRESSIONS)}"
