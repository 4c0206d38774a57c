"""`palimpsest bench memory` and `bench tiers`, with the codec that ships."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from palimpsest.cli.app import app
from palimpsest.lab.bench.forgetting import BM25
from palimpsest.lab.bench.kept import ALL_TEXT, CONTROLLED, FADING, TRUNCATION, read_at
from palimpsest.lab.bench.memory_findings import BANDS
from palimpsest.tiers.operating_points.rungs import Rungs, read_rungs
from tests.mixed_sources import prose


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """One short conversation, remembered within three budgets in mode tiny."""
    folder = tmp_path_factory.mktemp("results")
    budgets = ["--budget", "300", "--budget", "900", "--budget", "100000"]
    asked = [
        "bench",
        "memory",
        "--conversations",
        "1",
        "--pages",
        "6",
        "--mode",
        "tiny",
        *budgets,
        "--write",
        str(folder),
        "--json",
    ]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout), folder


def test_recall_is_measured_by_age_and_budget_and_plotted(memory: tuple[dict[str, Any], Path]) -> None:
    result, folder = memory
    at = {(row["way"], row["budget"]): row for row in result["rows"]}
    assert {way for way, _ in at} == {TRUNCATION, "uniform tiny", FADING, CONTROLLED, ALL_TEXT}
    assert at[ALL_TEXT, None]["exact_recall"] == 1.0 == at[TRUNCATION, 100_000]["exact_recall"]
    assert all(budget is None or row["context_tokens"] <= budget for (_, budget), row in at.items())
    recalled = [at[TRUNCATION, budget]["exact_recall"] for budget in (300, 900, 100_000)]
    assert recalled == sorted(recalled) and recalled[0] < 0.3
    assert at[FADING, 900]["exact_recall"] > at[TRUNCATION, 900]["exact_recall"]
    cut = next(row for row in result["exact_recall_by_age"] if (row["way"], row["budget"]) == (TRUNCATION, 300))
    assert cut[BANDS[-1]] == 0.0  # what is oldest was dropped
    assert any("truncation" in note for note in result["notes"])
    assert len(list(folder.glob("*.png"))) == 2
    written = next(folder.glob("*.md")).read_text()
    assert "bench memory" in written and all(picture.name in written for picture in folder.glob("*.png"))


def test_a_fact_is_read_at_its_position() -> None:
    assert read_at("the code is K7Q, and that", "the c0de is K7Q, and that", 12, 15) == "K7Q"
    assert read_at("the code is K7Q, and that", "the code is K1Q, and that", 12, 15) == "K1Q"
    assert read_at("the code is K7Q", "the code", 12, 15) == ""


def dated_chat(path: Path) -> None:
    """Two friends over half a year; every fourth turn tells a fact that a question asks for, and one label names no message."""
    words = prose(20_000, 7).split()
    sentences = [" ".join(words[at : at + 20]) for at in range(0, 48 * 20, 20)]
    chat: dict[str, Any] = {"speaker_a": "Ida", "speaker_b": "Jon"}
    questions: list[dict[str, Any]] = []
    for number in range(6):
        turns = []
        for at in range(8):
            name, text = ("Ida", "Jon")[at % 2], sentences[number * 8 + at]
            label = f"D{number + 1}:{at + 1}"
            if at % 4 == 1:
                text += f" The boat in berth {number * 8 + at} is called Marigold {number}-{at}."
                questions.append(
                    {
                        "question": f"What is the boat in berth {number * 8 + at} called?",
                        "answer": f"marigold {number}-{at}",
                        "evidence": [label],
                    }
                )
            turns.append({"speaker": name, "dia_id": label, "text": text})
        chat[f"session_{number + 1}"], chat[f"session_{number + 1}_date_time"] = turns, f"1:00 pm on 8 {MONTHS[number]}, 2023"
    questions.append({"question": "Who?", "answer": "nobody", "evidence": ["D9:1"]})
    path.write_text(json.dumps([{"sample_id": "harbour", "conversation": chat, "qa": questions}]))


MONTHS = ("January", "February", "March", "April", "May", "June")


def test_evidence_of_a_dated_chat_is_measured_by_age_and_budget(tmp_path: Path) -> None:
    """The rival knows the question; exact spans cost tokens and let every kept turn read word for word."""
    dated_chat(tmp_path / "chat.json")
    asked = ["bench", "memory", str(tmp_path / "chat.json"), "--grid", "64x32", "--mode", "tiny"]
    done = CliRunner().invoke(app, [*asked, "--budget", "700", "--budget", "5000", "--write", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    at = {(row["way"], row["budget"]): row for row in result["rows"]}
    exact = f"{CONTROLLED}, exact all"
    assert {TRUNCATION, "uniform tiny", "uniform tiny, exact all", FADING, CONTROLLED, exact, BM25} <= {way for way, _ in at}
    assert result["units"] == result["literal_answers"] == 12 and result["unknown_evidence"] == 1
    assert all(row["context_tokens"] <= budget for (_, budget), row in at.items())
    assert at[TRUNCATION, 5000]["evidence"] == at[exact, 5000]["evidence"] == at[BM25, 5000]["evidence"] == 1.0
    assert at[TRUNCATION, 700]["evidence"] < at[exact, 700]["evidence"] <= 1.0
    assert at[BM25, 700]["answer"] > at[TRUNCATION, 700]["answer"]
    assert all(row["evidence_low"] <= row["evidence"] <= row["evidence_high"] for row in at.values())
    cut = next(row for row in result["evidence_by_age"] if (row["way"], row["budget"]) == (TRUNCATION, 700))
    assert cut["under 1 w"] == 1.0 and cut["3 to 6 mo"] == 0.0  # by the dates of the sessions
    written = next((tmp_path / "out").glob("*.md")).read_text()
    assert str(tmp_path) not in written and len(list((tmp_path / "out").glob("*.png"))) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "chat.json: invalid_json: Expecting property name"),
        ("[3]", "chat.json: invalid_json: a number, not an object"),
        ('[{"id": "a", "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}]', "no record has"),
        ('[{"id": "a", "messages": [{"role": "wizard", "content": "x"}]}]', "conversation a: "),
    ],
)
def test_a_chat_without_questions_is_refused_by_name(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "chat.json").write_text(content)
    done = CliRunner().invoke(app, ["bench", "memory", str(tmp_path / "chat.json"), "--grid", "64x32"])
    assert done.exit_code == 2 and words in " ".join(done.output.split())


def test_tiers_are_compared_with_fixed_modes_and_fitted(tmp_path: Path) -> None:
    """Eighteen pages, since a fit asks for that many."""
    texts, points = tmp_path / "texts.jsonl", tmp_path / "points.json"
    texts.write_text(json.dumps({"text": prose(64 * 32 * 20, 3), "text_class": "prose"}) + "\n")
    asked = ["bench", "tiers", str(texts), "--grid", "64x32", "--mode", "tiny", "--max-pages", "18", "--json"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    rows = {row["way"]: row for row in result["rows"]}
    assert rows["fixed tiny"]["of_best_fixed"] == rows["fixed tiny"]["of_fixed_at_same_share"] == 1.0
    assert all(row["visual_pages_below_target"] == 0 and row["visual_pages"] + row["text_pages"] == 18 for row in rows.values())
    assert rows["climbing"]["context_tokens"] >= rows["cheapest, known beforehand"]["context_tokens"]
    assert result["as_the_stage_does"] == "18 of 18 pages" and len(result["verdicts"]["pages"]) == 18
    fit = ["fit", "embedded", "--sample", str(texts), "--vary", "grid=64x32", "--mode", "tiny", "--max-pages", "18"]
    fit += ["--out", str(points)]
    done = CliRunner().invoke(app, fit)
    assert done.exit_code == 0 and "layout.grid=64x32 --set tiers.mode=tiny" in done.output, done.output
    assert read_rungs(points.read_text(), 0.97) == Rungs(("tiny",), ("tiny",))
    first = points.read_bytes()
    again = CliRunner().invoke(app, fit)
    assert "grid=64x32: measured before" in again.output and points.read_bytes() == first
    plan = ["plan", "local", "--documents", "10", "--characters", "9000", "--rate", "encode=9", "--rate", "verify=9", "--json"]
    plan += [
        "--set",
        "layout.grid=64x32",
        "--set",
        "tiers.policy=fidelity",
        "--set",
        f"tiers.predictor={points}",
        "--tier",
        "tiny=1",
    ]
    planned = json.loads(CliRunner().invoke(app, plan).stdout)["operating_points"]
    assert [(point["mode"], point["text_class"], point["basis"]) for point in planned] == [
        ("tiny", "prose", "measured"),
        ("tiny", "all", "measured"),
    ]
    points.write_text('{"format": 1}')
    again = CliRunner().invoke(app, fit)
    assert again.exit_code == 2 and "no file of operating points" in again.output
