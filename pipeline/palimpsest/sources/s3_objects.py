"""Sources on S3: entries of a listing, first bytes. No other file of this room lists S3."""

from __future__ import annotations

from collections.abc import Iterator

from palimpsest.sources.objects import Listed, SourceObject
from palimpsest.storage.s3_client import MISSING, S3Error, fetch, list_objects, parse_uri


def entries(prefix: str) -> Iterator[Listed]:
    """The objects whose URI begins with `prefix`, a page in memory at a time. The version is the ETag.

    Raises:
        ValueError: no bucket in the URI, or credentials; or there are no AWS credentials.
        S3Error: the service refuses, or cannot be reached.
    """
    bucket, start = parse_uri(prefix)
    for entry in list_objects(bucket, start):
        uri, etag = f"s3://{bucket}/{entry['Key']}", entry["ETag"].strip('"')
        item = SourceObject(uri=uri, key=uri, size=entry["Size"], version=f"etag:{etag}")
        yield Listed(name=uri, item=item, status="", modified=entry["LastModified"].timestamp())


def head(uri: str, length: int) -> bytes:
    """The first bytes of an object; b"" where there is none, or where these credentials may not read it."""
    bucket, key = parse_uri(uri)
    try:
        return fetch(bucket, key, 0, length).body
    except S3Error as error:
        if error.code in (*MISSING, "AccessDenied", "403"):
            return b""
        raise
