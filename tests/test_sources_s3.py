"""Objects of a bucket, read through smart-open and boto3 from a small HTTP server that speaks as much S3 as reading needs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError

from pipeline.sources.config import SourceConfig
from pipeline.sources.documents import Document, Reason
from pipeline.sources.listing import expand
from pipeline.sources.objects import SourceObject
from pipeline.sources.tables import plan_units, read_unit

CONFIG = SourceConfig(unit_bytes=100)


def etag(body: bytes) -> str:
    return hashlib.md5(body).hexdigest()


class Bucket(BaseHTTPRequestHandler):
    """ListObjectsV2 in one page, and GetObject with Range and If-Match."""

    objects: dict[str, bytes] = {}
    refuses = False

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        key = unquote(url.path).removeprefix("/bucket").lstrip("/")
        body = self.objects.get(key)
        if self.refuses:
            self.answer(400, b"<Error><Code>ExpiredToken</Code></Error>")
        elif "list-type=2" in url.query:
            entry = "<Contents><Key>{}</Key><Size>{}</Size><ETag>&quot;{}&quot;</ETag></Contents>"
            entries = "".join(entry.format(name, len(data), etag(data)) for name, data in self.objects.items())
            self.answer(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode())
        elif body is None:
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        elif self.headers.get("If-Match", "").strip('"') != etag(body):
            self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        else:
            first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            start = int(first) if first else len(body) - int(last)
            stop = int(last) + 1 if first and last else len(body)
            self.answer(206, body[start:stop], f"bytes {start}-{min(stop, len(body)) - 1}/{len(body)}")

    def answer(self, status: int, body: bytes, content_range: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Bucket]]:
    lines = "".join(json.dumps({"id": n, "text": f"text {n}"}) + "\n" for n in range(100)).encode()
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": [f"row {n}" for n in range(30)]}), sink, row_group_size=10)
    handler = type("Fresh", (Bucket,), {"objects": {"in/a.jsonl": lines, "in/b.parquet": sink.getvalue().to_pybytes()}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    settings = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}", "AWS_MAX_ATTEMPTS": "1", "AWS_DEFAULT_REGION": "x"}
    for name, value in {**settings, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}.items():
        monkeypatch.setenv(name, value)
    yield handler
    server.shutdown()
    server.server_close()


def texts(item: SourceObject) -> list[str]:
    records = [record for unit in plan_units(item, CONFIG) for record in read_unit(unit, CONFIG)]
    return [record.text if isinstance(record, Document) else record.reason for record in records]


def test_a_bucket_is_read_in_slices(bucket: type[Bucket]) -> None:
    lines, rows = expand(["s3://bucket/in"], CONFIG)
    assert (lines.uri, lines.version) == ("s3://bucket/in/a.jsonl", f"etag:{etag(bucket.objects['in/a.jsonl'])}")
    assert len(plan_units(lines, CONFIG)) > 3 and len(plan_units(rows, CONFIG)) > 1
    assert texts(lines) == [f"text {n}" for n in range(100)]
    assert texts(rows) == [f"row {n}" for n in range(30)]


def test_what_changes_or_vanishes_is_quarantined(bucket: type[Bucket]) -> None:
    lines, rows = expand(["s3://bucket/in"], CONFIG)
    bucket.objects["in/a.jsonl"] = b'{"text": "new"}\n'
    del bucket.objects["in/b.parquet"]
    assert set(texts(lines)) == {Reason.CHANGED}
    assert texts(rows) == [Reason.VANISHED]


def test_a_service_that_refuses_everybody_is_an_exception(bucket: type[Bucket]) -> None:
    """Were it a row of the quarantine, a rerun would take the unit as done."""
    objects = expand(["s3://bucket/in"], CONFIG)
    bucket.refuses = True
    for item in objects:
        with pytest.raises((OSError, ClientError)):
            texts(item)
