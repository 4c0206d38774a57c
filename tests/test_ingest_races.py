"""Passes during which others publish or objects change: nothing is done twice, brought back or lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from palimpsest.flow.local_executor import LocalExecutor
from palimpsest.operations.ingest import IngestResult, ingest
from palimpsest.storage.local_store import LocalStore
from tests.conftest import JobFactory
from tests.test_ingest import Pass, folder, go, kinds, out
from tests.test_run import by_id, documents, errors, newest, write_lines

__all__ = ["folder", "go", "out"]  # the fixtures


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """`meanwhile(do)`: `do` happens between the planning and the processing of the next batch."""

    def arrange(do: Callable[[], object]) -> None:
        undisturbed = LocalExecutor.run_units

        def process(*args: Any) -> Any:
            monkeypatch.setattr(LocalExecutor, "run_units", undisturbed)
            do()
            return undisturbed(*args)

        monkeypatch.setattr(LocalExecutor, "run_units", process)

    return arrange


def test_two_passes_at_once_do_the_work_once(go: Pass, out: Path, meanwhile: Callable[[Callable[[], object]], None]) -> None:
    others: list[IngestResult] = []
    meanwhile(lambda: others.append(go()))
    mine = go()
    assert others[0].units_new == 4 and mine.units_new == 4  # mine took them as they were
    assert mine.snapshot == others[0].snapshot == 1 and mine.snapshots == ()
    shards = {info.key for info in LocalStore(out).list("data/")}
    assert shards == {shard.key for unit in newest(out).units for shard in unit.shards} and errors(out) == []


def test_a_pass_that_is_overtaken_by_a_newer_version_does_not_bring_the_old_one_back(
    go: Pass, folder: Path, out: Path, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    go()
    write_lines(folder / "a.jsonl", "second")
    old = (folder / "a.jsonl").read_bytes()

    def overtake() -> None:
        write_lines(folder / "a.jsonl", "third")
        go()
        (folder / "a.jsonl").write_bytes(old)  # what the first pass listed is what it reads

    meanwhile(overtake)
    result = go()
    assert (result.elsewhere, result.snapshots) == (1, ())
    assert set(by_id("third")) <= set(documents(out)) and errors(out) == []


def test_a_pass_plans_again_when_what_it_relies_on_is_replaced(
    go: Pass, folder: Path, out: Path, meanwhile: Callable[[Callable[[], object]], None], job: JobFactory
) -> None:
    go()
    write_lines(folder / "e.jsonl", "aa", "e")

    def replace_owner() -> None:
        write_lines(folder / "a.jsonl", "a")
        ingest(job(folder / "a.jsonl", out, "verification.share=0"))

    meanwhile(replace_owner)
    result = go()
    assert result.snapshots == (3,) and errors(out) == []
    assert documents(out) == by_id(*"abcde", "aa", "bb", "cc", "dd")


def test_an_object_that_changes_or_arrives_during_a_pass_is_taken_by_the_next(
    go: Pass, folder: Path, out: Path, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    def change() -> None:
        write_lines(folder / "a.jsonl", "a that became longer")
        write_lines(folder / "late.jsonl", "late")
        (folder / "b.jsonl").unlink()

    meanwhile(change)
    first = go()
    assert sorted(Path(lost.source_uri).name for lost in first.unread) == ["a.jsonl", "b.jsonl"]
    assert documents(out) == by_id("c", "cc", "d", "dd")
    second = go()
    assert kinds(second) == {"unchanged": 2, "new": 2} and not second.findings
    assert documents(out) == by_id("c", "cc", "d", "dd", "a that became longer", "late") and errors(out) == []
