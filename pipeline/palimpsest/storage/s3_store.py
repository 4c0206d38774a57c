"""A prefix of a bucket as an object store.

`create` is `If-None-Match: *`. Its answer can get lost after the service has written the object; the repeated request is then
refused although the object is ours. So after a repeated request that was refused, or without an answer, the stored object is read
and compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from palimpsest.errors import UsageError
from palimpsest.storage import s3_client as s3
from palimpsest.storage.object_store import Body, NoSuchObject, ObjectInfo, StoreError, Unavailable, check_key, is_key
from palimpsest.storage.s3_stream import S3Stream

PART_BYTES = 32 << 20  # of a multipart upload; what `put` gets of up to two of them goes in one request
MOST_PARTS = 10_000
PARALLEL_PARTS = 4
_ELSEWHERE = ("ConditionalRequestConflict", "OperationAborted", "409")  # another conditional write is under way: ask again
_DAMAGED = ("BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody")


class S3Store:
    """Objects are the keys below `s3://bucket/prefix/`. The store keeps only strings, so processes can exchange it."""

    def __init__(self, uri: str) -> None:
        """
        Raises:
            ValueError: no bucket, credentials in the URI, or a prefix that could be read in two ways.
        """
        self.bucket, prefix = s3.parse_uri(uri)
        prefix = prefix.removesuffix("/")
        try:
            prefix = prefix and check_key(prefix)
        except ValueError as error:
            raise UsageError(f"store {uri!r}: {error}") from None
        self._root = f"{prefix}/" if prefix else ""

    def __repr__(self) -> str:
        return f"S3Store({self.uri('')!r})"

    def create(self, key: str, body: Body) -> bool:
        """One request, whatever the size: some services apply the condition, but not to multipart uploads.

        A body of more than 5 GiB, S3's bound for one request, is refused by the service.
        """
        from botocore.exceptions import ClientError, HTTPClientError

        data = _part(body, 0, _size(body))
        with self._explained("create", key):
            for attempt in range(tries := s3.attempts()):
                try:
                    s3.client().put_object(Bucket=self.bucket, Key=self._key(key), Body=data, IfNoneMatch="*")
                    return True
                except ClientError as error:
                    code, status = s3.code_of(error), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
                    if code in s3.CHANGED and not (attempt or s3.was_repeated(error)):
                        return False
                    if code in (*_ELSEWHERE, *_DAMAGED) and attempt < tries - 1:
                        s3.pause(attempt)
                        continue
                    if code not in s3.CHANGED and status < 500:
                        raise
                    return self._is_stored(key, body, error)
                except HTTPClientError as error:
                    return self._is_stored(key, body, error)
        raise AssertionError("unreachable")

    def put(self, key: str, body: Body) -> None:
        with self._explained("write", key):
            if _size(body) > 2 * PART_BYTES:
                self._upload(key, body)
            else:
                target, data = {"Bucket": self.bucket, "Key": self._key(key)}, _part(body, 0, _size(body))
                _sent_whole(lambda: s3.client().put_object(**target, Body=data))

    def read(self, key: str) -> bytes:
        with self._explained("read", key):
            return s3.fetch(self.bucket, self._key(key)).body

    def open(self, key: str) -> BinaryIO:
        return cast(BinaryIO, _StoreStream(self, key))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Keys that `check_key` refuses (placeholders of folders, hidden names) are not objects of the store and are omitted."""
        with self._explained("list", prefix):
            for entry in s3.list_objects(self.bucket, self._root + prefix):
                key = entry["Key"].removeprefix(self._root)
                if is_key(key):
                    yield ObjectInfo(key, entry["Size"], entry["LastModified"])

    def exists(self, key: str) -> bool:
        from botocore.exceptions import ClientError

        with self._explained("read", key):
            try:
                s3.client().head_object(Bucket=self.bucket, Key=self._key(key))
                return True
            except ClientError as error:
                if s3.code_of(error) not in s3.MISSING:
                    s3.client().get_object(Bucket=self.bucket, Key=self._key(key), Range="bytes=0-0")  # whose refusal says why
                    raise
            return False

    def delete(self, key: str) -> None:
        with self._explained("delete", key):
            s3.client().delete_object(Bucket=self.bucket, Key=self._key(key))

    def uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{self._root}{check_key(key) if key else ''}"

    def unfinished(self) -> Iterator[ObjectInfo]:
        """Multipart uploads, as `<key>#<upload id>`; a listing does not have their sizes, which are 0 here."""
        with self._explained("list", ""):
            for upload in s3.list_uploads(self.bucket, self._root):
                yield ObjectInfo(f"{upload['Key'].removeprefix(self._root)}#{upload['UploadId']}", 0, upload["Initiated"])

    def discard(self, key: str) -> None:
        from botocore.exceptions import ClientError

        name, _, upload = key.rpartition("#")
        with self._explained("discard the unfinished", name):
            try:
                s3.client().abort_multipart_upload(Bucket=self.bucket, Key=self._root + name, UploadId=upload)
            except ClientError as error:
                if s3.code_of(error) not in ("NoSuchUpload", *s3.MISSING):
                    raise

    def _key(self, key: str) -> str:
        return self._root + check_key(key)

    def _is_stored(self, key: str, body: Body, doubt: Exception) -> bool:
        """True if the object at `key` is `body`; if there is no object, `doubt` was a failure and is raised."""
        try:
            stored = S3Stream(self.bucket, self._key(key))
        except s3.S3Error as error:
            raise (doubt if error.code in s3.MISSING else error) from doubt
        size, step = _size(body), 4 << 20
        return stored.size == size and all(
            stored.read(step) == _part(body, at, min(step, size - at)) for at in range(0, size, step)
        )

    def _upload(self, key: str, body: Body) -> None:
        """A multipart upload; if it fails, its parts are discarded, as long as the service can still be reached."""
        from botocore.exceptions import ClientError

        size = _size(body)
        step = max(PART_BYTES, math.ceil(size / MOST_PARTS))
        target = {"Bucket": self.bucket, "Key": self._key(key)}
        target["UploadId"] = s3.client().create_multipart_upload(**target)["UploadId"]

        def send(at: int) -> dict[str, Any]:
            number, data = at // step + 1, _part(body, at, min(step, size - at))
            answer = _sent_whole(lambda: s3.client().upload_part(**target, PartNumber=number, Body=data))
            sums = {name: value for name, value in answer.items() if name.startswith("Checksum") and name != "ChecksumType"}
            return {"PartNumber": number, "ETag": answer["ETag"], **sums}

        try:
            with ThreadPoolExecutor(PARALLEL_PARTS) as pool:
                parts = list(pool.map(send, range(0, size, step)))
            try:
                s3.client().complete_multipart_upload(**target, MultipartUpload={"Parts": parts})
            except ClientError as error:  # a repetition finds no upload where the first request was carried out
                if not (s3.code_of(error) == "NoSuchUpload" and s3.was_repeated(error) and self._is_stored(key, body, error)):
                    raise
        except BaseException:
            with suppress(Exception):  # the first error is the one that matters; gc finds what stays behind
                s3.client().abort_multipart_upload(**target)
            raise

    @contextmanager
    def _explained(self, action: str, key: str) -> Iterator[None]:
        try:
            with s3.explained(action, f"s3://{self.bucket}/{self._root}{key}"):
                yield
        except s3.S3Error as error:
            raise _store_error(error, f"s3://{self.bucket}/{self._root}{key}") from error


