"""Rate control with the codec that ships, which reads small here; of a page in tiny it sees only half."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from palimpsest.codecs.modes import MODES
from palimpsest.config import JobConfig, parse
from palimpsest.corpus.snapshots import latest
from palimpsest.flow.stages import Paginate, RateControl
from palimpsest.flow.stages.reread import readings_of
from palimpsest.operations.run import run
from palimpsest.pages.layouts.grid import Grid
from palimpsest.report.rate_control import rate_control
from palimpsest.report.summary import summarise
from palimpsest.report.text_tables import summary_table
from palimpsest.schemas import DOCUMENTS, VERDICTS
from palimpsest.storage.local_store import LocalStore
from palimpsest.tiers.policies.protocol import PageFacts, Policy, Reading, policy_of
from tests import near_sighted
from tests.conftest import JobFactory
from tests.mixed_sources import prose

GRID = Grid.parse(near_sighted.GRID, "latin")
TEXTS = [prose(4000, 1), prose(4000, 2), "0123456789 " * 400, "Short.", "船の絵。" * 60]
SHARP = MODES["small"]


def job_of(target: float, **tiers: Any) -> tuple[JobConfig, Policy]:
    settings = {
        "layout": {"grid": near_sighted.GRID, "alphabet": "latin"},
        "verification": {"reader": "cells", "control_share": 0.0, "target_precision": target},
        "tiers": {"policy": "fidelity", "modes": ["tiny", "small"], "predictor": "none", **tiers},
    }
    return policy_of(parse(settings), GRID, "none")


@pytest.fixture(scope="module", autouse=True)
def half_blind_in_tiny() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patches:
        near_sighted.near_sighted(patches)
        yield


@pytest.fixture(scope="module")
def pages() -> pa.Table:
    rows: list[dict[str, Any]] = [
        {"unit_id": "u", "kind": "document", "doc_id": f"{n:032}", "text": text, "source_uri": "s", "source_version": "v"}
        for n, text in enumerate(TEXTS)
    ]
    rows.append({"unit_id": "u", "kind": "unit_end", "control": {"documents": len(TEXTS)}})
    return pa.concat_tables(Paginate(*job_of(0.9)[:1], GRID, job_of(0.9)[1])(pa.Table.from_pylist(rows, DOCUMENTS)))


@pytest.fixture(scope="module")
def stage() -> RateControl:
    config, policy = job_of(0.95)
    return RateControl(config, "f" * 16, GRID, policy)


def judged(stage: RateControl, pages: pa.Table, policy: Policy) -> list[dict[str, Any]]:
    stage.policy = policy
    return stage(pages).to_pylist()


def test_every_page_gets_the_cheapest_mode_that_meets_the_target_or_stays_text(stage: RateControl, pages: pa.Table) -> None:
    table = stage(pages)
    assert table.schema.equals(VERDICTS) and table["page_id"].to_pylist() == pages["page_id"].to_pylist()
    rows = table.to_pylist()
    full = [
        row
        for row in rows
        if row["kind"] == "page" and row["num_text_tokens"] > SHARP.num_context_tokens and row["reason"] != "not_covered"
    ]
    assert len(full) >= 6 and {(row["tier"], row["reason"]) for row in full} == {("small", None)}
    for row in full:
        assert [(trial["mode"], trial["met"]) for trial in row["tried"]] == [("tiny", False), ("small", True)]
        assert row["tried"][0]["precision"] < 0.95 and row["tried"][1]["precision"] == row["precision"]
    assert all(row["status"] == "verified" and row["precision"] >= 0.95 and row["image_px"] == SHARP.px for row in full)
    by_text = {row["text"]: row for row in rows}
    short = by_text["Short."]
    assert (short["tier"], short["reason"], short["tried"]) == ("text", "text_is_cheaper", [])
    assert short["num_context_tokens"] == short["num_text_tokens"] > 0
    assert {row["reason"] for row in rows if row["text"] and "船" in row["text"]} == {"not_covered"}
    assert rows[-1]["kind"] == "unit_end" and rows[-1]["tier"] is None


def test_the_same_bytes_whatever_arrives_together(stage: RateControl, pages: pa.Table) -> None:
    whole = stage(pages)
    assert pa.concat_tables([stage(pages.slice(at, 1)) for at in range(pages.num_rows)]).equals(whole)
    assert stage(pages.slice(0, 0)).num_rows == 0


def test_below_every_rung_a_page_is_text(pages: pa.Table) -> None:
    config, policy = job_of(1.0, modes=["tiny"])
    rows = RateControl(config, "f" * 16, GRID, policy)(pages.slice(0, 2)).to_pylist()
    assert {(row["tier"], row["status"], row["reason"], row["tokens"]) for row in rows} == {
        ("text", "text", "below_every_rung", None)
    }
    assert {(trial["mode"], trial["met"]) for row in rows for trial in row["tried"]} == {("tiny", False)}


def test_a_rung_below_is_tried_where_a_policy_asks_for_it(stage: RateControl, pages: pa.Table) -> None:
    """What was tried and is sharper met the target, what is blurrier did not: the row's trials tell them apart."""

    class FromAbove:
        def tier(self, page: PageFacts, proposed: str | None) -> str:
            return "tiny" if "small" in page.readings else "small"

    own = job_of(0.01)[1]
    rows = judged(stage, pages.slice(0, 1), Policy(**{**vars(own), "parts": (FromAbove(),), "names": ("fidelity",)}))
    assert rows[0]["tier"] == "tiny" and [trial["mode"] for trial in rows[0]["tried"]] == ["small", "tiny"]
    readings = readings_of({**rows[0], "status": "verified"}, own)
    assert readings["small"].met and readings["tiny"] == Reading(rows[0]["precision"], True)


def test_the_report_says_what_rate_control_spent(job: JobFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(TEXTS)))
    config, small = job_of(0.95)[0], job(folder, folder)  # in this process, where the codec is half blind
    made = run(
        config.replace(sources=(str(folder),), out=str(tmp_path / "corpus"), limits=small.limits, placement=small.placement)
    )
    store = LocalStore(made.out)
    snapshot = latest(store)
    assert snapshot is not None
    summary = summarise(store, snapshot)
    rate = rate_control(summary.modes, summary.trials)
    assert rate is not None and rate.best_fixed == "small" and rate.of_best_fixed == 1.0
    visual = summary.by_tier["small"]
    assert rate.encodes_per_page == pytest.approx(2 * visual / rate.pages) and rate.hit_rate == pytest.approx(
        1 - visual / rate.pages
    )
    assert rate.context_tokens == SHARP.num_context_tokens * visual + sum(
        g.text_tokens for g in summary.modes if g.mode == "text"
    )
    assert summary.to_json()["rate_control"]["pages"] == rate.pages
    shown = io.StringIO()
    Console(width=200, file=shown).print(summary_table(summary))
    assert f"{rate.encodes_per_page:.2f} encodes per page" in shown.getvalue()
