"""`palimpsest snapshots`, `status` and `ingest` on a corpus of a few nights."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from palimpsest.cli.app import app
from palimpsest.config import to_toml
from palimpsest.corpus.gc import gc
from palimpsest.corpus.run_records import began_at, new_run_id
from palimpsest.errors import RunFailed
from palimpsest.operations.ingest import IngestResult, ingest
from palimpsest.operations.status import list_versions, status_of
from palimpsest.storage.local_store import LocalStore
from tests.conftest import JobFactory
from tests.test_run import write_lines

Night = Callable[..., IngestResult]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abc":
        write_lines(folder / f"{name}.jsonl", name, f"{name}{name}")
    return folder


@pytest.fixture
def out(folder: Path, job: JobFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two nights, then one that fails and leaves a committed unit."""
    out = tmp_path / "out"
    config = job(folder, out, "verification.share=0", "limits.quarantine_share=0.01")
    (tmp_path / "job.toml").write_text(to_toml(config))
    ingest(config)
    write_lines(folder / "a.jsonl", "A")
    (folder / "bad.jsonl").write_text("no json\n")
    ingest(config)
    write_lines(folder / "worse.jsonl", *(f"sound {n}" for n in range(50)))
    with (folder / "worse.jsonl").open("a") as lines:
        lines.write("no json\n" * 50)  # half of it: were it more, the object as a whole would count as one document
    with pytest.raises(RunFailed):
        ingest(config)
    return out


def test_versions_say_what_changed_and_what_is_shared(out: Path) -> None:
    *_, first, second, third = list_versions(str(out))
    assert (first.number, first.units, first.added, first.dropped, first.parent) == (1, 3, 3, 0, None)
    assert (second.units, second.added, second.dropped, second.shards, second.shards_shared) == (3, 1, 1, 3, 2)
    assert (third.units, third.added, third.dropped, third.pages) == (4, 1, 0, 5)
    assert first.published <= second.published <= third.published and third.run_id == second.run_id
    assert [version.number for version in list_versions(str(out), last=1)] == [3]
    gc(LocalStore(out), now=datetime.now(UTC) + timedelta(days=9), delete=True)
    (left,) = list_versions(str(out))
    assert (left.number, left.added, left.shards_shared) == (3, None, None)


def test_status_tells_age_quarantine_pending_units_and_the_last_runs(out: Path, folder: Path) -> None:
    later = datetime.now(UTC) + timedelta(hours=30)
    status = status_of(str(out), max_age=timedelta(hours=26), now=later, sources=[str(folder)])
    assert (status.snapshot, status.units, status.pending, status.quarantine) == (3, 4, 1, {"invalid_json": 1})
    assert status.too_old and status.age is not None and 29 * 3600 < status.age < 31 * 3600
    assert [run["outcome"] for run in status.runs] == ["failed", "published", "published"]
    assert "50 of 100" in status.runs[0]["reason"] and status.runs[0]["reasons"] == {"invalid_json": 50}
    assert status.lag is not None and (status.lag.listed, status.lag.behind, status.lag.vanished) == (5, 1, 0)
    assert not status_of(str(out), max_age=timedelta(hours=40), now=later).too_old


def test_status_lists_the_sources_as_the_job_did(job: JobFactory, tmp_path: Path) -> None:
    """`a.log` and `b.log` tell no format by their names, and the link is followed only if asked."""
    (tmp_path / "in").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "in" / "a.log").write_text("a document")
    (tmp_path / "elsewhere" / "b.log").write_text("another")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    ingest(job(tmp_path / "in", tmp_path / "out", "source.format=text", "source.follow_symlinks=true", "verification.share=0"))
    (tmp_path / "elsewhere" / "c.log").write_text("a third")
    lag = status_of(str(tmp_path / "out"), sources=[str(tmp_path / "in")]).lag
    assert lag is not None and (lag.listed, lag.behind, lag.vanished) == (3, 1, 0)


def test_runs_sort_by_when_they_began_and_say_it() -> None:
    before = datetime.now(UTC)
    names = [new_run_id() for _ in range(20)]
    moments = [began_at(name) for name in names]
    assert names == sorted(names)
    assert all(moment is not None and before <= moment <= datetime.now(UTC) for moment in moments)
    assert began_at("20260102T030405-abcdef") == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC) and began_at("mine") is None
    assert sorted(["20260102T030405000001-a", "20260102T030405-b"])[0] == "20260102T030405-b"


def test_the_commands_print_and_exit_as_they_say(out: Path, folder: Path, tmp_path: Path) -> None:
    def palimpsest(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, list(arguments))
        return result.exit_code, result.stdout

    code, said = palimpsest("snapshots", str(out), "--json")
    assert code == 0 and [version["number"] for version in json.loads(said)] == [1, 2, 3]
    assert "snapshots of" in palimpsest("snapshots", str(out))[1]
    assert palimpsest("status", str(out), "--max-age", "1d")[0] == 0
    code, said = palimpsest("status", str(out), "--max-age", "0s", "--source", str(folder), "--json")
    assert code == 3 and json.loads(said)["lag"]["behind"] == 1
    assert "(too old)" in palimpsest("status", str(out), "--max-age", "0s")[1]
    assert palimpsest("status", str(tmp_path / "nowhere"))[0] == 2
    assert palimpsest("status", str(out), "--max-age", "soon")[0] == 2

    preset = str(tmp_path / "job.toml")
    code, said = palimpsest("ingest", preset, "--dry-run", "--json")
    assert code == 0 and json.loads(said)["changes"]["new"] == 1
    assert palimpsest("ingest", preset)[0] == 1  # too much is quarantined
    (folder / "worse.jsonl").unlink()
    os.mkfifo(folder / "pipe.jsonl")
    code, said = palimpsest("ingest", preset)
    assert code == 3 and "not read:" in said and "1 new" in said
    (folder / "pipe.jsonl").unlink()
    code, said = palimpsest("ingest", preset, "--json")
    assert code == 0 and json.loads(said)["changes"]["unchanged"] == 4
    assert palimpsest("ingest", preset, "--source", str(tmp_path / "nowhere"))[0] == 2
