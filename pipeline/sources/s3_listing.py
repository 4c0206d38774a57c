"""The objects of a bucket, by boto3. No other file of this room lists remote storage."""

from __future__ import annotations

import re
from typing import Any

from pipeline.sources.objects import MAGIC, SourceObject, is_hidden

_GLOB_TOKEN = re.compile(
    r"(?P<folders>(?:(?<=/)|^)\*\*/)|(?P<star>\*+)|(?P<one>\?)|\[(?P<negated>!?)(?P<set>\]?[^\]]*)\]|.", re.DOTALL
)


def list_s3(uri: str, client: Any = None) -> list[SourceObject]:
    """The objects that `s3://bucket/key` names: that object, a folder's, or a glob's; sorted by key. The version is the ETag.

    Args:
        client: a boto3 S3 client; by default one with the environment's credentials and endpoint.

    Raises:
        ValueError: no bucket in the URI.
        botocore.exceptions.ClientError: the service refuses.
    """
    bucket, _, key = uri[len("s3://") :].partition("/")
    if not bucket:
        raise ValueError(f"source {uri!r} names no bucket; give s3://bucket/key")
    magic = MAGIC.search(key)
    objects = _list_prefix(bucket, key[: magic.start()] if magic else key, client)
    if key in objects:
        return [objects[key]]
    folder = key.rstrip("/") + "/" if key else ""
    wanted = _glob_pattern(key) if magic else re.compile(re.escape(folder) + ".*", re.DOTALL)
    return [objects[name] for name in sorted(objects) if wanted.fullmatch(name) and not is_hidden(name, key)]


def _list_prefix(bucket: str, prefix: str, client: Any) -> dict[str, SourceObject]:
    if client is None:
        import boto3

        client = boto3.client("s3")
    found = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", ()):
            if not entry["Key"].endswith("/"):  # the placeholder of a folder
                uri, etag = f"s3://{bucket}/{entry['Key']}", entry["ETag"].strip('"')
                found[entry["Key"]] = SourceObject(uri=uri, key=uri, size=entry["Size"], version=f"etag:{etag}")
    return found


def _glob_pattern(pattern: str) -> re.Pattern[str]:
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
