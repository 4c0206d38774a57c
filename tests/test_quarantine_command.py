"""`palimpsest quarantine`, and what `inspect`, `report` and `status` say of a corpus of which nothing is published."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from palimpsest.cli.app import app
from palimpsest.corpus.format import create_corpus
from palimpsest.flow.ledger import UnreadSource
from palimpsest.operations.quarantine import first_records
from palimpsest.report.committed import newest
from palimpsest.report.html import report_html
from palimpsest.storage.local_store import LocalStore
from tests.report_corpora import Built, mixed  # noqa: F401
from tests.test_report import stripes


def ask(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(arguments))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.stdout if code in (0, 3) else done.stderr


@pytest.fixture(params=["published", "committed"])
def place(request: pytest.FixtureRequest, mixed: Built) -> str:  # noqa: F811
    """A corpus, with its snapshot or without one."""
    folder = mixed[0].uri("corpus.json").removesuffix("/corpus.json")
    if request.param == "committed":
        shutil.rmtree(Path(folder) / "_snapshots")
    return folder


def test_records_are_listed_by_reason_and_source(place: str) -> None:
    shown = ask("quarantine", place)
    assert re.search(r"invalid_utf8 +2 +1\b", shown) and re.search(r"null_text +1 +1\b", shown)
    assert "byte 3" in shown and "abc\\xff\\x00\\x1b[31m" in shown and "other.txt" in shown
    found = json.loads(ask("quarantine", place, "--reason", "invalid_utf8", "--json"))
    assert found["reasons"] == {"invalid_utf8": 2, "null_text": 1} and len(found["records"]) == 2
    (record,) = json.loads(ask("quarantine", place, "--source", "other", "--json"))["records"]
    assert record["reason"] == "null_text" and record["source_uri"] == "other.txt"
    assert "1 of 3 records; --limit 0 lists all" in ask("quarantine", place, "--limit", "1")
    assert "reasons in this corpus: invalid_utf8, null_text" in ask("quarantine", place, "--reason", "nosuch", code=2)


def test_a_corpus_is_shown_before_anything_is_published(place: str) -> None:
    summary = json.loads(ask("inspect", place, "--json"))
    assert summary["pages"] == 7 and summary["quarantine"] == {"invalid_utf8": 2, "null_text": 1}
    shown, status = ask("inspect", place), ask("status", place)
    if summary["snapshot"] == 0:
        assert "nothing is published" in shown and "1 units are committed and not published" in status
        assert "invalid_utf8 2" in status
    html = report_html(*newest(place), stripes)
    assert "invalid_utf8" in html and ("Nothing is published" in html) == (summary["snapshot"] == 0)


def test_an_empty_corpus_is_named_as_such(tmp_path: Path) -> None:
    create_corpus(LocalStore(tmp_path))
    for command in ("inspect", "quarantine", "report"):
        assert "is empty: no run has committed anything yet" in ask(command, str(tmp_path), code=2)


def test_the_message_of_a_run_over_the_limit_names_the_first_records(mixed: Built) -> None:  # noqa: F811
    store, snapshot = newest(mixed[0].uri("corpus.json").removesuffix("/corpus.json"))
    unread = [UnreadSource(source_uri="gone.txt", reason="unreadable", detail="no such object")]
    lines = first_records(store, tuple(snapshot.units), unread).splitlines()
    assert lines[1:4] == [
        "  gone.txt: unreadable: no such object",
        "  in.txt: invalid_utf8: byte 3",
        "  in.txt: invalid_utf8: ",
    ]
    assert lines[-1].startswith("All of them: palimpsest quarantine /")
