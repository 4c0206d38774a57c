"""What bad input gets beyond the readers: laid out as it is, refused in one line by the commands, or made again.

The readers' part is test_sources_bad_input.py; full and unwritable disks are in test_store_crash.py, damaged corpora in
test_store_fsck.py, and shards of another codec in test_reverify.py.
"""

from __future__ import annotations

import json
import os
import resource
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner, Result

from palimpsest.cli.app import app
from palimpsest.config import JobConfig, SourceConfig
from palimpsest.corpus.fsck import fsck
from palimpsest.corpus.gc import gc
from palimpsest.corpus.snapshots import iter_rows, latest
from palimpsest.flow.stages import Paginate, Write
from palimpsest.operations.run import run
from palimpsest.pages.layouts.grid import Grid
from palimpsest.pages.normalise import normalise
from palimpsest.schemas import DOCUMENTS, VERDICTS
from palimpsest.sources.listing import expand
from palimpsest.sources.tables import plan_units, read_unit_tables
from palimpsest.storage.local_store import LocalStore
from palimpsest.tiers.policies.protocol import policy_of
from tests.conftest import JobFactory
from tests.store_crash_child import job as make_corpus

GRID = Grid.parse("64x32", "latin")


def paginated(*texts: str) -> list[dict[str, Any]]:
    document = {"unit_id": "u", "kind": "document", "source_uri": "s", "source_version": "v"}
    documents = [{**document, "doc_id": f"{n:032x}", "text": text} for n, text in enumerate(texts)]
    return [
        row
        for table in Paginate(JobConfig(), GRID, policy_of(JobConfig(), GRID, "")[1])(pa.Table.from_pylist(documents, DOCUMENTS))
        for row in table.to_pylist()
    ]


# documents that no page was made for


@pytest.mark.parametrize(
    "text",
    ["a" + "\u0301" * 1_000_000, "word " * 400_000, "\x00\x01\x1b[0m\x7f\x85 NUL and the like", "م" + "\u0650" * 100_000],
    ids=["a million marks", "2 MB in one line", "control characters", "Arabic marks"],
)
def test_odd_documents_are_paginated_without_losing_a_character(text: str) -> None:
    start = time.process_time()
    rows = paginated(text)
    assert time.process_time() - start < 30
    assert {row["kind"] for row in rows} == {"page"}
    assert "".join(row["text"] for row in rows) == normalise(text)
    assert [row["page_number"] for row in rows] == list(range(rows[0]["num_pages"]))


def test_a_document_of_which_nothing_is_left_is_quarantined_and_its_neighbours_are_not() -> None:
    before, empty, after = paginated("before", "\u200b\ufeff", "after")
    assert (before["text"], after["text"]) == ("before", "after")
    assert (empty["kind"], empty["reason"], empty["record"]) == ("quarantined", "empty_text", "\u200b\ufeff".encode())


@pytest.mark.parametrize("text", [" ", " \n\t\n", "\u3000\u2003", "\u200b \u200b"])
def test_a_document_of_whitespace_is_quarantined(text: str) -> None:
    (row,) = paginated(text)
    assert (row["kind"], row["reason"]) == ("quarantined", "empty_text") and "whitespace" in row["detail"]


def test_tiny_documents_from_a_file_become_one_page_each(tmp_path: Path) -> None:
    path, config = tmp_path / "tiny.jsonl", SourceConfig()
    path.write_text("".join(json.dumps({"id": n % 7, "text": f"t{n}"}) + "\n" for n in range(3000)))
    (unit,) = plan_units(expand([str(path)], config)[0], config)
    paginate = Paginate(JobConfig(), GRID, policy_of(JobConfig(), GRID, "")[1])
    rows = [
        row for table in read_unit_tables(unit, config, unit_id="u") for pages in paginate(table) for row in pages.to_pylist()
    ]
    assert [row["text"] for row in rows if row["kind"] == "page"] == [f"t{n}" for n in range(3000)]  # ids repeat, texts do not
    assert rows[-1]["kind"] == "unit_end" and rows[-1]["control"]["repeated_ids"] == 2993


# a disk that fills while shards are written


