"""Sources that change between runs, or are lost during one: no document is lost or stored twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palimpsest.errors import RunFailed
from palimpsest.flow.local_executor import LocalExecutor
from palimpsest.operations.run import run
from tests.conftest import JobFactory
from tests.mixed_sources import prose
from tests.test_run import by_id, documents, errors, write_lines

# sources that change


def test_a_changed_source_replaces_its_old_pages(job: JobFactory, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    write_lines(folder / "a.jsonl", "stays", "goes")
    write_lines(folder / "b.jsonl", "other")
    run(job(folder, out))
    write_lines(folder / "a.jsonl", "stays", "comes")
    again = run(job(folder, out))
    assert (again.units_new, again.units_done, again.snapshot) == (1, 1, 2)
    assert documents(out) == by_id("stays", "comes", "other") and errors(out) == []


@pytest.mark.parametrize("new", [["mine"], ["mine", "shared"]])
def test_a_document_that_its_owner_gives_up_or_moves_is_neither_lost_nor_doubled(
    new: list[str], job: JobFactory, tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    write_lines(folder / "a.jsonl", "shared", "old")
    write_lines(folder / "b.jsonl", "shared", "other")  # relies on a.jsonl
    assert run(job(folder, out)).counts.duplicates == 1
    write_lines(folder / "a.jsonl", *new)
    run(job(folder, out))
    assert documents(out) == by_id("shared", "mine", "other") and errors(out) == []


def test_a_new_source_before_the_owner_of_a_document_leaves_it_there(job: JobFactory, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    write_lines(folder / "b.jsonl", "shared", "other")
    run(job(folder, out))
    write_lines(folder / "a.jsonl", "new", "shared")
    again = run(job(folder, out))
    assert (again.units_new, again.fresh.duplicates) == (1, 1)
    assert documents(out) == by_id("shared", "new", "other") and errors(out) == []


def test_sources_of_an_earlier_run_stay_and_share_their_documents(job: JobFactory, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_lines(tmp_path / "a.jsonl", "shared", "a")
    write_lines(tmp_path / "b.jsonl", "shared", "b")
    run(job(tmp_path / "a.jsonl", out))
    run(job(tmp_path / "b.jsonl", out))
    assert documents(out) == by_id("shared", "a", "b") and errors(out) == []
    write_lines(tmp_path / "a.jsonl", "a")
    with pytest.raises(ValueError, match=r"b\.jsonl left out documents .* name it among the sources too"):
        run(job(tmp_path / "a.jsonl", out))
    run(job(tmp_path, out))
    assert documents(out) == by_id("shared", "a", "b") and errors(out) == []


def test_another_slicing_replaces_the_old_slices(job: JobFactory, tmp_path: Path) -> None:
    source, out = tmp_path / "a.jsonl", tmp_path / "out"
    texts = [prose(200, seed) for seed in range(8)]
    write_lines(source, *texts)
    run(job(source, out))
    sliced = run(job(source, out, "source.unit_bytes=500"))
    assert sliced.units_new > 2 and errors(out) == []
    assert documents(out) == by_id(*texts)


# sources that cannot be read


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`interrupted(change)`: call `change` between the planning and the processing of the next run."""
    undisturbed = LocalExecutor.run_units

    def arrange(change: Any) -> None:
        def process(*args: Any) -> Any:
            change()
            monkeypatch.setattr(LocalExecutor, "run_units", undisturbed)
            return undisturbed(*args)

        monkeypatch.setattr(LocalExecutor, "run_units", process)

    yield arrange


@pytest.mark.parametrize("reason", ["vanished", "changed"])
def test_a_source_that_is_lost_while_running_is_tried_again(
    reason: str, job: JobFactory, tmp_path: Path, interrupted: Any
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    write_lines(folder / "a.jsonl", "shared", "a")
    write_lines(folder / "b.jsonl", "shared", "b")
    write_lines(folder / "c.jsonl", "c")
    content = (folder / "a.jsonl").read_bytes()
    interrupted(lambda: (folder / "a.jsonl").unlink() if reason == "vanished" else write_lines(folder / "a.jsonl", "longer " * 9))
    lost = run(job(folder, out))
    assert [(source.source_uri, source.reason) for source in lost.unread] == [(str(folder / "a.jsonl"), reason)]
    assert (lost.units_new, lost.units_waiting) == (2, 1)  # b.jsonl left "shared" to a.jsonl
    assert documents(out) == by_id("c") and errors(out) == []
    (folder / "a.jsonl").write_bytes(content)
    again = run(job(folder, out))
    assert (again.units_new, again.units_done, again.unread) == (1, 2, ())
    assert documents(out) == by_id("shared", "a", "b", "c") and errors(out) == []


def test_a_source_that_is_lost_keeps_its_old_version_published(job: JobFactory, tmp_path: Path, interrupted: Any) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    write_lines(folder / "a.jsonl", "moves", "a")
    write_lines(folder / "b.jsonl", "b")
    run(job(folder, out))
    write_lines(folder / "a.jsonl", "a", "a2")
    write_lines(folder / "b.jsonl", "b", "moves")
    write_lines(folder / "c.jsonl", "c")
    interrupted((folder / "a.jsonl").unlink)
    lost = run(job(folder, out))
    assert lost.units_waiting == 1  # b.jsonl has "moves" now, which the old a.jsonl still stores
    assert documents(out) == by_id("moves", "a", "b", "c") and errors(out) == []
    write_lines(folder / "a.jsonl", "a", "a2")
    assert run(job(folder, out)).units_new == 1
    assert documents(out) == by_id("moves", "a", "a2", "b", "c") and errors(out) == []


def test_a_source_that_cannot_be_read_at_all_is_named_in_every_run(job: JobFactory, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    write_lines(folder / "a.jsonl", "a")
    os.mkfifo(folder / "b.jsonl")
    for _ in range(2):
        result = run(job(folder, out))
        assert [Path(source.source_uri).name for source in result.unread] == ["b.jsonl"]
        assert documents(out) == by_id("a") and errors(out) == []
    with pytest.raises(RunFailed, match="1 of 2 documents"):
        run(job(folder, out, "limits.quarantine_share=0.1"))
