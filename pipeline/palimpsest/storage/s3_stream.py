"""Objects in S3 as seekable streams. Every read after the first names the ETag of the first, so that one stream never mixes two
versions."""

from __future__ import annotations

import io
from typing import Any

from palimpsest.storage.s3_client import CHANGED, Fetched, error_of, fetch, fetch_whole

FIRST_BYTES = 1 << 16  # the size and the ETag come with them
MOST_BYTES = 8 << 20  # read ahead at most, reached by doubling while the reads follow each other; smaller objects come whole


class S3Stream(io.RawIOBase):
    """An object as a seekable stream of ranged reads.

    No connection stays open between reads. The read-ahead begins with FIRST_BYTES and doubles up to MOST_BYTES while the reads
    are sequential. A jump starts small again, so Parquet costs about one request per column chunk. An object of up to MOST_BYTES
    with a known size and ETag is read whole, because a range has no checksum.

    Args:
        size, etag: of the object, if a listing gave them; otherwise the first read, done at once, gets them. An object of another
            size counts as replaced: the listing may be damaged, and nobody must read half an object.

    Raises:
        S3Error: from every read; `code` in CHANGED when the object was replaced meanwhile.
    """

    def __init__(self, bucket: str, key: str, size: int | None = None, etag: str | None = None) -> None:
        super().__init__()
        self.bucket, self.key = bucket, key
        self._at, self._ahead = 0, FIRST_BYTES
        self._start, self._window = 0, b""
        self._listed = size is not None and etag is not None
        if size is None or etag is None:
            first = self._fetch(0, FIRST_BYTES, None)
            self._window, self.size, self.etag = first.body, first.size, first.etag
        else:
            self.size, self.etag = size, etag

    def _fetch(self, start: int, length: int, etag: str | None) -> Fetched:
        return fetch(self.bucket, self.key, start, length, etag)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset}")
        self._at = base + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """`size` bytes, fewer only at the end of the object."""
        stop = self.size if size is None or size < 0 else min(self._at + size, self.size)
        if self._at >= stop:
            return b""
        end = self._start + len(self._window)
        have = self._window[self._at - self._start : stop - self._start] if self._start <= self._at < end else b""
        missing = stop - self._at - len(have)
        if missing:
            follows = self._at + len(have) == end
            self._ahead = min(2 * self._ahead, MOST_BYTES) if follows else FIRST_BYTES
            if self._listed and self.size <= MOST_BYTES:
                body = self._of_size(fetch_whole(self.bucket, self.key, self.etag))
                self._start, self._window = 0, body
                have, self._at = body[self._at : stop], stop
                return have
            start = self._at + len(have)
            body = self._of_size(self._fetch(start, min(max(missing, self._ahead), self.size - start), self.etag))
            have += body[:missing]
            self._start, self._window = (start, body) if len(body) <= MOST_BYTES else (start + len(body), b"")
        self._at += len(have)
        return have

    def _of_size(self, got: Fetched) -> bytes:
        if got.size != self.size:
            uri = f"s3://{self.bucket}/{self.key}"
            raise error_of(f"cannot read {uri}: it has {got.size} bytes and not {self.size}, as it was listed", CHANGED[0])
        return got.body

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        got = self.read(len(view))
        view[: len(got)] = got
        return len(got)
