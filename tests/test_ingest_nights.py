"""Ten nights on a real S3 server, with one object of garbage in the second."""

from __future__ import annotations

import json
import random

import pytest

from palimpsest.operations.ingest import ingest
from tests.conftest import JobFactory
from tests.s3_servers import S3Server


def test_one_garbage_object_never_stops_a_night(
    seaweedfs_server: S3Server, job: JobFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in seaweedfs_server.environment().items():
        monkeypatch.setenv(name, value)
    place, client = seaweedfs_server.new_place(), seaweedfs_server.client()
    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    garbage = b"\n".join(random.Random(1).randbytes(25) for _ in range(200))[:5000]
    config = job(f"{place}/in", f"{place}/out", "verification.share=0", "limits.quarantine_share=0.01")
    for night in range(10):
        for number in range(3):
            body = json.dumps({"text": f"night {night}, text {number}"}).encode()
            client.put_object(Bucket=bucket, Key=f"{prefix}/in/{night}-{number}.jsonl", Body=body)
        if night == 1:
            client.put_object(Bucket=bucket, Key=f"{prefix}/in/garbage.jsonl", Body=garbage)
        result = ingest(config)
        assert result.fresh.documents_committed == 3 and result.snapshots, night
        assert result.findings == (night == 1)
        assert [bad.source_uri for bad in result.set_aside] == [f"{place}/in/garbage.jsonl"] * (night == 1)
