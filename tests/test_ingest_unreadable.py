"""Objects that cannot be read: how often they are tried, when they are given up, and that their pages stay."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from palimpsest.corpus.snapshots import snapshot_numbers
from palimpsest.errors import RunFailed
from palimpsest.storage.local_store import LocalStore
from tests.test_ingest import Pass, folder, go, kinds, lazy, out
from tests.test_run import by_id, documents, errors, quarantine, write_lines

__all__ = ["folder", "go", "lazy", "out"]  # the fixtures


def test_an_unreadable_object_is_tried_a_few_times_and_then_quarantined(
    go: Pass, folder: Path, out: Path, lazy: Callable[[], None]
) -> None:
    os.mkfifo(folder / "bad.jsonl")
    for _ in range(2):
        result = go("ingest.tries=3")
        assert [Path(lost.source_uri).name for lost in result.unread] == ["bad.jsonl"] and result.findings
        assert result.given_up == () and len(documents(out)) == 8
    last = go("ingest.tries=3")
    assert ([Path(name).name for name in last.given_up], last.unread, last.findings) == (["bad.jsonl"], (), True)
    assert [(row["reason"], Path(row["source_uri"]).name) for row in quarantine(out)] == [("unreadable", "bad.jsonl")]
    assert errors(out) == []
    lazy()
    quiet = go("ingest.tries=3")
    assert kinds(quiet) == {"unchanged": 5} and not quiet.findings


def test_a_last_try_that_was_cut_off_before_it_published_is_not_forgotten(
    go: Pass, folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between its note of the last try and its snapshot, a pass must not make an object disappear without a trace."""
    os.mkfifo(folder / "bad.jsonl")

    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("palimpsest.operations.ingest_batch.publish", cut)
        go("ingest.tries=1")
    assert len(list(LocalStore(out).list("_ingest/tries/"))) == 1 and snapshot_numbers(LocalStore(out)) == []
    assert len(go("ingest.tries=1").given_up) == 1
    assert [Path(row["source_uri"]).name for row in quarantine(out)] == ["bad.jsonl"] and errors(out) == []
    assert kinds(go("ingest.tries=1")) == {"unchanged": 5}


def test_a_given_up_object_is_read_again_when_it_changes(go: Pass, folder: Path, out: Path) -> None:
    os.mkfifo(folder / "bad.jsonl")
    assert len(go("ingest.tries=1").given_up) == 1
    (folder / "bad.jsonl").unlink()
    write_lines(folder / "bad.jsonl", "good again")
    assert kinds(go()) == {"unchanged": 4, "rewritten": 1}
    assert quarantine(out) == [] and set(by_id("good again")) <= set(documents(out)) and errors(out) == []


def test_an_object_that_becomes_unreadable_keeps_its_pages(go: Pass, folder: Path, out: Path, lazy: Callable[[], None]) -> None:
    go()
    (folder / "a.jsonl").unlink()
    os.mkfifo(folder / "a.jsonl")
    assert len(go("ingest.tries=2").unread) == 1
    assert len(go("ingest.tries=2").given_up) == 1
    assert set(by_id("a", "aa")) <= set(documents(out)) and quarantine(out) == [] and errors(out) == []
    lazy()
    assert kinds(go("ingest.tries=2")) == {"unchanged": 3, "given_up": 1}


def test_a_corrupt_object_costs_one_night(go: Pass, folder: Path, out: Path, lazy: Callable[[], None]) -> None:
    (folder / "bad.parquet").write_bytes(b"PAR1 but no more")
    assert go("limits.quarantine_share=0.01").reasons == {"corrupt_parquet": 1}
    lazy()
    assert kinds(go()) == {"unchanged": 5} and len(quarantine(out)) == 1


def test_a_garbage_object_is_one_finding_whatever_its_lines(go: Pass, folder: Path, out: Path, lazy: Callable[[], None]) -> None:
    (folder / "garbage.jsonl").write_text('{"text": "the one good line"}\n' + "no json\n" * 5000)
    result = go("limits.quarantine_share=0.01")
    (bad,) = result.set_aside
    assert (Path(bad.source_uri).name, bad.quarantined, bad.documents, result.findings) == ("garbage.jsonl", 5000, 5001, True)
    assert set(by_id("the one good line")) <= set(documents(out)) and errors(out) == []
    lazy()
    quiet = go("limits.quarantine_share=0.01")  # its version is known: not read again
    assert kinds(quiet) == {"unchanged": 5} and not quiet.findings


def test_too_much_quarantine_stops_the_pass_and_says_so_in_its_record(go: Pass, folder: Path, out: Path) -> None:
    go()
    good = [json.dumps({"text": f"good {n}"}) for n in range(31)]
    (folder / "e.jsonl").write_text("\n".join([*good, *["no json"] * 30]))
    with pytest.raises(RunFailed, match="30 of 61 documents .* invalid_json 30"):
        go("limits.quarantine_share=0.01")
    records = [json.loads(path.read_text()) for path in out.glob("runs/*/stats.json")]
    records.sort(key=lambda record: record["outcome"], reverse=True)  # not by name: both may be of the same second
    assert [record["outcome"] for record in records] == ["published", "failed"]
    assert records[1]["reasons"] == {"invalid_json": 30} and "30 of 61" in records[1]["reason"]
    assert snapshot_numbers(LocalStore(out)) == [1]
    assert go("limits.quarantine_share=1.0").units_done == 1
