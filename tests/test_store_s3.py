"""The store's promises, on a disk and on two real S3 servers; and what only object storage has."""

from __future__ import annotations

import io
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from palimpsest.corpus.format import NotACorpus, create_corpus
from palimpsest.corpus.fsck import fsck
from palimpsest.corpus.gc import gc
from palimpsest.corpus.snapshots import iter_rows, latest, publish
from palimpsest.storage import s3_client as s3
from palimpsest.storage import s3_store as store_s3
from palimpsest.storage import s3_stream
from palimpsest.storage.object_store import NoSuchObject, NotExclusive, ObjectStore, StoreError
from palimpsest.storage.opening import open_store
from palimpsest.storage.probe import probe
from palimpsest.storage.s3_store import S3Store
from tests.paths import PYTHONPATH
from tests.s3_servers import ACCESS_KEY, SECRET_KEY, S3Server
from tests.store_crash_child import rows, unit_pages, write_unit

ODD_PREFIX = "odd prefix/50%25 + ü/a=b&c"
ODD_KEYS = (
    "data/a b",
    "data/%41",
    "data/a+b",
    "data/ü é 日本",
    "data/a=b&c?d#e",
    "data/[x]*!'()",
    "data/..a/b..",
    "data/" + "x" * 200,
)


@pytest.fixture(params=["local", "seaweedfs", "moto"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """An empty place of its own, below a prefix with odd characters."""
    if request.param == "local":
        return open_store(tmp_path / ODD_PREFIX)
    server = request.getfixturevalue(f"{request.param}_server")
    return on_server(server, monkeypatch, ODD_PREFIX)


def on_server(server: S3Server, monkeypatch: pytest.MonkeyPatch, prefix: str = "corpus") -> S3Store:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    store = open_store(f"{server.new_place()}/{prefix}")
    assert isinstance(store, S3Store)
    return store


@pytest.fixture
def sea(seaweedfs_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    return on_server(seaweedfs_server, monkeypatch)


def test_create_lets_the_first_win_and_put_replaces(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(b"from a file")
    assert store.create("a/b", tmp_path / "body") and not store.create("a/b", b"second")
    assert store.read("a/b") == b"from a file" and store.exists("a/b") and not store.exists("a")
    store.put("a/b", memoryview(b"third"))
    with store.open("a/b") as stream:
        stream.seek(2)
        assert stream.read() == b"ird" and stream.read() == b""
    store.put("empty", b"")
    assert store.read("empty") == b""
    with store.open("empty") as stream:
        assert stream.read() == b"" and stream.seek(0, io.SEEK_END) == 0
    store.delete("a/b")
    store.delete("a/b")
    assert not store.exists("a/b")
    for ask in (store.read, store.open):
        with pytest.raises(NoSuchObject, match="a/b"):
            ask("a/b")
    assert list(store.unfinished()) == []


def test_list_takes_any_prefix_page_by_page(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PAGE_ENTRIES", 2)
    keys = [f"data/base/{number}" for number in range(5)] + ["data/text/1", "datum"]
    began = datetime.now(UTC)
    for key in keys:
        store.put(key, b"12")
    listed = {
        prefix: sorted(info.key for info in store.list(prefix)) for prefix in ("", "data/", "data/b", "dat", "none/", keys[2])
    }
    assert listed[""] == listed["dat"] == keys and listed["data/"] == keys[:-1] and listed["data/b"] == keys[:5]
    assert listed["none/"] == [] and listed[keys[2]] == [keys[2]]
    (info,) = store.list("datum")
    assert info.size == 2 and abs(info.modified - began) < timedelta(minutes=5)


def test_odd_keys_are_kept_as_they_are_and_inside_the_prefix(store: ObjectStore) -> None:
    for key in ODD_KEYS:
        if any(part.startswith(".") for part in key.split("/")):
            continue
        assert store.create(key, key.encode()) and not store.create(key, b"again")
    kept = [key for key in ODD_KEYS if not any(part.startswith(".") for part in key.split("/"))]
    assert sorted(info.key for info in store.list("data/")) == sorted(kept)
    assert {store.read(key).decode() for key in kept} == set(kept)
    for key in ("../out", "/etc/x", "a//b", "a/../b", "a/", "", ".hidden", "a\\b", "a\nb"):
        with pytest.raises(ValueError, match="object key"):
            store.put(key, b"")
    if isinstance(store, S3Store):
        place = store.uri("").removesuffix(f"/{ODD_PREFIX}/").removeprefix(f"s3://{store.bucket}/")
        assert {entry["Key"] for entry in s3.list_objects(store.bucket, place)} == {f"{place}/{ODD_PREFIX}/{key}" for key in kept}
    for key in kept:
        store.delete(key)
    assert list(store.list()) == []


def test_racing_writers_have_one_winner_whose_bytes_stay(store: ObjectStore) -> None:
    with ThreadPoolExecutor(12) as pool:
        won = list(pool.map(lambda number: store.create("one", str(number).encode()), range(12)))
    assert won.count(True) == 1 and store.read("one") == str(won.index(True)).encode()


def test_probe_passes_and_leaves_nothing(store: ObjectStore) -> None:
    began = time.monotonic()
    probe(store)
    print(f"probe took {time.monotonic() - began:.2f} s")
    assert list(store.list()) == [] == list(store.unfinished())


def test_a_job_is_clean_and_gc_removes_what_it_left(store: ObjectStore) -> None:
    create_corpus(store)
    old = write_unit(store, "in/0", rows(unit_pages(0)), bad=1)
    publish(store, "r1", [old])
    publish(store, "r2", [write_unit(store, "in/1", rows(unit_pages(1)))], drop=[old.unit_id])
    write_unit(store, "in/1", rows(unit_pages(1)))  # beaten by the first: orphans
    findings = fsck(store)
    assert {finding.severity for finding in findings} == {"warning"} and "orphan" in findings[0].what
    later = datetime.now(UTC) + timedelta(days=8)
    assert gc(store, now=later, delete=True) and gc(store, now=later) == [] == fsck(store)
    snapshot = latest(store)
    assert snapshot is not None and len(list(iter_rows(store, snapshot))) == 4


def test_a_place_with_other_things_is_no_corpus(store: ObjectStore) -> None:
    store.put("thesis.doc", b"precious")
    with pytest.raises(NotACorpus, match=r"thesis\.doc is in the way"):
        create_corpus(store)


def test_probe_refuses_a_server_that_ignores_conditions(rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    store = on_server(rclone_server, monkeypatch)
    with pytest.raises(NotExclusive, match="8 of 8 racing writers .* ignores the condition"):
        probe(store)
    assert all(info.key.startswith("_probe/") for info in store.list())  # rclone may write after the delete: gc's business


def test_a_prefix_does_not_see_its_neighbours(sea: S3Store) -> None:
    other = open_store(sea.uri("").removesuffix("/") + "2")
    other.put("data/x", b"")
    sea.put("data/y", b"")
    assert [info.key for info in sea.list()] == ["data/y"] and [info.key for info in other.list()] == ["data/x"]
    above = open_store(sea.uri("").removesuffix("/corpus/"))
    assert sorted(info.key for info in above.list()) == ["corpus/data/y", "corpus2/data/x"]


@pytest.mark.parametrize("prefix", ["../up", "/absolute", "a//b", "a/../b", "a/./b", ".hidden", "a\tb", "a\\b"])
def test_a_prefix_that_can_be_read_in_two_ways_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="object key"):
        open_store(f"s3://bucket/{prefix}")


# --- big bodies


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    """Parts of the least size that S3 takes, so that a body of three of them is big."""
    monkeypatch.setattr(store_s3, "PART_BYTES", 5 << 20)
    return 5 << 20


@pytest.mark.parametrize("server", ["seaweedfs", "moto"])
def test_a_big_body_goes_in_parts_and_only_once(
    server: str, small_parts: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = on_server(request.getfixturevalue(f"{server}_server"), monkeypatch)
    body = secrets.token_bytes(2 * small_parts + 100_000)
    (tmp_path / "big").write_bytes(body)
    assert store.create("big", tmp_path / "big") and not store.create("big", body[::-1])
    assert store.read("big") == body
    store.put("big", memoryview(body[::-1]))
    with store.open("big") as stream:
        assert b"".join(iter(lambda: stream.read(1 << 20), b"")) == body[::-1]
        stream.seek(-10, io.SEEK_END)
        assert stream.read(100) == body[::-1][-10:]
    assert list(store.unfinished()) == []


def test_racing_big_creates_have_one_winner(sea: S3Store, small_parts: int) -> None:
    """In one request each: multipart uploads let several win on some services that keep the condition otherwise."""
    bodies = [bytes([number]) * (2 * small_parts + 1) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(lambda body: sea.create("one", body), bodies))
    assert won.count(True) == 1 and sea.read("one") == bodies[won.index(True)]


CHILD = """
import sys
from palimpsest.storage import s3_store as s3
from palimpsest.storage.opening import open_store
s3.PART_BYTES, s3.PARALLEL_PARTS = 5 << 20, 1
def part(body, start, length):
    if start:
        print("one part sent", flush=True)
        sys.stdin.read()
    return bytes(length)
s3._part = part
open_store(sys.argv[1]).put("data/big", bytes(20 << 20))
"""


def test_what_a_killed_writer_leaves_is_listed_and_removed_by_age(sea: S3Store) -> None:
    create_corpus(sea)
    here = {**os.environ, "PYTHONPATH": PYTHONPATH}
    child = subprocess.Popen([sys.executable, "-c", CHILD, sea.uri("")], env=here, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"one part sent\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not sea.exists("data/big") and list(sea.list("data/")) == []
    (finding,) = fsck(sea)
    assert finding.severity == "warning" and finding.key.startswith("data/big#") and "unfinished write" in finding.what
    assert gc(sea) == []
    later = datetime.now(UTC) + timedelta(days=8)
    (removal,) = gc(sea, now=later, delete=True)
    assert removal.unfinished and list(sea.unfinished()) == [] == fsck(sea)
    sea.discard(removal.key)


# --- streams


def test_a_stream_reads_like_a_file(sea: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    body = secrets.token_bytes(3 << 20)
    sea.put("k", body)
    monkeypatch.setattr(s3_stream, "MOST_BYTES", 1 << 18)
    place, file = secrets.SystemRandom(), io.BytesIO(body)
    with sea.open("k") as stream:
        for _ in range(60):
            at, length = place.randrange(len(body) + 10), place.choice([0, 1, 100, 70_000, 500_000])
            if place.random() < 0.5:
                assert stream.seek(at) == file.seek(at)
            assert stream.read(length) == file.read(length) and stream.tell() == file.tell()
        buffer = bytearray(1000)
        stream.seek(-500, io.SEEK_END)
        assert stream.readinto(buffer) == 500 and buffer[:500] == body[-500:]  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match="negative"):
            stream.seek(-1)


def test_a_stream_never_mixes_two_versions(sea: S3Store) -> None:
    sea.put("k", b"a" * (1 << 20))
    with sea.open("k") as stream:
        assert stream.read(10) == b"a" * 10
        sea.put("k", b"b" * (1 << 20))
        with pytest.raises(StoreError, match="PreconditionFailed"):
            stream.read()


def test_other_readers_open_the_uri(sea: S3Store) -> None:
    table = pa.table({"x": list(range(1000))})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    sea.put("data/t.parquet", sink.getvalue().to_pybytes())
    assert pq.read_table(sea.uri("data/t.parquet")).equals(table)
    assert pads.dataset(sea.uri("data/t.parquet")).count_rows() == 1000


def test_a_store_travels_between_processes(sea: S3Store) -> None:
    import pickle

    sea.put("k", b"v")
    assert pickle.loads(pickle.dumps(sea)).read("k") == b"v"
    assert SECRET_KEY.encode() not in pickle.dumps(sea)


# --- faults that the user has to fix


@pytest.fixture
def refused(sea: S3Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, short_pauses: None) -> Iterator[S3Store]:
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    yield sea


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        (
            {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
            ValueError,
            "there are no AWS credentials: set AWS_ACCESS_KEY_ID",
        ),
        ({"AWS_SECRET_ACCESS_KEY": "another-secret"}, StoreError, "SignatureDoesNotMatch.*check AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": "AKIANOBODY"}, StoreError, "InvalidAccessKeyId.*check AWS_ACCESS_KEY_ID"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, StoreError, "http://127.0.0.1:9 cannot be reached"),
        ({"AWS_ENDPOINT_URL": "http://me:my-password@127.0.0.1:9"}, ValueError, r"http://\*\*\*@127.0.0.1:9' holds credentials"),
        ({"AWS_ENDPOINT_URL": "no url"}, ValueError, "AWS settings cannot be used"),
        ({"AWS_PROFILE": "nobody"}, ValueError, "AWS settings cannot be used.*nobody"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_settings_that_do_not_work_are_named_and_secrets_are_not(
    refused: S3Store, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str | None], kind: type[Exception], message: str
) -> None:
    for name, value in settings.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    for ask in (lambda: probe(refused), lambda: list(refused.list()), lambda: refused.exists("k"), lambda: refused.read("k")):
        with pytest.raises(kind, match=message) as caught:
            ask()
        for secret in ("another-secret", "my-password", SECRET_KEY):
            assert secret not in str(caught.value) + repr(caught.value.__cause__)


def test_a_bucket_that_is_not_there_is_named(refused: S3Store) -> None:
    store = open_store("s3://no-such-bucket-here/corpus")
    for ask in (lambda: create_corpus(store), lambda: probe(store), lambda: list(store.list())):
        with pytest.raises(StoreError, match=r"s3://no-such-bucket-here/.*NoSuchBucket.*create the bucket"):
            ask()


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://{ACCESS_KEY}:{SECRET_KEY}@bucket/x",
        f"s3://{ACCESS_KEY}:se/{SECRET_KEY}@bucket/x",
        f"gs://me:{SECRET_KEY}@b/x",
        f"file://me:{SECRET_KEY}@host/x",
    ],
)
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri: str) -> None:
    from palimpsest.config import SourceConfig
    from palimpsest.sources.listing import expand

    for ask in (lambda: open_store(uri), lambda: expand([uri], SourceConfig())):
        with pytest.raises(ValueError) as caught:
            ask()
        assert SECRET_KEY not in str(caught.value)


def test_keys_of_a_prefix_are_checked_like_any_other() -> None:
    assert S3Store("s3://bucket/a/b/").uri("c") == "s3://bucket/a/b/c" and S3Store("s3://bucket").uri("c") == "s3://bucket/c"
