"""Published operating points: what `palimpsest plan` shows for a codec whose weights are not here."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from palimpsest.cli.app import app
from palimpsest.codecs.modes import MODES
from palimpsest.tiers.published import published_points


def test_published_points_are_marked_and_count_newline_rows() -> None:
    points = published_points("deepseek-ocr")
    assert {(point.text_class, point.mode) for point in points} >= {("prose", "tiny"), ("prose", "small"), ("prose", "base")}
    for point in points:
        mode = MODES[point.mode]
        assert point.basis == "published, not measured here" and "MIT" in point.source
        assert point.ratio == pytest.approx(point.text_tokens / mode.num_context_tokens, abs=0.01)
        assert point.vision_ratio == pytest.approx(point.text_tokens / mode.num_vision_tokens, abs=0.01)
        assert 0 < point.p5 <= point.folded_precision <= 1
        shares = [point.reached[target] for target in ("0.8", "0.9", "0.95", "0.97", "0.99")]
        assert shares == sorted(shares, reverse=True)
    assert published_points("embedded") == []


def test_the_plan_shows_the_published_points_of_the_modes_in_use() -> None:
    arguments = "plan gpu-cluster --set codec.name=deepseek-ocr --set verification.reader=generative --set tiers.policy=fixed "
    arguments += "--set tiers.mode=small --documents 1e6 --characters 4000 --gpu h100 --rate encode=40 --rate verify=20"
    result = CliRunner().invoke(app, [*arguments.split(), "--json"])
    assert result.exit_code == 0, result.output
    points = json.loads(result.stdout)["operating_points"]
    assert {point["mode"] for point in points} == {"small"} and all("not measured here" in point["basis"] for point in points)
    shown = CliRunner().invoke(app, arguments.split())
    assert "PUBLISHED, NOT MEASURED HERE" in " ".join(shown.output.split())


def test_fit_measures_every_grid_and_mode_and_writes_the_file_that_policies_read(tmp_path, tiny_codec) -> None:
    """With the tiny codec, which reads nothing: the target is met by no point, and the file is one that policies take."""
    from palimpsest.config import parse
    from palimpsest.operations.resolving import identify

    sample, file = tmp_path / "sample.jsonl", tmp_path / "points.json"
    text = " ".join(f"word{number} of a sample" for number in range(2600))
    sample.write_text(json.dumps({"text": text, "text_class": "prose"}) + "\n")
    arguments = ["fit", "embedded", "--sample", str(sample), "--out", str(file), "--grid", "64x32", "--max-pages", "18"]
    arguments += [
        "--set",
        f"codec.path={tiny_codec}",
        "--set",
        "verification.reader=generative",
        "--set",
        "verification.early_stop=true",
        "--json",
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["best"] is None and {point["mode"] for point in result["points"]} == set(MODES)
    for point in result["points"]:
        assert point["pages"] == 18 and point["reached"] == 0 and point["precision"] < 0.5
        assert point["ratio"] == pytest.approx(result["points"][0]["ratio"] * 73 / MODES[point["mode"]].num_context_tokens)
    settings = {"codec": {"path": str(tiny_codec)}, "tiers": {"policy": "fidelity", "predictor": str(file)}}
    assert identify(parse(settings)).policy.predictor is not None
