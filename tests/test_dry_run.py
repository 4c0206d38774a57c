"""A dry run refuses what the real one refuses, with the same words, and writes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from palimpsest.cli.app import app

OLD = {"format": "palimpsest corpus", "version": 1}
REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "an old corpus": (("-o", "old"), "a corpus of format version 1, which is not read any more"),
    "somebody's folder": (("-o", "theirs"), "theirs/notes.txt is in the way: the output must be empty or a corpus"),
    "samples": (("-o", "samples"), "this corpus holds samples, not pages"),
    "a grid": (("-o", "new", "--set", "layout.grid=100x50"), "layout.grid 100x50: the embedded codec reads"),
    "no GPU": (("-o", "new", "--set", "codec.device=cuda"), "torch sees no GPU here"),
    "few CPUs": (
        ("-o", "new", "--set", "placement.encode_workers=1000"),
        "lower placement.cpus_per_worker, placement.encode_workers",
    ),
    "a column": (("-o", "new", "--set", "source.text_field=body"), "has no column 'body'; its columns are text"),
    "nothing": (("-o", "new", "-s", "none"), "'none' does not exist"),
}


@pytest.mark.parametrize("why", REFUSED)
@pytest.mark.parametrize("command", ["run", "ingest"])
def test_a_dry_run_refuses_what_the_real_one_refuses(
    command: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "no GPU" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    monkeypatch.chdir(tmp_path)
    for folder, name, content in (
        (".", "a.jsonl", '{"text": "a document"}\n'),
        ("old", "corpus.json", json.dumps(OLD)),
        ("samples", "corpus.json", json.dumps(OLD | {"version": 2, "holds": "samples"})),
        ("theirs", "notes.txt", "mine"),
    ):
        Path(folder).mkdir(exist_ok=True)
        Path(folder, name).write_text(content)
    before = sorted(tmp_path.rglob("*"))
    arguments, message = REFUSED[why]
    source = () if "-s" in arguments else ("-s", "a.jsonl")
    executor = () if why == "few CPUs" else ("--set", "placement.executor=local")
    for dry in (["--dry-run"], []):
        if why == "few CPUs" and not dry:
            continue  # it would start Ray, which takes the same function (flow/executor.py)
        done = CliRunner().invoke(app, [command, "local", *source, *arguments, *executor, *dry])
        assert (done.exit_code, isinstance(done.exception, SystemExit)) == (2, True), done.output
        assert message in " ".join(done.output.split()), done.output
        if dry:
            assert sorted(tmp_path.rglob("*")) == before


def test_an_ingestion_of_nothing_readable_names_what_it_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Path("in/logo.png").write_bytes(b"\x89PNG")
    done = CliRunner().invoke(app, ["ingest", "local", "-s", "in", "-o", "out"])
    assert done.exit_code == 2 and "nothing is there to read (1 name passed over: 1 not text (.png 1))" in done.output
