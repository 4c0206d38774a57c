"""The settings of the sources."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, fields

MIB = 1 << 20
FORMATS = ("auto", "text", "jsonl", "parquet")


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Which fields of a record mean what, and the bounds.

    The text field is required. The others are optional: absent or null is null; present and unusable quarantines the record.

    Attributes:
        format: "auto" goes by the file name; any other treats every object as that format.
        encoding: of text files and JSON lines; one in which a line feed is the byte 0x0A.
        unit_bytes: size of the slices of a big object, in its stored bytes.
        max_document_chars: a longer document is quarantined as "too_large", without being held.

    Raises:
        ValueError: naming the setting, its value and the choices.
    """

    text_field: str = "text"
    id_field: str = "id"
    timestamp_field: str = "timestamp"
    importance_field: str = "importance"
    class_field: str = "text_class"
    encoding: str = "utf-8"
    format: str = "auto"
    unit_bytes: int = 64 * MIB
    max_document_chars: int = 256 * MIB

    def __post_init__(self) -> None:
        names = [(field.name, getattr(self, field.name)) for field in fields(self) if field.name.endswith("_field")]
        for name, value in names:
            if not value:
                raise ValueError(f"{name} is empty; it must name a field of the records")
            if [other for _, other in names].count(value) > 1:
                raise ValueError(f"{name}={value!r} is the field of another setting too; each field can mean one thing")
        if self.format not in FORMATS:
            raise ValueError(f"format={self.format!r} is unknown; choose one of {', '.join(FORMATS)}")
        for name in ("unit_bytes", "max_document_chars"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        try:
            line_feed = "\n".encode(self.encoding)  # refuses codecs that are no text encodings, such as base64
        except LookupError:
            raise ValueError(f"encoding={self.encoding!r} is unknown; use a name such as utf-8 or latin-1") from None
        if line_feed != b"\n":
            raise ValueError(f"encoding={self.encoding!r} does not contain ASCII; UTF-16 text is known by its byte-order mark")

    @property
    def is_utf8(self) -> bool:
        return codecs.lookup(self.encoding).name == "utf-8"
