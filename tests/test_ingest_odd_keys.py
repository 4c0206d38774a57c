"""Objects whose names would lead somewhere else: they are read as they are named, and what is made of them stays in its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from palimpsest.corpus.fsck import fsck
from palimpsest.corpus.snapshots import iter_rows, latest
from palimpsest.operations.ingest import ingest
from palimpsest.storage import s3_client as s3
from palimpsest.storage.opening import open_store
from tests.conftest import JobFactory
from tests.s3_servers import S3Server

ODD = (
    "../up.txt", "a/../../up twice.txt", "back\\..\\up.txt", "/absolute.txt", "//host/share.txt", "C:\\windows.txt",
    "a b.txt", "ü ß 船.txt", "percent%2F..%2F.txt", "plus+and&and=.txt", "quote'\"<>.txt", "q?versionId=3#f.txt", "{}[]*?.txt",
    "very/" * 40 + "deep.txt", "$(touch owned).txt", "-rf.txt",
)  # fmt: skip
HIDDEN = (".hidden.txt", "_SUCCESS", "a/.git/x.txt")


def test_odd_keys_are_read_and_everything_stays_below_its_prefix(
    moto_server: S3Server, job: JobFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in moto_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    bucket, client = moto_server.new_bucket(), moto_server.client()
    for name in (*ODD, *HIDDEN):
        client.put_object(Bucket=bucket, Key=f"texts/in/{name}", Body=f"the text of {name}".encode())
    client.put_object(Bucket=bucket, Key="texts/in2.txt", Body=b"a neighbour")
    before = {entry["Key"] for entry in s3.list_objects(bucket, "")}
    sources, out = f"s3://{bucket}/texts/in", f"s3://{bucket}/made/corpus"
    config = job(Path("x"), Path("x"), f'sources=["{sources}"]', f"out={out}", "verification.share=0")
    result = ingest(config)
    assert not result.findings and result.changes["new"] == result.units_new
    store = open_store(out)
    snapshot = latest(store)
    assert snapshot is not None
    texts = {row["source_uri"].removeprefix(f"{sources}/"): row["text"] for row in iter_rows(store, snapshot)}
    assert texts == {name: f"the text of {name}" for name in ODD}
    made = {entry["Key"] for entry in s3.list_objects(bucket, "")} - before
    assert made and all(key.startswith("made/corpus/") for key in made)
    for key in made:
        assert ".." not in key and "//" not in key and key.isascii() and key.isprintable() and "owned" not in key
    assert fsck(store) == [] and ingest(config).changes["unchanged"] == len(ODD)
    assert list(tmp_path.iterdir()) == []


def test_odd_file_names_are_read_and_everything_stays_in_its_folder(job: JobFactory, tmp_path: Path) -> None:
    names = [name for name in ODD if not name.startswith(("..", "/")) and "/../" not in name]
    folder, out = tmp_path / "in", tmp_path / "out"
    for name in [*names, "line\nbreak.txt"]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"the text of {name}")
    (tmp_path / "outside.txt").write_text("outside")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    result = ingest(job(folder, out, "verification.share=0"))
    assert not result.findings and result.units_new == len(names) + 1
    for path in tmp_path.rglob("*"):
        if path.is_file() and path not in before:
            assert path.is_relative_to(out), path
    assert all(path.read_bytes() == body for path, body in before.items())


@pytest.mark.parametrize("prefix", ["a/../b", "..", "./a", "/a", "a//b", "a\\b", "a/.b"])
def test_a_corpus_cannot_be_put_elsewhere_by_its_name(prefix: str) -> None:
    with pytest.raises(ValueError, match="store"):
        open_store(f"s3://bucket/{prefix}")
