"""An object as bytes: stored, or decompressed by its content, within the limits of what it may unfold to."""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from palimpsest.config import SourceConfig
from palimpsest.sources import remote_objects
from palimpsest.sources.decompression import COMPRESSIONS, decompress
from palimpsest.sources.documents import Reason, Unusable
from palimpsest.sources.objects import UNREAD, SourceObject
from palimpsest.storage.s3_client import CHANGED, MISSING, S3Error, parse_uri
from palimpsest.storage.s3_stream import S3Stream

CHUNK_BYTES = 1 << 18
MAGIC_BYTES = 16
_S3_REASONS = dict.fromkeys(MISSING, Reason.VANISHED) | dict.fromkeys(CHANGED, Reason.CHANGED)
_S3_REASONS |= dict.fromkeys(("AccessDenied", "403", "InvalidObjectState"), Reason.UNREADABLE)
_MAGIC = {
    ".gz": re.compile(rb"\x1f\x8b\x08"),
    ".bz2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    ".xz": re.compile(rb"\xfd7zXZ\x00"),
    ".zst": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", re.DOTALL),
}


@contextmanager
def opened(item: SourceObject) -> Iterator[BinaryIO]:
    """The stored bytes of an object, seekable and not decompressed.

    Raises:
        Unusable: VANISHED, CHANGED or UNREADABLE, also while the body reads from it. A remote service that is down or refuses
            everybody is no property of the object: its exception goes through, and a rerun reads the object.
    """
    try:
        if item.is_local:
            _check_local(item)
            with open(item.key, "rb") as file:
                yield file
        elif not item.key.startswith("s3://"):
            with remote_objects.REMOTE.opened(item) as remote:
                yield remote
        else:
            bucket, key = parse_uri(item.key)
            yield cast(BinaryIO, S3Stream(bucket, key, item.size, f'"{item.version.removeprefix("etag:")}"'))
    except FileNotFoundError as error:
        raise Unusable(Reason.VANISHED, f"{item.uri}: {error.strerror or 'no such object'}") from error
    except remote_objects.Changed as error:
        raise Unusable(Reason.CHANGED, f"{item.uri}: it is no longer what was listed") from error
    except S3Error as error:
        if error.code not in _S3_REASONS:
            raise
        raise Unusable(_S3_REASONS[error.code], f"{item.uri}: {error.code}") from error
    except OSError as error:
        if item.is_local:
            raise Unusable(Reason.UNREADABLE, f"{item.uri}: {error.strerror or error}") from error
        raise


def read_bytes(item: SourceObject, config: SourceConfig) -> Iterator[bytes]:
    """The bytes of an object, decompressed where its first bytes say that they are compressed.

    Raises:
        Unusable: as `opened` and `decompress` do, after everything that could be read; UNFOLDS_TOO_FAR.
    """
    stored = read_stored(item)
    head = next(stored, b"")
    while head and len(head) < MAGIC_BYTES and (more := next(stored, b"")):
        head += more
    stored = itertools.chain([head] if head else [], stored)
    suffix = compression_of(item.uri, head)
    if not suffix:
        return stored
    return _bounded(decompress(stored, suffix, config.zstd_window), item, config)


def read_stored(item: SourceObject, start: int = 0) -> Iterator[bytes]:
    """The stored bytes of an object from `start` on. Raises Unusable as `opened`."""
    with opened(item) as file:
        if start:
            file.seek(start)
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def compression(uri: str) -> str:
    """The suffix of the name that tells its compression, or ""."""
    suffix = os.path.splitext(path_of(uri))[1].lower()
    return suffix if suffix in COMPRESSIONS else ""


def path_of(uri: str) -> str:
    """The URI without the query of an HTTP request, whose last step is no name."""
    return re.split(r"[?#]", uri)[0] if uri.startswith(("http://", "https://")) else uri


def compression_of(uri: str, head: bytes) -> str:
    """The compression of an object, by its first bytes; where they tell none, by its name, unless they are plain text."""
    found = next((suffix for suffix, magic in _MAGIC.items() if magic.match(head)), "")
    named = compression(uri)
    return found or ("" if named and _is_text(head[:MAGIC_BYTES]) else named)


def _is_text(head: bytes) -> bool:
    """Whether these first bytes are printable ASCII, as those of JSON, CSV and most prose are, and no damaged header."""
    return len(head) > 3 and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head)


def unfold_limit(item: SourceObject, config: SourceConfig) -> int:
    """Bytes that an object may unfold to."""
    return config.unfold_bytes + config.unfold_factor * item.size


def unfolds_too_far(reason: Reason, item: SourceObject, config: SourceConfig) -> Unusable:
    allowed = (
        f"{unfold_limit(item, config):,} bytes (source.unfold_bytes = {config.unfold_bytes:,}, plus "
        f"source.unfold_factor = {config.unfold_factor:,} times its {item.size:,} bytes)"
    )
    return Unusable(reason, f"it unfolds to more than {allowed}")


def _bounded(pieces: Iterable[bytes], item: SourceObject, config: SourceConfig) -> Iterator[bytes]:
    left = unfold_limit(item, config)
    for piece in pieces:
        left -= len(piece)
        if left < 0:
            raise unfolds_too_far(Reason.UNFOLDS_TOO_FAR, item, config)
        yield piece


def _check_local(item: SourceObject) -> None:
    status = os.stat(item.key)
    if not stat.S_ISREG(status.st_mode):
        raise Unusable(Reason.UNREADABLE, f"{item.uri} is not a regular file")
    if item.version != UNREAD and status.st_size != item.size:
        raise Unusable(Reason.CHANGED, f"{item.uri} has {status.st_size} bytes; it had {item.size} when it was listed")
