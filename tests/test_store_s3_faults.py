"""The store over a bad connection: every kind of fault against every kind of request, on a real server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from palimpsest.corpus.format import create_corpus
from palimpsest.corpus.fsck import fsck
from palimpsest.corpus.gc import gc
from palimpsest.corpus.repair import lost_units
from palimpsest.corpus.shards import read_shard, write_shards
from palimpsest.corpus.snapshots import iter_rows, latest, publish
from palimpsest.corpus.units import committed_units
from palimpsest.storage import s3_client as s3
from palimpsest.storage import s3_store as store_s3
from palimpsest.storage.object_store import ObjectStore, StoreError, Unavailable
from palimpsest.storage.opening import open_store
from palimpsest.storage.probe import probe
from palimpsest.storage.stable_json import Damaged
from tests.fault_proxy import KINDS, FaultProxy
from tests.s3_servers import S3Server
from tests.store_crash_child import page, rows, unit_pages, write_unit

PASSING = tuple(kind for kind in KINDS if kind != "expired")
BODY = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def started(seaweedfs_server: S3Server) -> Iterator[FaultProxy]:
    """One proxy, so that one client serves all tests: it costs more to make than a test takes."""
    with FaultProxy(seaweedfs_server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def proxy(
    started: FaultProxy, seaweedfs_server: S3Server, monkeypatch: pytest.MonkeyPatch, short_pauses: None
) -> Iterator[FaultProxy]:
    """A proxy that the AWS settings of the test point to; what hangs is given up after a second."""
    monkeypatch.setattr(s3, "READ_SECONDS", 1.0)
    for name, value in {**seaweedfs_server.environment(started.url), "AWS_MAX_ATTEMPTS": "4"}.items():
        monkeypatch.setenv(name, value)
    yield started
    started.clear()
    if not started.is_up:
        started.up()


@pytest.fixture
def store(proxy: FaultProxy, seaweedfs_server: S3Server) -> ObjectStore:
    return open_store(f"{seaweedfs_server.new_place()}/corpus")


def contents(store: ObjectStore) -> dict[str, bytes]:
    return {info.key: store.read(info.key) for info in store.list()}


def create(store: ObjectStore) -> object:
    return store.create("new", BODY)


def lose(store: ObjectStore) -> object:
    return not store.create("there", BODY[::-1])


def put(store: ObjectStore) -> object:
    store.put("new", BODY)
    return True


def read(store: ObjectStore) -> object:
    return store.read("there") == BODY


def stream(store: ObjectStore) -> object:
    with store.open("there") as opened:
        return opened.read() == BODY


def listing(store: ObjectStore) -> object:
    return [(info.key, info.size) for info in store.list()] == [("there", len(BODY))]


def exists(store: ObjectStore) -> object:
    return store.exists("there") and not store.exists("elsewhere")


def delete(store: ObjectStore) -> object:
    store.delete("there")
    return True


REQUESTS = (create, lose, put, read, stream, listing, exists, delete)
UNNOTICED = {("flip", stream), ("flip", listing)}  # no checksum goes with ranges and listings; see the tests of shards
CASES = [(kind, request) for kind in PASSING for request in REQUESTS if (kind, request) not in UNNOTICED]


@pytest.mark.parametrize(("kind", "request_"), CASES, ids=[f"{kind}-{request.__name__}" for kind, request in CASES])
def test_one_fault_changes_no_outcome(
    store: ObjectStore, proxy: FaultProxy, kind: str, request_: Callable[[ObjectStore], object]
) -> None:
    store.put("there", BODY)
    proxy.clear()
    proxy.plan(kind, at=100, seconds=1.5)
    assert request_(store) is True
    assert proxy.injected == {kind: 1}
    proxy.clear()
    expected = {"there": BODY} if request_ is not delete else {}
    assert contents(store) == expected | ({"new": BODY} if request_ in (create, put) else {})


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.__name__)
def test_credentials_that_expire_are_named(
    store: ObjectStore, proxy: FaultProxy, request_: Callable[[ObjectStore], object]
) -> None:
    store.put("there", BODY)
    proxy.plan("expired", times=-1)
    with pytest.raises(Unavailable, match="ExpiredToken.*renew them and run the same command again"):
        request_(store)


@pytest.mark.parametrize("kind", ["busy", "refuse"])
def test_patience_is_bounded(store: ObjectStore, proxy: FaultProxy, kind: str) -> None:
    proxy.plan(kind, times=-1)
    with pytest.raises(Unavailable, match="run the same command again"):
        store.put("new", BODY)
    assert proxy.injected == {kind: 4} and proxy.forwarded == 0
    proxy.clear()
    with pytest.raises(Unavailable):
        proxy.plan(kind, times=-1)
        store.create("new", BODY)
    assert proxy.injected == {kind: 8} and proxy.forwarded == 0  # the write, and the look at what stands there
    proxy.clear()
    assert contents(store) == {}


def test_an_endpoint_that_is_down_is_named_and_comes_back(store: ObjectStore, proxy: FaultProxy) -> None:
    probe(store)
    proxy.down()
    with pytest.raises(Unavailable, match=f"{proxy.url} cannot be reached"):
        probe(store)
    proxy.up()
    probe(store)


def test_whose_write_it_was_is_told_apart(store: ObjectStore, proxy: FaultProxy) -> None:
    """A refusal after a lost answer: ours where our bytes stand there, another's where others do, unknown where nothing does."""
    proxy.plan("lost", times=4, method="PUT")
    assert store.create("ours", BODY)  # every answer was lost, the first request had made it
    proxy.clear()
    proxy.plan("lost", method="PUT")
    proxy.plan("flip_sent", method="PUT")
    assert store.create("ours too", BODY)  # made, not answered, damaged, and then refused
    proxy.clear()
    store.put("theirs", b"theirs")
    proxy.plan("lost", method="PUT")
    assert not store.create("theirs", BODY) and store.read("theirs") == b"theirs"
    proxy.clear()
    proxy.plan("error", times=-1, method="PUT")
    with pytest.raises(Unavailable, match="InternalError"):
        store.create("nobodys", BODY)


