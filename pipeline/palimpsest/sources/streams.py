"""An object as bytes. What the storage did wrong comes out as `Unusable`, with a reason of the storage's group."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from palimpsest.sources.decompression import COMPRESSIONS, decompress
from palimpsest.sources.documents import Reason, Unusable
from palimpsest.sources.objects import UNREAD, SourceObject
from palimpsest.storage.s3_client import CHANGED, MISSING, S3Error, parse_uri
from palimpsest.storage.s3_stream import S3Stream

CHUNK_BYTES = 1 << 18
_S3_REASONS = dict.fromkeys(MISSING, Reason.VANISHED) | dict.fromkeys(CHANGED, Reason.CHANGED)
_S3_REASONS |= dict.fromkeys(("AccessDenied", "403", "InvalidObjectState"), Reason.UNREADABLE)


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
        else:
            bucket, key = parse_uri(item.key)
            yield cast(BinaryIO, S3Stream(bucket, key, item.size, f'"{item.version.removeprefix("etag:")}"'))
    except FileNotFoundError as error:
        raise Unusable(Reason.VANISHED, f"{item.uri}: {error.strerror}") from error
    except S3Error as error:
        if error.code not in _S3_REASONS:
            raise
        raise Unusable(_S3_REASONS[error.code], f"{item.uri}: {error.code}") from error
    except OSError as error:
        if item.is_local:
            raise Unusable(Reason.UNREADABLE, f"{item.uri}: {error.strerror or error}") from error
        raise


def read_bytes(item: SourceObject, start: int = 0) -> Iterator[bytes]:
    """The bytes of an object from `start` on, decompressed if its name says so (then `start` is 0).

    Raises:
        Unusable: as `opened` and `decompress` do, after everything that could be read.
    """
    suffix = compression(item.uri)
    stored = _stored_bytes(item, start)
    return decompress(stored, suffix) if suffix else stored


def compression(uri: str) -> str:
    """The suffix of the name that tells its compression, or ""."""
    suffix = os.path.splitext(uri)[1].lower()
    return suffix if suffix in COMPRESSIONS else ""


def _stored_bytes(item: SourceObject, start: int) -> Iterator[bytes]:
    with opened(item) as file:
        if start:
            file.seek(start)
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _check_local(item: SourceObject) -> None:
    status = os.stat(item.key)
    if not stat.S_ISREG(status.st_mode):
        raise Unusable(Reason.UNREADABLE, f"{item.uri} is not a regular file")
    if item.version != UNREAD and status.st_size != item.size:
        raise Unusable(Reason.CHANGED, f"{item.uri} has {status.st_size} bytes; it had {item.size} when it was listed")
