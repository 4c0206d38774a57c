"""What a reader yields: a document, or a rejected record with its reason."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

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
    UTF16_DETECTED = "utf16_detected"  # UTF-16 or UTF-32 where it is not read: JSON lines, or text without a byte-order mark

    INVALID_JSON = "invalid_json"  # not JSON, or not an object
    INVALID_UTF8 = "invalid_utf8"
    UNDECODABLE = "undecodable"  # not of the byte-order mark's encoding, or of a configured one other than UTF-8
    LONE_SURROGATES = "lone_surrogates"  # a JSON escape such as \ud800 without its partner
    TOO_LARGE = "too_large"  # longer than max_document_chars

    MISSING_TEXT = "missing_text"
    NULL_TEXT = "null_text"
    NON_STRING_TEXT = "non_string_text"
    EMPTY_TEXT = "empty_text"
    BAD_ID = "bad_id"
    BAD_TIMESTAMP = "bad_timestamp"
    BAD_IMPORTANCE = "bad_importance"
    BAD_CLASS = "bad_class"

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
    """One text of the corpus. `source_id` is the corpus's own id; `doc_id` is a hash of the text."""

    doc_id: str
    source_id: str | None
    source_uri: str
    source_version: str
    text: str
    timestamp: datetime | None = None
    importance: float | None = None
    text_class: str | None = None


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


def excerpt(raw: bytes, around: int = 0) -> bytes:
    """At most QUARANTINE_BYTES of `raw`: from its beginning, or around the byte that is wrong."""
    start = max(0, min(around - QUARANTINE_BYTES // 2, len(raw) - QUARANTINE_BYTES))
    return bytes(raw[start : start + QUARANTINE_BYTES])
