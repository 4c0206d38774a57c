"""Published operating points: what `palimpsest plan` shows for a codec whose weights are not here."""

from __future__ import annotations

import json

import pytest

from palimpsest.tiers.operating_points.published import published_points
from tests.codec_zoo import zoo

__all__ = ["zoo"]  # the fixture
from typer.testing import CliRunner

from palimpsest.cli.app import app
from palimpsest.codecs.modes import MODES


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
    arguments = ["fit", "embedded", "--sample", str(sample), "--out", str(file), "--vary", "grid=64x32", "--max-pages", "18"]
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
        assert point["pages"] == 18 and not any(point["reached"].values()) and point["precision"] < 0.5
        assert point["ratio"] == pytest.approx(
            result["points"][0]["ratio"] * 73 / MODES[point["mode"]].num_context_tokens, rel=1e-3
        )
    settings = {"codec": {"path": str(tiny_codec)}, "tiers": {"policy": "fidelity", "predictor": str(file)}}
    assert identify(parse(settings)).policy.predictor is not None


def test_fit_searches_the_parameters_of_layout_document(tmp_path, zoo) -> None:
    """With a tiny random checkpoint of DeepSeek-OCR: every combination is an entry, and a job takes the one of its layout."""
    from palimpsest.config import ConfigError, load
    from palimpsest.operations.resolving import identify

    sample, file = tmp_path / "sample.jsonl", tmp_path / "points.json"
    sample.write_text(json.dumps({"text": "a line of a sample\n" * 600, "text_class": "prose"}) + "\n")
    asked = ["fit", "deepseek-ocr", "--sample", str(sample), "--out", str(file), "--mode", "tiny", "--max-pages", "18"]
    own = [f"codec.path={zoo('deepseek-ocr')}", "verification.reader=generative", "codec.max_new_tokens=3", "layout.padding=40"]
    asked += [part for text in own for part in ("--set", text)]
    asked += ["--vary", "font_size=60,80", "--vary", "newline=break,glyph"]
    dry = CliRunner().invoke(app, [*asked, "--dry-run"])
    assert dry.exit_code == 0 and dry.output.count("would measure") == 4 and not file.exists()
    done = CliRunner().invoke(app, [*asked, "--json"])
    assert done.exit_code == 0, done.output
    points = [point for point in json.loads(done.stdout)["points"] if point["text_class"] == "all"]
    ratio = {tuple(point["settings"]): point["ratio"] for point in points}
    assert (
        len(ratio) == 4
        and ratio["layout.font_size=60", "layout.newline=glyph"] > ratio["layout.font_size=80", "layout.newline=break"]
    )
    policy = [*own, "codec.name=deepseek-ocr", "tiers.policy=fidelity", 'tiers.modes=["tiny"]', f"tiers.predictor={file}"]
    found = identify(load("local", [*policy, "layout.font_size=80", "layout.newline=glyph"])).policy.predictor
    assert found is not None and found.layout == "document font_size=80 padding=40 line_spacing=4 newline=glyph font=class"
    with pytest.raises(ConfigError, match="not on document font_size=16 .*measure it there"):
        identify(load("local", policy))


def test_a_setting_to_search_needs_values(tmp_path) -> None:
    (tmp_path / "sample.jsonl").write_text('{"text": "x", "text_class": "prose"}\n')
    asked = ["fit", "embedded", "--sample", str(tmp_path / "sample.jsonl"), "--vary"]
    refused = CliRunner().invoke(app, [*asked, "grid"])
    assert refused.exit_code == 2 and "expected SETTING=VALUE" in refused.output
    unknown = CliRunner().invoke(app, [*asked, "gird=80x40"])
    assert unknown.exit_code == 2 and "layout.gird" in unknown.output and "grid" in unknown.output
