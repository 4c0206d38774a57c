"""The objects of a bucket. No other file of this room lists remote storage."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from palimpsest.sources.objects import MAGIC, SourceObject, is_hidden
from palimpsest.storage.s3_client import list_objects, parse_uri

_GLOB_TOKEN = re.compile(
    r"(?P<folders>(?:(?<=/)|^)\*\*/)|(?P<star>\*+)|(?P<one>\?)|\[(?P<negated>!?)(?P<set>\]?[^\]]*)\]|.", re.DOTALL
)


def list_s3(uri: str) -> list[SourceObject]:
    """The objects that `s3://bucket/key` names: that object, a folder's, or a glob's; sorted by key. The version is the ETag.

    Raises:
        ValueError: no bucket in the URI, or credentials; or there are no AWS credentials.
        S3Error: the service refuses, or cannot be reached.
    """
    return sorted({item.key: item for item, _ in stream_s3(uri)}.values(), key=lambda item: item.key)


def stream_s3(uri: str) -> Iterator[tuple[SourceObject, float]]:
    """The same in the service's order, a page in memory at a time, each with the time of its last change (Unix time).

    Raises as `list_s3` does.
    """
    bucket, key = parse_uri(uri)
    magic = MAGIC.search(key)
    for entry in list_objects(bucket, key) if key else ():  # an object of this very name is listed before all longer ones
        if entry["Key"] == key and not key.endswith("/"):
            yield _object(bucket, entry)
            return
        break
    folder = key.rstrip("/") + "/" if key else ""
    wanted = glob_pattern(key) if magic else None
    for entry in list_objects(bucket, key[: magic.start()] if magic else folder):
        name = entry["Key"]
        if name.endswith("/") or is_hidden(name, key):  # the placeholder of a folder
            continue
        if wanted is None or wanted.fullmatch(name):
            yield _object(bucket, entry)


def _object(bucket: str, entry: dict[str, Any]) -> tuple[SourceObject, float]:
    uri, etag = f"s3://{bucket}/{entry['Key']}", entry["ETag"].strip('"')
    item = SourceObject(uri=uri, key=uri, size=entry["Size"], version=f"etag:{etag}")
    return item, entry["LastModified"].timestamp()


def glob_pattern(pattern: str) -> re.Pattern[str]:
    """The rules of a local glob for a bucket's keys: `*` and `?` stay within a folder, `**/` crosses any number of them."""

    def rule(token: re.Match[str]) -> str:
        if token["folders"]:
            return "(?:[^/]+/)*"
        if token["star"]:
            return "[^/]*"
        if token["one"]:
            return "[^/]"
        if token["set"]:
            characters = re.sub(r"([\\\[\]^&~|])", r"\\\1", token["set"])
            return f"[{'^/' if token['negated'] else ''}{characters}]"
        return re.escape(token[0])

    return re.compile(_GLOB_TOKEN.sub(rule, pattern), re.DOTALL)
