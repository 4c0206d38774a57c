"""`palimpsest bench use`: small models over the public loader, killed and resumed; short enough to show no verdict."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from palimpsest.cli.app import app


def test_the_arms_are_trained_scored_and_plotted(tmp_path: Path) -> None:
    sizes = {"chats": 8, "tested": 4, "pages": 1, "kinds": 4, "values": 3, "steps": 8, "batch": 4, "seeds": 1}
    asked = ["bench", "use", "--write", str(tmp_path), "--json"]
    for name, value in sizes.items():
        asked += [f"--{name}", str(value)]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    rows = {row["arm"]: row for row in result["rows"]}
    assert list(rows) == ["truncated", "visual", "control", "full text"]
    assert rows["truncated"]["context_ids"] == rows["visual"]["context_ids"] < rows["full text"]["context_ids"]
    assert "the largest difference 0" in result["killed_and_resumed"]
    for row in rows.values():
        assert row["low"] <= row["exact_old_facts"] <= row["high"] and row["loss_old_facts"] > 0
    for losses in result["losses"].values():
        assert len(losses) == 8 and losses[-1] < losses[0]
    assert any("truncation" in note for note in result["notes"])
    assert len(list(tmp_path.glob("*.png"))) == 1 and "![" in next(tmp_path.glob("*.md")).read_text()
