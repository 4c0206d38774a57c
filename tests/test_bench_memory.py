"""`palimpsest bench memory` and `bench tiers`, with the codec that ships."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from palimpsest.cli.app import app
from palimpsest.lab.bench.memory import ALL_TEXT, BANDS, CONTROLLED, FADING, TRUNCATION, read_at
from palimpsest.tiers.measured import Rungs, read_rungs
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


def test_a_fact_is_read_where_it_stands() -> None:
    assert read_at("the code is K7Q, and that", "the c0de is K7Q, and that", 12, 15) == "K7Q"
    assert read_at("the code is K7Q, and that", "the code is K1Q, and that", 12, 15) == "K1Q"
    assert read_at("the code is K7Q", "the code", 12, 15) == ""


def test_tiers_are_measured_beside_fixed_modes_and_fitted(tmp_path: Path) -> None:
    """Eighteen pages, since a fit asks for that many."""
    texts, rungs = tmp_path / "texts.jsonl", tmp_path / "rungs.json"
    texts.write_text(json.dumps({"text": prose(64 * 32 * 20, 3), "text_class": "prose"}) + "\n")
    asked = [
        "bench",
        "tiers",
        str(texts),
        "--grid",
        "64x32",
        "--mode",
        "tiny",
        "--max-pages",
        "18",
        "--fit",
        str(rungs),
        "--json",
    ]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    rows = {row["way"]: row for row in result["rows"]}
    assert rows["fixed tiny"]["of_best_fixed"] == rows["fixed tiny"]["of_fixed_at_same_share"] == 1.0
    assert all(row["visual_pages_below_target"] == 0 and row["visual_pages"] + row["text_pages"] == 18 for row in rows.values())
    assert rows["climbing"]["context_tokens"] >= rows["cheapest, known beforehand"]["context_tokens"]
    assert result["as_the_stage_does"] == "18 of 18 pages" and len(result["verdicts"]["pages"]) == 18
    assert read_rungs(rungs.read_text(), 0.97) == Rungs(("tiny",), ("tiny",))
    rungs.write_text('{"format": 1}')
    again = CliRunner().invoke(app, asked)
    assert again.exit_code == 2 and "no rungs file of format 2" in again.output
