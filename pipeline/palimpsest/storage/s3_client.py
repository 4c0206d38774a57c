"""The S3 client: bounded retries, error messages, objects and listings; `s3_stream.py` has the streams.

Endpoint, region and credentials come from the usual AWS settings (environment, profile, instance role). No message repeats them.
botocore retries requests that fail before an answer begins. A body that ends too early or fails its checksum is fetched again
here.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from palimpsest.errors import UsageError

CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0  # without a single byte
ATTEMPTS = 8  # of a request, and of a body; AWS_MAX_ATTEMPTS (or max_attempts of the profile) changes it
CONNECTIONS = 16
PAGE_ENTRIES = 1000  # of a listing; services give no more
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')  # the ETag of an object that was put in one request; a multipart upload's has a dash

_LATER = "it stayed so over all tries; run the same command again, what was committed is kept"
_KEYS = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL"
_RENEW = "the credentials have expired: renew them and run the same command again, what was committed is kept"
_RIGHTS = "these credentials may not do that; a corpus needs the rights to list, get, put and delete below its prefix"
_REGION = "set AWS_DEFAULT_REGION to the bucket's region"
HINTS = {
    **dict.fromkeys(("AccessDenied", "Forbidden", "403", "AllAccessDisabled"), _RIGHTS),
    **dict.fromkeys(("InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthFailure", "401", "Unauthorized"), _KEYS),
    **dict.fromkeys(("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "RequestExpired"), _RENEW),
    **dict.fromkeys(("PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"), _REGION),
    **dict.fromkeys(("SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "Throttling", "500", "503"), _LATER),
    "NoSuchBucket": "create the bucket, or correct its name or AWS_ENDPOINT_URL",
    "RequestTimeTooSkewed": "this machine's clock is wrong",
    "InvalidObjectState": "the object is archived: restore it first",
    "400": "the service says no more than that; expired credentials are a common reason",
}
MISSING = ("NoSuchKey", "404", "NotFound")
CHANGED = ("PreconditionFailed", "412")
_making = threading.Lock()


class S3Error(OSError):
    """A request failed or was refused; the message names the object, the cause and the remedy. `code` is S3's error code."""

    code: str = ""


class UnusableSettings(UsageError):
    """There are no AWS credentials, or the AWS settings contradict themselves."""


