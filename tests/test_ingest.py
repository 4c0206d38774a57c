"""Incremental passes: what is new, rewritten or vanished, with the stages in this process and local sources."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from palimpsest.errors import RunFailed
from palimpsest.flow import executor
from palimpsest.operations import ingest as ingestion
from palimpsest.operations.ingest import IngestResult, ingest
from palimpsest.operations.run import run
from palimpsest.storage.local_store import LocalStore
from palimpsest.storage.object_store import NoSuchObject
from tests.conftest import JobFactory
from tests.test_run import by_id, documents, errors, newest, write_lines

Pass = Callable[..., IngestResult]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abcd":
        write_lines(folder / f"{name}.jsonl", name, f"{name}{name}")
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def go(job: JobFactory, folder: Path, out: Path) -> Pass:
    """`go("key=value", …)`: one pass over the folder."""

    def one(*overrides: str, dry_run: bool = False) -> IngestResult:
        return ingest(job(folder, out, "verification.share=0", *overrides), dry_run=dry_run)

    return one


@pytest.fixture
def lazy(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """After a call, whatever begins to work fails the test."""

    def arrange() -> None:
        def refuse(*args: Any, **kwargs: Any) -> Any:
            raise AssertionError("this pass has nothing to work on")

        for where, name in ((executor, "started"), (ingestion, "prepare"), (ingestion, "probe")):
            monkeypatch.setattr(where, name, refuse)

    return arrange


class Counting(LocalStore):
    """A store that counts what is asked of it."""

    asked: dict[str, int] = {}

    def _count(self, what: str) -> None:
        self.asked[what] = self.asked.get(what, 0) + 1

    def open(self, key: str) -> Any:
        self._count("open")
        return super().open(key)

    def list(self, prefix: str = "") -> Iterator[Any]:
        self._count("list")
        return super().list(prefix)

    def exists(self, key: str) -> bool:
        self._count("exists")
        return super().exists(key)

    def create(self, key: str, body: Any) -> bool:
        self._count("write")
        return super().create(key, body)

    def put(self, key: str, body: Any) -> None:
        self._count("write")
        return super().put(key, body)


def age(folder: Path) -> None:
    """Let the files be older than the moment in which a change could hide."""
    for path in folder.iterdir():
        os.utime(path, (1e9, 1e9), follow_symlinks=False)


def kinds(result: IngestResult) -> dict[str, int]:
    return {kind: count for kind, count in result.changes.items() if count}


# what is new


def test_the_first_pass_takes_everything_and_the_second_nothing(go: Pass, out: Path, lazy: Callable[[], None]) -> None:
    first = go()
    assert (kinds(first), first.snapshots, first.units_new) == ({"new": 4}, (1,), 4)
    assert documents(out) == by_id(*(text for name in "abcd" for text in (name, name * 2))) and errors(out) == []
    lazy()
    second = go()
    assert (kinds(second), second.snapshots, second.units_new, second.snapshot) == ({"unchanged": 4}, (), 0, 1)


def test_a_run_and_an_ingestion_know_each_others_work(
    go: Pass, job: JobFactory, folder: Path, out: Path, lazy: Callable[[], None]
) -> None:
    config = job(folder, out, "verification.share=0")
    run(config)
    lazy()
    assert kinds(go()) == {"unchanged": 4}
    again = run(config)
    assert (again.units_new, again.units_done, again.snapshot) == (0, 4, 1)


def test_only_what_changed_is_processed(go: Pass, folder: Path, out: Path) -> None:
    go()
    write_lines(folder / "b.jsonl", "b", "new in b")
    write_lines(folder / "e.jsonl", "e")
    result = go()
    assert (kinds(result), result.units_new, result.snapshots) == ({"unchanged": 3, "new": 1, "rewritten": 1}, 2, (2, 3))
    expected = by_id("a", "aa", "b", "new in b", "c", "cc", "d", "dd", "e")
    assert documents(out) == expected and errors(out) == []


def test_a_touched_file_is_not_a_new_one(go: Pass, folder: Path, lazy: Callable[[], None]) -> None:
    go()
    age(folder)
    lazy()
    assert kinds(go()) == {"unchanged": 4}


def test_a_rewrite_behind_the_same_size_is_seen(go: Pass, folder: Path, out: Path) -> None:
    age(folder)
    go()
    go()
    write_lines(folder / "a.jsonl", "A", "aa")
    assert kinds(go()) == {"unchanged": 3, "rewritten": 1} and set(by_id("A")) <= set(documents(out))


def test_a_quiet_night_costs_a_listing_and_a_few_reads_whatever_the_number_of_objects(
    go: Pass, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go()
    age(folder)
    go()  # reads the files again, whose times have changed, and remembers them
    monkeypatch.setattr(ingestion, "open_store", Counting)
    monkeypatch.setattr(Counting, "asked", {})
    go()
    assert Counting.asked == {"list": 1, "open": 2, "write": 1}  # snapshots; the newest, and what was remembered; stats.json


def test_a_dry_run_says_the_same_and_writes_nothing(go: Pass, folder: Path, out: Path, lazy: Callable[[], None]) -> None:
    lazy()
    assert kinds(go(dry_run=True)) == {"new": 4} and not out.exists()


def test_batches_are_published_one_by_one(go: Pass, out: Path) -> None:
    result = go("ingest.batch_units=2")
    assert (result.snapshots, result.units_new, len(newest(out).units)) == ((1, 2, 3, 4)[: len(result.snapshots)], 4, 4)
    assert len(result.snapshots) >= 2 and errors(out) == []


def test_an_object_in_slices_is_published_whole(go: Pass, folder: Path, out: Path, lazy: Callable[[], None]) -> None:
    write_lines(folder / "huge.jsonl", *(f"text {number} " * 20 for number in range(40)))
    assert go("source.unit_bytes=1000", "ingest.batch_units=1").units_new > 8
    assert len(documents(out)) == 48 and errors(out) == []
    lazy()
    assert kinds(go()) == {"unchanged": 5}


def test_an_empty_object_is_one_unit_without_documents(go: Pass, folder: Path, out: Path, lazy: Callable[[], None]) -> None:
    (folder / "empty.jsonl").touch()
    assert go().units_new == 5 and errors(out) == []
    lazy()
    assert kinds(go()) == {"unchanged": 5}


# documents that several objects hold


def test_a_document_of_an_earlier_night_is_not_stored_again(go: Pass, folder: Path, out: Path) -> None:
    go()
    write_lines(folder / "e.jsonl", "aa", "e")
    result = go()
    assert (result.fresh.duplicates, result.units_new) == (1, 1)
    assert documents(out) == by_id(*"abcde", "aa", "bb", "cc", "dd") and errors(out) == []


def test_a_document_that_its_owner_gives_up_is_stored_by_who_left_it_out(go: Pass, folder: Path, out: Path) -> None:
    go()
    write_lines(folder / "e.jsonl", "aa", "e")
    go()
    write_lines(folder / "a.jsonl", "a")
    result = go()
    assert (kinds(result), result.stale, result.units_new) == ({"unchanged": 4, "rewritten": 1}, 1, 2)
    assert documents(out) == by_id(*"abcde", "aa", "bb", "cc", "dd") and errors(out) == []


def test_what_cannot_be_replaced_stays_and_is_named(go: Pass, folder: Path, out: Path) -> None:
    go()
    write_lines(folder / "e.jsonl", "aa", "e")
    go()
    (folder / "e.jsonl").unlink()
    write_lines(folder / "a.jsonl", "a")
    result = go()
    assert [(Path(stuck.source_uri).name, Path(stuck.by).name) for stuck in result.blocked] == [("a.jsonl", "e.jsonl")]
    assert result.findings and errors(out) == [] and set(by_id("aa", "e")) <= set(documents(out))
    assert go("ingest.vanished=drop", "ingest.drop_share=1").blocked == ()
    assert documents(out) == by_id(*"abcd", "bb", "cc", "dd") and errors(out) == []


# what vanished


def test_vanished_objects_are_kept_or_dropped(go: Pass, folder: Path, out: Path, lazy: Callable[[], None]) -> None:
    go()
    (folder / "a.jsonl").unlink()
    assert (kinds(go()), len(newest(out).units)) == ({"unchanged": 3, "vanished": 1}, 4)
    with pytest.raises(RunFailed, match=r"1 of 4 published objects .* ingest.drop_share = 10.0%"):
        go("ingest.vanished=drop")
    result = go("ingest.vanished=drop", "ingest.drop_share=0.25")
    assert (result.dropped, len(newest(out).units)) == (1, 3)
    assert documents(out) == by_id(*"bcd", "bb", "cc", "dd") and errors(out) == []
    lazy()
    assert kinds(go("ingest.vanished=drop")) == {"unchanged": 3}


def test_an_empty_listing_drops_nothing(go: Pass, folder: Path, out: Path) -> None:
    with pytest.raises(ValueError, match="nothing is there to read, and nothing of it is published"):
        for path in folder.iterdir():
            path.rename(out.parent / path.name)
        go()
    for path in out.parent.glob("*.jsonl"):
        path.rename(folder / path.name)
    go()
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(RunFailed, match="Is the listing complete"):
        go("ingest.vanished=drop", "ingest.drop_share=0.9")
    assert kinds(go()) == {"vanished": 4} and len(documents(out)) == 8


def test_what_another_job_published_is_no_vanished_object(go: Pass, job: JobFactory, tmp_path: Path, out: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_lines(other / "x.jsonl", "x")
    ingest(job(other, out))
    assert kinds(go("ingest.vanished=drop")) == {"new": 4, "elsewhere": 1}
    assert set(by_id("x")) <= set(documents(out))


# other settings


def test_other_settings_leave_what_is_published_or_replace_it(go: Pass, folder: Path, out: Path) -> None:
    go()
    write_lines(folder / "e.jsonl", "e")
    assert kinds(go("storage.tokens=bf16")) == {"other_settings": 4, "new": 1}
    result = go("storage.tokens=bf16", "ingest.other_settings=replace", "ingest.batch_units=2")
    assert (kinds(result), result.units_new) == ({"unchanged": 1, "rewritten": 4}, 4)
    assert {unit.fingerprint for unit in newest(out).units} == {newest(out).units[0].fingerprint} and errors(out) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ingest.vanished=burn", "ingest.vanished = 'burn': choose keep or drop"),
        ("ingest.tries=0", "ingest.tries = 0: at least 1"),
        ("ingest.drop_share=2.0", "ingest.drop_share = 2.0: a share"),
        ("ingest.batch=3", "did you mean ingest.batch_"),
    ],
)
def test_bad_settings_are_named(override: str, message: str, job: JobFactory, folder: Path, out: Path) -> None:
    with pytest.raises(ValueError, match=message):
        job(folder, out, override)


# what a pass finds damaged


def test_the_memory_of_a_pass_is_only_advice(go: Pass, out: Path, lazy: Callable[[], None]) -> None:
    go()
    store = LocalStore(out)
    for info in list(store.list("_ingest/")):
        store.put(info.key, b"damaged")
    lazy()
    assert kinds(go()) == {"unchanged": 4}


def test_a_pass_needs_a_corpus_that_it_can_read(go: Pass, out: Path) -> None:
    go()
    store = LocalStore(out)
    store.delete(next(store.list("_manifests/")).key)
    for info in list(store.list("_ingest/")):
        store.delete(info.key)
    with pytest.raises(NoSuchObject, match="_manifests"):
        go()