def test_a_part_upload_survives_faults_and_leaves_nothing(
    store: ObjectStore, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_s3, "PART_BYTES", 5 << 20)
    monkeypatch.setattr(s3, "READ_SECONDS", 20.0)
    body = BODY * 1100
    assert len(body) > 2 * store_s3.PART_BYTES
    proxy.plan("flip_sent", path="partNumber=2", at=1000)
    proxy.plan("lost", path="partNumber=1")
    proxy.plan("failed", method="POST", after=1)  # the completion
    store.put("big", body)
    assert proxy.injected == {"flip_sent": 1, "lost": 1, "failed": 1}
    proxy.clear()
    assert store.read("big") == body and list(store.unfinished()) == []
    proxy.plan("error", times=-1, path="partNumber=2")
    with pytest.raises(Unavailable, match="InternalError"):
        store.put("bigger", body)
    proxy.clear()
    assert list(store.unfinished()) == [] and [info.key for info in store.list()] == ["big"]


def test_a_shard_damaged_on_its_way_is_read_again_and_a_damaged_one_is_named(store: ObjectStore, proxy: FaultProxy) -> None:
    table = rows(unit_pages(0))
    (base, _) = write_shards(store, table, unit_id="u", attempt="a")
    for kind in ("flip", "truncate", "reset"):
        proxy.clear()
        proxy.plan(kind, path="data/", at=500)
        assert read_shard(store, base, verify=True).num_rows == base.rows and proxy.injected == {kind: 1}
    proxy.clear()
    body = bytearray(store.read(base.key))
    body[300] ^= 1
    store.put(base.key, bytes(body))
    with pytest.raises(Damaged, match="has sha256"):
        read_shard(store, base, verify=True)