def parse_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`; nothing in it is decoded.

    Raises:
        ValueError: no bucket, or credentials in the URI (which the message does not repeat).
    """
    bucket, _, key = uri.partition("://")[2].partition("/")
    if "@" in bucket or (":" in bucket and "@" in key):  # a secret may hold slashes
        raise UsageError(f"{redacted(uri)!r} holds credentials; give them in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", bucket):
        raise UsageError(f"{redacted(uri)!r} names no bucket; give s3://bucket/key")
    return bucket, key


def redacted(text: str) -> str:
    """`text` without the part before an @ in a URI, up to the last @, because secrets may contain slashes."""
    return re.sub(r"(://)\S*@", r"\1***@", text)


def client() -> Any:
    """The boto3 client of this process for the current AWS settings. It is thread-safe and created once.

    Raises:
        UnusableSettings.
    """
    settings = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    with _making:  # it takes a third of a second, so concurrent threads should not each create one
        return _client(os.getpid(), CONNECT_SECONDS, READ_SECONDS, settings)


@lru_cache(maxsize=8)
def _client(process: int, connect_seconds: float, read_seconds: float, settings: tuple[tuple[str, str], ...]) -> Any:
    import boto3
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    core = botocore.session.get_session()
    try:
        if core.get_credentials() is None:
            raise UnusableSettings(
                "there are no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE), and "
                "AWS_ENDPOINT_URL for a service other than Amazon's; on a cluster, on every node"
            )
        attempts = core.get_config_variable("max_attempts") or ATTEMPTS
        config = Config(
            connect_timeout=connect_seconds,
            read_timeout=read_seconds,
            max_pool_connections=CONNECTIONS,
            tcp_keepalive=True,
            retries={"mode": "standard", "total_max_attempts": attempts},
        )
        made = boto3.session.Session(botocore_session=core).client("s3", config=config)
    except (BotoCoreError, ValueError) as error:
        if isinstance(error, UnusableSettings):
            raise
        raise UnusableSettings(f"the AWS settings cannot be used: {redacted(str(error))}") from None
    if urlsplit(made.meta.endpoint_url).username is not None:
        raise UnusableSettings(
            f"the endpoint {redacted(made.meta.endpoint_url)!r} holds credentials; give them in AWS_ACCESS_KEY_ID and "
            f"AWS_SECRET_ACCESS_KEY instead"
        )
    return made


def attempts() -> int:
    """The number of tries of a request."""
    return int(client().meta.config.retries["total_max_attempts"])


def pause(attempt: int) -> None:
    """Wait before try number `attempt` + 1: a random time up to 2^attempt seconds, at most 20."""
    time.sleep(random.random() * min(20.0, 2.0**attempt))


def code_of(error: Exception) -> str:
    """S3's error code of a refusal; "" for anything else."""
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))


def was_repeated(error: Exception) -> bool:
    """True if botocore had sent the refused request before: the earlier one may have succeeded."""
    return bool(getattr(error, "response", {}).get("ResponseMetadata", {}).get("RetryAttempts", 0))


@contextmanager
def explained(action: str, uri: str) -> Iterator[None]:
    """Raise boto3's errors as S3Error, or as UnusableSettings if credentials are missing."""
    from botocore import exceptions as boto
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except boto.ClientError as error:
        code = code_of(error)
        message = str(error.response.get("Error", {}).get("Message") or "")
        hint = f" ({HINTS[code]})" if code in HINTS else ""
        detail = f": {message}" if message and message != code else ""
        raise error_of(f"cannot {action} {uri}: {code}{detail}{hint}", code) from error
    except (
        boto.NoCredentialsError,
        boto.PartialCredentialsError,
        boto.CredentialRetrievalError,
        boto.TokenRetrievalError,
    ) as error:
        raise UnusableSettings(f"cannot {action} {uri}: {redacted(str(error))}; set AWS credentials") from error
    except boto.ParamValidationError as error:
        raise UsageError(f"cannot {action} {uri}: {str(error).strip()}") from error
    except (boto.BotoCoreError, ResponseParserError, HTTPError) as error:
        raise error_of(f"cannot {action} {uri}: {_of_the_network(error)} ({_LATER})", type(error).__name__) from error


def _of_the_network(error: Exception) -> str:
    from botocore import exceptions as boto

    endpoint = redacted(client().meta.endpoint_url)
    if isinstance(error, boto.EndpointConnectionError | boto.ConnectTimeoutError):
        return f"{endpoint} cannot be reached"
    if isinstance(error, boto.ReadTimeoutError):
        return f"{endpoint} did not answer within {READ_SECONDS:g} s"
    return f"{endpoint}: {redacted(str(error))}"


def error_of(message: str, code: str) -> S3Error:
    error = S3Error(message)
    error.code = code
    return error


@dataclass(frozen=True)
class Fetched:
    """Bytes of an object; `size` and `etag` ("" if the service has none) belong to the whole object."""

    body: bytes
    size: int
    etag: str


def fetch(bucket: str, key: str, start: int = 0, length: int | None = None, etag: str | None = None) -> Fetched:
    """The whole object, with its checksum compared if the service has one, or `length` of its bytes from `start` on.

    Args:
        etag: read only this version; another version raises S3Error with a code of CHANGED.

    Raises:
        S3Error: with a code of MISSING if there is no such object.
    """
    from botocore import exceptions as boto
    from urllib3.exceptions import HTTPError  # botocore does not wrap it if the body of a refusal ends early

    request: dict[str, str] = {} if length is None else {"Range": f"bytes={start}-{start + length - 1}"}
    if etag:
        request["IfMatch"] = etag
    uri, tries = f"s3://{bucket}/{key}", attempts()
    for attempt in range(tries):
        with explained("read", uri):
            try:
                answer = client().get_object(Bucket=bucket, Key=key, **request)
            except boto.ClientError as error:
                if code_of(error) == "InvalidRange" and start == 0:  # an empty object has no first byte
                    return fetch(bucket, key, etag=etag)
                raise
            except HTTPError:
                if attempt == tries - 1:
                    raise
                pause(attempt)
                continue
            try:
                body = answer["Body"].read()
                if len(body) == answer["ContentLength"]:
                    return _checked(Fetched(body, *_extent(answer, len(body))), answer, start, length, uri)
                raise boto.IncompleteReadError(actual_bytes=len(body), expected_bytes=answer["ContentLength"])
            except (boto.HTTPClientError, boto.IncompleteReadError, boto.FlexibleChecksumError):
                if attempt == tries - 1:
                    raise
        pause(attempt)
    raise AssertionError("unreachable")


def fetch_whole(bucket: str, key: str, etag: str | None) -> Fetched:
    """The whole object, compared with its ETag if that is an MD5: one flipped bit in a letter gives a readable, wrong text.

    If the service computes ETags in another way, two equal reads count as proof.

    Raises:
        S3Error: as `fetch`, and if no two reads agree.
    """
    seen: set[str] = set()
    for attempt in range(attempts()):
        got = fetch(bucket, key, etag=etag)
        named, digest = _MD5.fullmatch(got.etag), hashlib.md5(got.body, usedforsecurity=False).hexdigest()
        if not named or digest in (named[1], *seen):
            return got
        seen.add(digest)
        pause(attempt)
    detail = f"no two of {len(seen)} reads agree, and none with its ETag ({_LATER})"
    raise error_of(f"cannot read s3://{bucket}/{key}: {detail}", "Damaged")


def _extent(answer: dict[str, Any], got: int) -> tuple[int, str]:
    _, _, total = answer.get("ContentRange", "").rpartition("/")
    return int(total) if total.isdecimal() else got, answer.get("ETag", "")


def _checked(got: Fetched, answer: dict[str, Any], start: int, length: int | None, uri: str) -> Fetched:
    """The requested bytes; a service that ignores ranges has sent the whole object."""
    if length is None:
        return got
    if "ContentRange" not in answer:
        return Fetched(got.body[start : start + length], len(got.body), got.etag)
    first = answer["ContentRange"].removeprefix("bytes").strip().partition("-")[0]
    if first != str(start) or len(got.body) != min(length, got.size - start):
        raise error_of(
            f"cannot read {uri}: asked for {length} bytes from {start} on, it sent {answer['ContentRange']}", "BadRange"
        )
    return got


def list_objects(bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    """The entries (Key, Size, ETag, LastModified) below a prefix, a page in memory at a time. Raises S3Error."""
    asked = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": PAGE_ENTRIES}
    yield from _pages("list_objects_v2", "Contents", asked, {"ContinuationToken": "NextContinuationToken"})


def list_uploads(bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    """The unfinished multipart uploads (Key, UploadId, Initiated) below a prefix. Raises S3Error."""
    asked = {"Bucket": bucket, "Prefix": prefix, "MaxUploads": PAGE_ENTRIES}
    marks = {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"}
    yield from _pages("list_multipart_uploads", "Uploads", asked, marks)


def _pages(operation: str, entries: str, asked: dict[str, Any], marks: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Pages of a listing. `marks`: request field that continues the listing -> field of the previous answer with its value."""
    from botocore.exceptions import BotoCoreError
    from botocore.parsers import ResponseParserError

    uri = f"s3://{asked['Bucket']}/{asked['Prefix']}"
    continuation: dict[str, str] = {}
    while True:
        with explained("list", uri):
            service = client()
            for attempt in range(tries := attempts()):
                try:
                    page = getattr(service, operation)(**asked, **continuation)
                    break
                except BotoCoreError:
                    raise
                except (ResponseParserError, ValueError) as error:  # damaged on its way: no XML, or the 26th of a month 15
                    if attempt == tries - 1:
                        raise error_of(f"cannot list {uri}: the answer makes no sense: {error} ({_LATER})", "Damaged") from error
                    pause(attempt)
        yield from page.get(entries, ())
        if not page.get("IsTruncated"):
            return
        on = {name: page[source] for name, source in marks.items() if page.get(source)}
        if not on or on == continuation:
            raise error_of(f"cannot list {uri}: the service says that there is more, but not where", "BadListing")
        continuation = on
