"""Defects that `make chaos` found, each as small as it gets."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palimpsest.config import SourceConfig
from palimpsest.corpus import document_index
from palimpsest.corpus.format import create_corpus
from palimpsest.corpus.snapshots import publish
from palimpsest.operations import ingest as ingestion
from palimpsest.operations.ingest import ingest
from palimpsest.sources.documents import Document, Reason
from palimpsest.sources.listing import expand
from palimpsest.sources.objects import SourceObject
from palimpsest.sources.tables import read_unit
from palimpsest.sources.units import Unit
from palimpsest.storage import s3_client as s3
from palimpsest.storage.local_store import LocalStore
from palimpsest.storage.object_store import NoSuchObject, StoreError, Unavailable
from palimpsest.storage.opening import open_store
from palimpsest.storage.stable_json import Damaged
from tests.conftest import JobFactory
from tests.fault_proxy import FaultProxy
from tests.s3_servers import S3Server
from tests.store_crash_child import page, rows, write_unit
from tests.test_run import by_id, documents, write_lines

CONFIG = SourceConfig()
TEXTS = [f"the text number {number}" for number in range(40)]


@pytest.fixture(params=["seaweedfs", "moto"])
def proxy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, short_pauses: None) -> Iterator[FaultProxy]:
    server: S3Server = request.getfixturevalue(f"{request.param}_server")
    with FaultProxy(server.endpoint) as proxy:
        for name, value in {**server.environment(proxy.url), "AWS_MAX_ATTEMPTS": "4"}.items():
            monkeypatch.setenv(name, value)
        bucket = server.new_bucket()
        body = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
        server.client().put_object(Bucket=bucket, Key="in/a.jsonl", Body=body)
        # as a tool without checksums puts it: nothing but the ETag can tell
        plain = server.client(config=s3_config())
        plain.put_object(Bucket=bucket, Key="in/b.jsonl", Body=body)
        proxy.bucket = bucket  # type: ignore[attr-defined]
        yield proxy


def s3_config() -> object:
    from botocore.config import Config

    return Config(request_checksum_calculation="when_required", s3={"addressing_style": "path"})


def objects(proxy: FaultProxy) -> list[SourceObject]:
    return expand([f"s3://{proxy.bucket}/in"], CONFIG)  # type: ignore[attr-defined]


def texts(item: SourceObject) -> list[str]:
    return [record.text if isinstance(record, Document) else record.reason for record in read_unit(Unit(object=item), CONFIG)]


def test_a_bit_that_flips_in_a_source_is_never_a_text(proxy: FaultProxy) -> None:
    """It was: a letter more or less is a readable text, and its unit was committed under the right version."""
    for item in objects(proxy):
        for at in (12, 300, 900):
            proxy.clear()
            proxy.plan("flip", path="jsonl", at=at)
            assert texts(item) == TEXTS
            assert proxy.injected == {"flip": 1}


def test_a_source_that_never_comes_twice_the_same_is_an_exception(proxy: FaultProxy) -> None:
    item = objects(proxy)[1]
    for at in range(10, 100, 7):
        proxy.plan("flip", path="b.jsonl", at=at)
    with pytest.raises(s3.S3Error, match="no two of 4 reads agree"):
        texts(item)


def test_an_etag_that_is_no_hash_of_the_bytes_is_no_damage(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Services with keys of their own encrypt, and hash what they wrote: there, two equal reads are proof."""
    item = objects(proxy)[1]
    fetch = s3.fetch

    def as_encrypted(*args: object, **kwargs: object) -> s3.Fetched:
        got = fetch(*args, **kwargs)  # type: ignore[arg-type]
        return s3.Fetched(got.body, got.size, '"' + "0" * 32 + '"')

    monkeypatch.setattr(s3, "fetch", as_encrypted)
    proxy.clear()
    assert texts(item) == TEXTS and proxy.forwarded == 2


@pytest.mark.parametrize("listed", [-7, 7])
def test_an_object_is_read_at_its_listed_size_or_not_at_all(proxy: FaultProxy, listed: int) -> None:
    """It was not: a digit of a listing that turns over cut the object, and what was left was committed as the whole."""
    item = objects(proxy)[0]
    wrong = SourceObject(uri=item.uri, key=item.key, size=item.size + listed, version=item.version)
    assert texts(wrong) == [Reason.CHANGED]