def test_a_disk_that_fills_under_a_worker_is_told_in_a_row(tmp_path: Path) -> None:
    page = {"unit_id": "u", "kind": "page", "page_id": "p", "doc_id": "d", "page_number": 0, "num_pages": 1, "tier": "text"}
    table = pa.Table.from_pylist([{**page, "text": os.urandom(40_000).hex()}], VERDICTS)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        (row,) = Write(str(tmp_path), 1 << 20)(table).to_pylist()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert row["kind"] == "failed" and "larger than this process may write" in row["detail"]
    assert list(LocalStore(tmp_path).list()) == []


# what the commands say


def palimpsest(*arguments: object) -> Result:
    """A command in this process; a bug would come out as the exception that it is."""
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    make_corpus(tmp_path / "corpus")
    return tmp_path / "corpus"


def damage(corpus: Path, what: str) -> str:
    """Damage one object of a corpus; returns its name."""
    shard, snapshot = next((corpus / "data" / "base").glob("*.parquet")), max((corpus / "_snapshots").iterdir())
    if what == "truncated shard":
        shard.write_bytes(shard.read_bytes()[:-20])
    elif what == "vanished shard":
        shard.unlink()
    elif what == "overwritten shard":
        shard.write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    else:
        snapshot.write_bytes(b'{"number": 1')
        return snapshot.name
    return shard.name


@pytest.mark.parametrize("what", ["truncated shard", "vanished shard", "overwritten shard", "damaged snapshot"])
def test_a_damaged_corpus_is_named_by_every_command(corpus: Path, what: str) -> None:
    named = damage(corpus, what)
    for command in ("inspect", "report"):
        result = palimpsest(command, corpus)
        assert result.exit_code == 1 and named in result.stderr, (command, result.output)
        assert len(result.stderr.splitlines()) == 1
    result = palimpsest("fsck", corpus)
    assert result.exit_code == 3 and named in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["report", "{corpus}", "--out", "{file}/report.html"], 1, "file"),
        (["report", "{corpus}", "--out", "{folder}"], 1, "directory"),
        (["inspect", "{corpus}", "--image", "page.png"], 2, "needs the id of a page"),
        (["verify", "{folder}"], 2, "not a corpus"),
        (["gc", "{file}"], 1, "file"),
        (["run", "{file}"], 2, "presets that come with Palimpsest"),
        (["run", "{preset}"], 2, "did you mean tiers.mode"),
        (["bench", "fidelity", "{file}.jsonl"], 2, "file.jsonl"),
    ],
)
def test_what_cannot_be_read_or_written_is_one_line(
    arguments: list[str], code: int, said: str, corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    (tmp_path / "preset.toml").write_text('[tiers]\nmoed = "tiny"\n')
    names = {"corpus": corpus, "file": tmp_path / "file", "folder": tmp_path / "folder", "preset": tmp_path / "preset.toml"}
    result = palimpsest(*(argument.format_map(names) for argument in arguments))
    assert result.exit_code == code and said in result.stderr, result.output
    assert len(result.stderr.splitlines()) == 1


def test_a_corpus_with_brackets_in_its_name_is_shown_by_it(tmp_path: Path) -> None:
    make_corpus(tmp_path / "a[bold]b[/c]")
    result = palimpsest("report", tmp_path / "a[bold]b[/c]", "--out", tmp_path / "a[bold]b[/c]" / "r.html")
    assert result.stdout == f"{tmp_path / 'a[bold]b[/c]' / 'r.html'}\n"


# and what docs/running.md says of a damaged shard


def test_a_damaged_shard_is_made_again(job: JobFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table's steps: fsck names it, it is deleted, the next run makes it, and gc ends what fsck says of the old snapshot."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.txt").write_text(f"The text of {name}. " * 20)
    config, store = job(folder, out, "verification.share=0"), LocalStore(out)
    run(config)
    shard = next((out / "data" / "tiny").glob("*.parquet"))
    body = bytearray(shard.read_bytes())
    body[len(body) // 2] ^= 1
    shard.write_bytes(body)
    (finding,) = fsck(store)
    assert finding.severity == "error" and shard.name in finding.key and "has sha256" in finding.what
    shard.unlink()
    again = run(config)
    assert (again.units_new, again.units_done) == (1, 1)
    snapshot = latest(store)
    assert snapshot is not None
    assert sorted(row["text"][:14] for row in iter_rows(store, snapshot)) == ["The text of a.", "The text of b."]
    assert {finding.key for finding in fsck(store) if finding.severity == "error"} == {f"data/tiny/{shard.name}"}
    gc(store, now=datetime.now(UTC) + timedelta(days=9), delete=True)
    assert fsck(store) == []