def test_a_bit_that_flips_on_its_way_to_a_reader_is_never_a_row(store: ObjectStore, proxy: FaultProxy) -> None:
    """Ranges carry no checksum, but every Parquet page has one of its own."""
    create_corpus(store)
    pages = [page(1, number, payload=2000) for number in range(40)]
    snapshot = publish(store, "r", [write_unit(store, "in/0", rows(pages))])
    expected = sorted(str(row) for row in iter_rows(store, snapshot))
    proxy.clear()
    list(iter_rows(store, snapshot))
    reads = sum("data/" in path for _, path in proxy.seen)
    told = 0
    for after in range(reads):
        for at in (300, 20_000, 40_000):
            proxy.clear()
            proxy.plan("flip", path="data/", after=after, at=at)
            try:
                assert sorted(str(row) for row in iter_rows(store, snapshot)) == expected
            except Damaged:
                told += 1
            assert proxy.injected == {"flip": 1}
    assert told >= 3


def test_fsck_does_not_call_a_corpus_damaged_when_nobody_answers(store: ObjectStore, proxy: FaultProxy) -> None:
    create_corpus(store)
    publish(store, "r", [write_unit(store, "in/0", rows(unit_pages(0)))])
    proxy.plan("busy", times=-1, path="data/")
    with pytest.raises(Unavailable, match="SlowDown"):
        fsck(store)
    proxy.clear()
    assert fsck(store) == []


@pytest.mark.parametrize("seed", [1, 2])
def test_a_job_over_a_bad_connection_makes_the_same_corpus(store: ObjectStore, proxy: FaultProxy, seed: int) -> None:
    """A third of all requests meets a fault. What fails for good is run again, as a user would."""
    proxy.roll(seed=seed, share=0.3, kinds=("refuse", "busy", "error", "lost", "failed", "truncate", "reset", "flip_sent"))
    for _ in range(5):
        try:
            create_corpus(store)
            records = [write_unit(store, f"in/{n}", rows(unit_pages(n)), bad=n) for n in range(3)]
            publish(store, "run", records)
            break
        except StoreError as error:
            assert isinstance(error, Unavailable), error
    assert sum(proxy.injected.values()) > 2
    proxy.clear()
    snapshot = latest(store)
    assert snapshot is not None and len(list(committed_units(store))) == 3
    expected = sorted(row["page_id"] for n in range(3) for row in rows(unit_pages(n)).to_pylist())
    assert sorted(row["page_id"] for row in iter_rows(store, snapshot)) == expected
    assert all(finding.severity == "warning" for finding in fsck(store))
    gc(store, now=datetime.now(UTC) + timedelta(days=8), delete=True)
    assert fsck(store) == []


def test_requests_of_each_step(store: ObjectStore, proxy: FaultProxy) -> None:
    """A commit is one request for each shard, one for the quarantine, one for the record (`pytest -s` shows the other steps)."""
    counts: dict[str, int] = {}

    def count(step: str, work: Callable[[], Any]) -> Any:
        proxy.seen.clear()
        began = time.monotonic()
        done = work()
        counts[step] = len(proxy.seen)
        print(f"{step}: {len(proxy.seen)} requests, {time.monotonic() - began:.2f} s")
        return done

    count("create corpus", lambda: create_corpus(store))
    count("probe", lambda: probe(store))
    units = [count("commit", lambda n=n: write_unit(store, f"in/{n}", rows(unit_pages(n)), bad=1)) for n in range(10)]
    assert counts["commit"] == len(units[-1].shards) + 2
    count("publish 10 units of 2 shards", lambda: publish(store, "run", units))
    assert count("look for lost units", lambda: lost_units(store, units)) == frozenset()
    assert counts["look for lost units"] == 2
    assert count("fsck", lambda: fsck(store)) == []
    assert count("gc, dry", lambda: gc(store)) == []
    assert counts["gc, dry"] < 30  # no request for each unit or object