def test_a_date_that_flips_in_a_listing_is_no_fault_of_the_user(proxy: FaultProxy) -> None:
    """It was: "month must be in 1..12", with the exit code of a wrong setting."""
    bucket: str = proxy.bucket  # type: ignore[attr-defined]
    bodies: list[bytes] = []
    s3.client().meta.events.register(
        "after-call.s3.ListObjectsV2", lambda http_response, **_: bodies.append(http_response.content)
    )
    listed = [entry["Key"] for entry in s3.list_objects(bucket, "in/")]
    month = bodies[0].index(b"<LastModified>") + len("<LastModified>2026-")
    for times in (1, -1):
        proxy.clear()
        proxy.plan("flip", path="list-type=2", at=month, times=times)  # 0 becomes 4, 1 becomes 5
        if times == 1:
            assert [entry["Key"] for entry in s3.list_objects(bucket, "in/")] == listed
        else:
            with pytest.raises(s3.S3Error, match=r"cannot list .*makes no sense: .*month"):
                list(s3.list_objects(bucket, "in/"))


def test_a_refusal_that_breaks_off_is_asked_for_again(proxy: FaultProxy) -> None:
    """It was a traceback: botocore reads the body of a refused get outside of all that it repeats and explains."""
    store = open_store(f"s3://{proxy.bucket}/corpus")  # type: ignore[attr-defined]
    proxy.plan("reset", method="GET", at=30)
    with pytest.raises(NoSuchObject):
        store.read("nothing")
    proxy.plan("reset", times=-1, method="GET", at=30)
    with pytest.raises(Unavailable, match="run the same command again"):
        store.read("nothing")


@pytest.mark.parametrize("step", ["prepare", "create_corpus", "probe"])
def test_a_first_pass_that_fails_is_in_nobodys_way(
    job: JobFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """It was: the record of the failure made the place one that is neither empty nor a corpus."""
    (tmp_path / "in").mkdir()
    write_lines(tmp_path / "in" / "a.jsonl", "a", "b")
    config = job(tmp_path / "in", tmp_path / "out", "verification.share=0")

    def fail(*args: object) -> None:
        raise Unavailable("the service is busy")

    with monkeypatch.context() as patch, pytest.raises(StoreError, match="busy"):
        patch.setattr(ingestion, step, fail)
        ingest(config)
    assert ingest(config).snapshot == 1
    assert documents(tmp_path / "out") == by_id("a", "b")


@pytest.mark.parametrize("whole", [True, False])
def test_a_bit_that_flips_in_the_document_index_hides_no_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    """It could: neither Parquet's footer nor its page headers have a checksum. A hidden document is stored a second time."""
    monkeypatch.setattr(document_index, "PROVEN_BYTES", 1 << 30 if whole else 0)
    store = Flipping(tmp_path)
    create_corpus(store)
    units = [write_unit(store, f"in/{n}", rows([page(doc, 0) for doc in range(10 * n, 10 * n + 8)])) for n in range(3)]
    segments = publish(store, "run", units).documents
    assert segments is not None
    wanted = [f"doc-{doc}" for doc in (0, 5, 11, 27)]
    truth = sorted(map(str, document_index.find(store, segments, wanted).to_pylist()))
    assert len(truth) == 4
    told = 0
    for at in range(0, 700 if whole else segments[0].bytes - 8 - _footer(store, segments[0].key), 3):
        store.flip = at
        try:
            assert sorted(map(str, document_index.find(store, segments, wanted).to_pylist())) == truth
        except Damaged:
            told += 1
    assert told == 0 if whole else told > 0  # what is read whole is read once more


class Flipping(LocalStore):
    """Turns a bit over, in the next read only."""

    flip: int | None = None

    def open(self, key: str) -> Any:
        body = bytearray((self.root / key).read_bytes())
        if self.flip is not None:
            body[self.flip] ^= 4
            self.flip = None
        return io.BytesIO(body)


def _footer(store: LocalStore, key: str) -> int:
    return int.from_bytes(store.read(key)[-8:-4], "little")
