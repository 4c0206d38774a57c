"""What a reader yields: a document, or a rejected record with its reason."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from palimpsest.schemas import QUARANTINE_BYTES


class Reason(StrEnum):
    """Why a record could not become a document. This is the whole list.

    Damage to a container (the first two groups) is one record, however many documents it hid: their number cannot be known.
    """

    UNSUPPORTED = "unsupported"  # a file of a folder whose name tells no format
    VANISHED = "vanished"  # listed, but gone when it was read
    CHANGED = "changed"  # its content is no longer what was listed
    UNREADABLE = "unreadable"  # permissions, a failing disk, not a regular file

    TRUNCATED = "truncated"  # a compressed stream ends too early; what came before it is kept
    CORRUPT_COMPRESSION = "corrupt_compression"  # a damaged stream, where its checksums show it; what came before is kept
    CORRUPT_PARQUET = "corrupt_parquet"  # the footer, or the rest of one row group; the other row groups are kept
    CORRUPT_ARROW = "corrupt_arrow"  # the schema, or the rest from one record batch on
    CORRUPT_CSV = "corrupt_csv"  # the header, or the rest from a quotation mark that never ends
    BAD_ROW = "bad_row"  # a row of CSV with more or fewer cells than columns
    OTHER_FORMAT = "other_format"  # its first bytes are those of Parquet, a PDF, …, and its name tells another format
    UTF16_DETECTED = "utf16_detected"  # UTF-16 or UTF-32 where it is not read: JSON lines, or text without a byte-order mark

    INVALID_JSON = "invalid_json"  # not JSON, or not an object
    INVALID_UTF8 = "invalid_utf8"
    UNDECODABLE = "undecodable"  # not of the byte-order mark's encoding, or of a configured one other than UTF-8
    LONE_SURROGATES = "lone_surrogates"  # a JSON escape such as \ud800 without its partner
    TOO_LARGE = "too_large"  # a document longer than max_document_chars, a table that decodes to more than it may
    UNFOLDS_TOO_FAR = "unfolds_too_far"  # a compressed object that unfolds to more than it may
    TOO_MANY_ROWS = "too_many_rows"  # more records than an object may unfold to
    WINDOW_TOO_LARGE = "window_too_large"  # a sound zstd stream that needs a bigger window than zstd_window

    MISSING_TEXT = "missing_text"
    NULL_TEXT = "null_text"
    NON_STRING_TEXT = "non_string_text"
    EMPTY_TEXT = "empty_text"
    BAD_ID = "bad_id"
    BAD_TIMESTAMP = "bad_timestamp"
    BAD_IMPORTANCE = "bad_importance"
    BAD_CLASS = "bad_class"
    BAD_EXTRA = "bad_extra"  # a value of source.carry
    METADATA_TOO_LONG = "metadata_too_long"  # an id, a class or a carried value longer than max_metadata_chars

    MISSING_COLUMN = "missing_column"  # a table without the text's column: one record for all its rows
    DOUBLED_KEY = "doubled_key"  # a JSON object that has a key several times, with different values
    DOUBLED_COLUMN = "doubled_column"  # a table in which a name that is read stands for two columns

    MOSTLY_BAD = "mostly_bad"  # so many records of an object are bad that the rest is not read

    WORKER_KILLED = "worker_killed"  # it ended every process that took it up, without an exception (flow/isolation.py)


class Unusable(Exception):
    """Something cannot become a document. A reader turns it into a `Rejected`; `record` holds the bytes where they are known."""

    def __init__(self, reason: Reason, detail: str, record: bytes = b"") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.record = record


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One text of the corpus.

    Attributes:
        doc_id: a hash of the text.
        source_id: the corpus's own id.
        extra: the values of `source.carry`, None for none.
        nulled: why optional metadata is null although the record has it (`source.bad_metadata`).
        present: the optional fields that the record has.
    """

    doc_id: str
    source_id: str | None
    source_uri: str
    source_version: str
    text: str
    timestamp: datetime | None = None
    importance: float | None = None
    text_class: str | None = None
    extra: dict[str, str] | None = None
    nulled: Sequence[Reason] = ()
    present: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejected:
    """A record that could not become a document, with at most QUARANTINE_BYTES of its bytes."""

    source_uri: str
    source_version: str
    source_id: str | None
    reason: Reason
    detail: str
    record: bytes


def document_id(text: str) -> str:
    """32 hex digits of the SHA-256 of the text's UTF-8 bytes.

    Raises:
        Unusable: lone surrogates, which have no UTF-8 bytes.
    """
    digest = hashlib.sha256(b"palimpsest document 1\n")
    digest.update(utf8(text))
    return digest.hexdigest()[:32]


def utf8(text: str) -> bytes:
    """Its UTF-8 bytes. Raises Unusable for lone surrogates."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise Unusable(Reason.LONE_SURROGATES, f"U+{code:04X} at character {error.start} is half of a surrogate pair") from None


def decode(raw: bytes, encoding: str) -> str:
    """Text of `raw`.

    Raises:
        Unusable: with the bytes around the first that is wrong.
    """
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise undecodable(error, encoding, raw, error.start) from None


def undecodable(error: UnicodeDecodeError, encoding: str, raw: bytes, offset: int) -> Unusable:
    """The reason for a decoding error at byte `offset` of a record whose bytes, or the part near the error, are `raw`."""
    reason = Reason.INVALID_UTF8 if error.encoding == "utf-8" else Reason.UNDECODABLE
    return Unusable(reason, f"{encoding}: {error.reason} at byte {offset}", excerpt(raw, error.start))


def shorten(value: Any) -> str:
    """A value for a message: at most 80 characters, ASCII, so that it fits any column."""
    try:
        shown = ascii(value[:80] if isinstance(value, (str, bytes, list)) else value)
    except (ValueError, RecursionError):  # integers of thousands of digits, records without end
        shown = f"a value of type {type(value).__name__}"
    return shown if len(shown) <= 80 else shown[:77] + "..."


def excerpt(raw: bytes, around: int = 0) -> bytes:
    """At most QUARANTINE_BYTES of `raw`: from its beginning, or around the byte that is wrong."""
    start = max(0, min(around - QUARANTINE_BYTES // 2, len(raw) - QUARANTINE_BYTES))
    return bytes(raw[start : start + QUARANTINE_BYTES])
