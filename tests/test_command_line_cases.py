"""What a user does in the first hour, through the command line to the published rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import palimpsest
from palimpsest.cli.app import app

LENIENT = "limits.quarantine_share=1.0"
HERE = ("--set", "placement.executor=local", "--set", "verification.share=0")


def ask(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in (*arguments, *HERE)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def texts(corpus: str | Path) -> set[str]:
    return {document.text for document in palimpsest.Corpus(str(corpus)).documents()}


@pytest.mark.parametrize("command", ["run", "ingest"])
def test_the_output_below_the_sources_is_never_a_source(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`palimpsest run --source . --out ./corpus`, again and again, with a report in it and another corpus beside it."""
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("the first document")
    Path("notes").mkdir()
    Path("notes/b.jsonl").write_text('{"text": "the second document"}\n')
    for out in ("./corpus", "other", "./corpus"):
        for _ in range(2):
            code, said = ask(command, "local", "--source", ".", "--out", out)
            assert code == 0, said
            assert texts(out) == {"the first document", "the second document"}
        assert CliRunner().invoke(app, ["report", out]).exit_code == 0
    assert palimpsest.Corpus("corpus").snapshot.number == 1
    assert "parts of a corpus" in said


@pytest.mark.parametrize("command", ["run", "ingest"])
def test_a_field_that_was_set_and_never_occurs_is_a_finding_or_an_error(command: str, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "dated", "created_at": "2024-03-01"}\n')
    wrong = ("--set", "source.timestamp_field=createdAt")
    code, said = ask(command, "local", "--source", source, "--out", tmp_path / "out", *wrong)
    assert code == 3 and "source.timestamp_field = 'createdAt' occurs in none of 1 documents" in said
    assert texts(tmp_path / "out") == {"dated"}
    code, said = ask(command, "local", "--source", source, "--out", tmp_path / "strict", "--strict", *wrong)
    assert code == 1 and "'createdAt' occurs in none of 1 documents" in said and "Nothing was published" in said
    assert not list((tmp_path / "strict").glob("_snapshots/*"))
    code, said = ask(
        command, "local", "--source", source, "--out", tmp_path / "right", "--set", "source.timestamp_field=created_at"
    )
    assert code == 0, said
    (document,) = palimpsest.Corpus(str(tmp_path / "right")).documents()
    assert document.timestamp is not None and document.timestamp.isoformat() == "2024-03-01T00:00:00+00:00"


def test_carried_fields_are_in_the_published_rows(tmp_path: Path) -> None:
    """From nested JSON and a column of a folder name, through a run and an export; what is absent is absent."""
    folder = tmp_path / "in" / "dt=2024-03-01"
    folder.mkdir(parents=True)
    records = [
        {"text": "all", "licence": "cc0", "meta": {"lang": "de"}, "n": 7},
        {"text": "some", "licence": None, "meta": {}},
        {"text": "odd", "licence": ["a", "b"], "meta": {"lang": "é"}},
    ]
    (folder / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    carry = 'source.carry=["licence", "meta.lang", "dt", "n"]'
    code, said = ask("run", "local", "--source", tmp_path / "in", "--out", tmp_path / "out", "--set", carry)
    assert code == 0, said
    table = palimpsest.Corpus(str(tmp_path / "out")).table(["text", "extra"])
    extra = {row["text"]: dict(row["extra"] or ()) for row in table.to_pylist()}
    assert extra["all"] == {"licence": "cc0", "meta.lang": "de", "dt": "2024-03-01", "n": "7"}
    assert extra["some"] == {"dt": "2024-03-01"}
    assert extra["odd"].items() >= {"meta.lang": "é", "dt": "2024-03-01"}.items()
    never = 'source.carry=["licence", "nowhere"]'
    code, said = ask("run", "local", "--source", tmp_path / "in", "--out", tmp_path / "again", "--set", never)
    assert code == 3 and "source.carry = 'nowhere' occurs in none of 3 documents" in said


def test_a_run_that_could_read_nothing_says_so(tmp_path: Path) -> None:
    """A link to nowhere, named itself: it is listed, and gone when it is read."""
    (tmp_path / "a.jsonl").symlink_to(tmp_path / "nowhere")
    code, said = ask("run", "local", "--source", tmp_path / "a.jsonl", "--out", tmp_path / "out", "--set", LENIENT)
    assert code == 3 and "Nothing could be read: snapshot 1" in said and "a.jsonl: vanished" in said
    assert "Published" not in said
