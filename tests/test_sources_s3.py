"""Objects of a bucket: listed, sliced and read from real servers, also over a bad connection."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from palimpsest.config import SourceConfig
from palimpsest.sources.documents import Document, Reason
from palimpsest.sources.listing import expand
from palimpsest.sources.objects import SourceObject
from palimpsest.sources.tables import plan_units, read_unit
from palimpsest.storage import s3_client as s3
from tests.fault_proxy import FaultProxy
from tests.s3_servers import S3Server

CONFIG = SourceConfig(unit_bytes=200)
LINES = "".join(json.dumps({"id": n, "text": f"text {n}"}) + "\n" for n in range(100)).encode()


@dataclass
class Bucket:
    """A bucket behind a proxy, and its server's own client."""

    name: str
    client: Any
    proxy: FaultProxy

    def put(self, key: str, body: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=body)


@contextmanager
def bucket_on(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with FaultProxy(server.endpoint) as proxy:
        for name, value in {**server.environment(proxy.url), "AWS_MAX_ATTEMPTS": "3"}.items():
            monkeypatch.setenv(name, value)
        made = Bucket(server.new_bucket(), server.client(), proxy)
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"text": [f"row {n}" for n in range(30)]}), sink, row_group_size=10)
        made.put("in/a.jsonl", LINES)
        made.put("in/b.parquet", sink.getvalue().to_pybytes())
        yield made


@pytest.fixture(params=["seaweedfs", "moto"])
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with bucket_on(request.getfixturevalue(f"{request.param}_server"), monkeypatch) as made:
        yield made


@pytest.fixture
def moto_bucket(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch, short_pauses: None) -> Iterator[Bucket]:
    with bucket_on(moto_server, monkeypatch) as made:
        yield made


def objects(bucket: Bucket) -> list[SourceObject]:
    return expand([f"s3://{bucket.name}/in"], CONFIG)


def texts(item: SourceObject) -> list[str]:
    records = [record for unit in plan_units(item, CONFIG) for record in read_unit(unit, CONFIG)]
    return [record.text if isinstance(record, Document) else record.reason for record in records]


ALL = [f"text {n}" for n in range(100)], [f"row {n}" for n in range(30)]


def test_a_bucket_is_read_in_slices(bucket: Bucket) -> None:
    lines, rows = objects(bucket)
    etag = bucket.client.head_object(Bucket=bucket.name, Key="in/a.jsonl")["ETag"].strip('"')
    assert (lines.uri, lines.version, lines.size) == (f"s3://{bucket.name}/in/a.jsonl", f"etag:{etag}", len(LINES))
    assert len(plan_units(lines, CONFIG)) > 3 and len(plan_units(rows, CONFIG)) > 1
    assert (texts(lines), texts(rows)) == ALL


def test_what_changes_or_vanishes_is_quarantined(bucket: Bucket) -> None:
    lines, rows = objects(bucket)
    bucket.put("in/a.jsonl", b'{"text": "new"}\n')
    bucket.client.delete_object(Bucket=bucket.name, Key="in/b.parquet")
    assert set(texts(lines)) == {Reason.CHANGED}
    assert texts(rows) == [Reason.VANISHED]


KEYS = ("in/sub/", "in/sub/b.txt", "in/a.txt", "inner.txt", "in/_SUCCESS", "in/x?versionId=3&y#z %41+ü@b:c.txt")
ODD = KEYS[-1]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("in", ["in/a.txt", "in/sub/b.txt", ODD]),
        ("in/", ["in/a.txt", "in/sub/b.txt", ODD]),
        ("in/a.txt", ["in/a.txt"]),
        ("in/*.txt", ["in/a.txt", ODD]),
        ("**/[!ax]*.txt", ["in/sub/b.txt", "inner.txt"]),
        ("", ["in/a.txt", "in/sub/b.txt", ODD, "inner.txt"]),
        ("../in", None),
    ],
)
def test_a_bucket_is_listed_like_a_folder(
    moto_server: S3Server, monkeypatch: pytest.MonkeyPatch, key: str, expected: list[str] | None
) -> None:
    for name, value in moto_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3, "PAGE_ENTRIES", 2)
    bucket, client = moto_server.new_bucket(), moto_server.client()
    for name in KEYS:
        client.put_object(Bucket=bucket, Key=name, Body=f"the text of {name}".encode())
    if expected is None:
        with pytest.raises(ValueError, match="names no file"):
            expand([f"s3://{bucket}/{key}"], CONFIG)
        return
    found = expand([f"s3://{bucket}/{key}"], CONFIG)
    assert [item.uri for item in found] == [f"s3://{bucket}/{name}" for name in expected]
    assert [text for item in found for text in texts(item)] == [f"the text of {name}" for name in expected]


@pytest.mark.parametrize("kind", ["refuse", "busy", "error", "lost", "failed", "truncate", "reset"])
def test_a_bad_connection_costs_nothing_but_time(moto_bucket: Bucket, kind: str) -> None:
    moto_bucket.proxy.plan(kind, path="list-type=2", at=40)
    lines, rows = objects(moto_bucket)
    moto_bucket.proxy.plan(kind, path="a.jsonl", at=20)
    moto_bucket.proxy.plan(kind, path="b.parquet", at=20)
    assert (texts(lines), texts(rows)) == ALL
    assert moto_bucket.proxy.injected == {kind: 3}


@pytest.mark.parametrize("kind", ["expired", "busy", "refuse"])
def test_a_service_that_refuses_everybody_is_an_exception(moto_bucket: Bucket, kind: str) -> None:
    """Were it a row of the quarantine, a rerun would take the unit as done."""
    found = objects(moto_bucket)
    moto_bucket.proxy.plan(kind, times=-1)
    for item in found:
        with pytest.raises(s3.S3Error, match="have expired: renew" if kind == "expired" else "run the same command again"):
            texts(item)
    with pytest.raises(s3.S3Error, match="cannot list"):
        objects(moto_bucket)


def test_missing_credentials_are_named(moto_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "none")
    monkeypatch.setenv("AWS_CONFIG_FILE", "none")
    with pytest.raises(ValueError, match="there are no AWS credentials: set AWS_ACCESS_KEY_ID"):
        objects(moto_bucket)