class _StoreStream(S3Stream):
    """A stream of the store, which raises the store's errors."""

    def __init__(self, store: S3Store, key: str) -> None:
        super().__init__(store.bucket, store._key(key))

    def _fetch(self, start: int, length: int, etag: str | None) -> s3.Fetched:
        try:
            return super()._fetch(start, length, etag)
        except s3.S3Error as error:
            raise _store_error(error, f"s3://{self.bucket}/{self.key}") from error


def _store_error(error: s3.S3Error, uri: str) -> StoreError:
    if error.code in s3.MISSING:
        return NoSuchObject(f"{uri} does not exist")
    of_the_object = (*s3.CHANGED, "InvalidObjectState", "EntityTooLarge")
    return StoreError(str(error)) if error.code in of_the_object else Unavailable(str(error))


def _sent_whole(send: Callable[[], Any]) -> Any:
    """The answer to `send`, repeated a bounded number of times if its body was damaged in transit."""
    from botocore.exceptions import ClientError

    for attempt in range(tries := s3.attempts()):
        try:
            return send()
        except ClientError as error:
            if s3.code_of(error) not in _DAMAGED or attempt == tries - 1:
                raise
        s3.pause(attempt)
    raise AssertionError("unreachable")


def _size(body: Body) -> int:
    return body.stat().st_size if isinstance(body, Path) else memoryview(body).nbytes


def _part(body: Body, start: int, length: int) -> bytes:
    if isinstance(body, Path):
        with body.open("rb") as source:
            source.seek(start)
            return source.read(length)
    return bytes(memoryview(body).cast("B")[start : start + length])
