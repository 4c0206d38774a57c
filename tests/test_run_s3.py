"""A whole job from one bucket prefix to another through Ray, and every command on the corpus that it made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from palimpsest.cli.app import app
from palimpsest.storage import s3_client as s3
from palimpsest.storage.opening import open_store
from tests.mixed_sources import prose
from tests.s3_servers import ACCESS_KEY, SECRET_KEY, S3Server

pytestmark = pytest.mark.cluster


def command(*words: str, code: int = 0) -> Result:
    """Run a command in this process; nothing that it says holds a secret."""
    result = CliRunner().invoke(app, list(words))
    said = result.output + result.stderr
    assert result.exit_code == code, said
    assert SECRET_KEY not in said and ACCESS_KEY not in said
    return result


def answer(*words: str) -> Any:
    return json.loads(command(*words, "--json").stdout)


def test_a_job_from_bucket_to_bucket(
    seaweedfs_server: S3Server, seaweedfs_place: str, tiny_codec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, bucket = seaweedfs_server.client(), seaweedfs_server.bucket
    source, out = f"{seaweedfs_place}/in put", f"{seaweedfs_place}/out %41+ü"
    key = source.removeprefix(f"s3://{bucket}/")
    client.put_object(Bucket=bucket, Key=f"{key}/a b.txt", Body=prose(1500, 1).encode())
    lines = "".join(json.dumps({"id": str(n), "text": prose(600, 10 + n)}) + "\n" for n in range(4)) + "no json\n"
    client.put_object(Bucket=bucket, Key=f"{key}/sub/ü.jsonl", Body=lines.encode())
    settings = (
        f"codec.path={tiny_codec}",
        "limits.quarantine_share=0.5",
        "placement.threads_per_worker=1",
        "verification.reader=generative",
    )
    words = ["run", "local", "--source", source, "--out", out, *(word for setting in settings for word in ("--set", setting))]

    done = answer(*words)
    assert (done["units_new"], done["counts"]["documents_in"], done["counts"]["documents_quarantined"]) == (2, 6, 1)
    assert command(*words).stdout.startswith("Nothing to do")

    store = open_store(out)
    assert command("fsck", out).stdout.strip() == "0 errors, 0 warnings"
    page = next(iter(answer("inspect", out).values()), None)
    assert page is not None
    verified = answer("verify", out, "--share", "1", "--set", settings[0])
    assert verified["pages"] > 0, verified
    where = answer("report", out)["report"]
    assert where.startswith(f"{out}/runs/") and b"<html" in store.read(where.removeprefix(f"{out}/")).lower()
    command("report", out, "--out", str(tmp_path / "report.html"))
    assert answer("gc", out) == []

    shard = next(store.list("data/"))
    store.delete(shard.key)
    assert shard.key in command("fsck", out, code=3).stdout
    assert answer(*words, "--set", "placement.executor=local")["units_new"] == 1
    assert command("gc", out, "--unused-days", "0", "--delete")
    assert command("fsck", out).stdout.strip() == "0 errors, 0 warnings"

    for entry in s3.list_objects(bucket, out.removeprefix(f"s3://{bucket}/")):
        body = s3.fetch(bucket, entry["Key"]).body
        assert SECRET_KEY.encode() not in body and ACCESS_KEY.encode() not in body, entry["Key"]


@pytest.mark.parametrize(
    "words", [["fsck"], ["gc"], ["inspect"], ["report"], ["verify"], ["run", "local", "-s", "{}", "-o", "{}"]]
)
def test_what_is_wrong_with_a_place_is_one_line(seaweedfs_place: str, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    def on(uri: str) -> list[str]:
        return [word.replace("{}", uri) for word in words] if "{}" in words else [*words, uri]

    command(*on(f"s3://{ACCESS_KEY}:{SECRET_KEY}@bucket/corpus"), code=2)
    command(*on("s3://no-such-bucket-here/corpus"), code=1)
    command(*on(f"{seaweedfs_place}/nothing"), code=2)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert "SignatureDoesNotMatch" in command(*on(f"{seaweedfs_place}/nothing"), code=1).stderr
