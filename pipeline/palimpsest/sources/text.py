"""Text files: one document each."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from palimpsest.config import SourceConfig
from palimpsest.sources.documents import Document, Reason, Rejected, Unusable, excerpt, undecodable
from palimpsest.sources.fields import build_document, reject
from palimpsest.sources.objects import SourceObject
from palimpsest.sources.streams import read_bytes
from palimpsest.sources.units import Unit

_MARKS = {  # byte-order marks, the longer ones first
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
_OTHER_FORMATS = {
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"%PDF-": "a PDF",
    b"PK\x03\x04": "a zip archive",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"\x7fELF": "a program",
}
_FEWEST_BYTES = 16  # by which an encoding is judged
_PADDING = re.compile(b"\\0{8,}")
_ZEROS_OF_UTF16 = 0.3  # Latin text in UTF-16 has a zero in half of its bytes, text in UTF-8 in none


class TextSource:
    """`.txt` and `.md`. Where UTF-8 is configured, a byte-order mark decides the encoding; it is no part of the text.

    An object is one unit, whatever its size: a document is not divided before it is laid out.
    """

    extensions = (".txt", ".md")

    def plan(self, item: SourceObject, config: SourceConfig) -> list[Unit]:
        return [Unit(object=item)]

    def read(self, unit: Unit, config: SourceConfig) -> Iterator[Document | Rejected]:
        head = bytearray()
        try:
            yield build_document({}, unit.object, config, text=_decode(unit.object, config, head))
        except Unusable as problem:
            yield reject(problem, unit.object, record=bytes(head))


def marked_encoding(head: bytes) -> str | None:
    """The encoding that the byte-order mark at the beginning of an object tells, if there is one."""
    return next((encoding for mark, encoding in _MARKS.items() if head.startswith(mark)), None)


def refuse_other_format(head: bytes) -> None:
    """Raise Unusable where the first bytes of an object are those of another format than its name tells."""
    found = next((name for magic, name in _OTHER_FORMATS.items() if head.startswith(magic)), None)
    if found:
        raise Unusable(Reason.OTHER_FORMAT, f"it begins as {found} does, and its name tells another format", excerpt(head))


def looks_like_utf16(head: bytes) -> bool:
    """Whether bytes without a byte-order mark are UTF-16 or UTF-32 all the same, judging by their zeros.

    A few bytes prove nothing: a short text may hold a NUL. Nor do long runs of zeros, which a writer that crashed leaves.
    """
    head = _PADDING.sub(b"", head)
    return len(head) >= _FEWEST_BYTES and max(head[0::2].count(0), head[1::2].count(0)) > _ZEROS_OF_UTF16 * len(head)


def _decode(item: SourceObject, config: SourceConfig, head: bytearray) -> str:
    """The text of an object, decoded while it is read; `head` receives its first bytes.

    Raises:
        Unusable: for whatever is wrong, TOO_LARGE before more than the bound is held.
    """
    pieces: list[str] = []
    chars = position = 0
    decoder: codecs.IncrementalDecoder | None = None
    encoding = config.charset
    for chunk in with_head(read_bytes(item, config)):
        if decoder is None:
            head += excerpt(chunk)
            refuse_other_format(chunk)
            marked = marked_encoding(chunk) if config.is_utf8 else None
            if marked is None and config.is_utf8 and looks_like_utf16(chunk[:4096]):
                raise Unusable(Reason.UTF16_DETECTED, "zeros as in UTF-16, but no byte-order mark that tells its byte order")
            encoding = marked or config.charset
            decoder = codecs.getincrementaldecoder(encoding)()
        pieces.append(_step(decoder, chunk, encoding, position))
        position += len(chunk)
        chars += len(pieces[-1])
        if chars > config.max_document_chars:
            raise Unusable(Reason.TOO_LARGE, f"more than source.max_document_chars = {config.max_document_chars} characters")
    if decoder is not None:
        pieces.append(_step(decoder, b"", encoding, position, final=True))
    return "".join(pieces)


def with_head(chunks: Iterator[bytes], size: int = 4096) -> Iterator[bytes]:
    """The same bytes, with a first chunk of at least `size` where there are as many, to judge the content by."""
    head, problem = b"", None
    try:
        while len(head) < size and (chunk := next(chunks, b"")):
            head += chunk
    except Unusable as error:
        problem = error
    if head:
        yield head
    if problem:
        raise problem
    yield from chunks


def _step(decoder: codecs.IncrementalDecoder, chunk: bytes, encoding: str, position: int, final: bool = False) -> str:
    kept = decoder.getstate()[0]  # bytes of a character that the last chunk began
    try:
        return decoder.decode(chunk, final)
    except UnicodeDecodeError as error:
        raise undecodable(error, encoding, kept + chunk, position - len(kept) + error.start) from None
