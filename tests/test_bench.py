"""The benchmarks on a tiny random codec: what they promise holds, and what they write can be read."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein
from rich.console import Console
from tiny_codec import write_tiny_codec

from palimpsest import config as configs
from palimpsest.config import JobConfig
from palimpsest.lab.bench.encode import bench_encode
from palimpsest.lab.bench.machine import hardware, table_of, write_results
from palimpsest.lab.bench.planting import plant_errors
from palimpsest.lab.bench.run import bench_run
from palimpsest.lab.bench.texts import bench_pages, bench_text
from palimpsest.lab.bench.verify import bench_verify
from palimpsest.pages.layouts.grid import Grid, read_back
from palimpsest.pages.text_class import classify

XEON = {"gpu": None, "cpu": "Intel(R) Xeon(R) Processor @ 2.60GHz", "cores": 2, "date": "2026-01-02 03:04 UTC", "commit": "abc"}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> JobConfig:
    path = write_tiny_codec(tmp_path_factory.mktemp("codec"))
    return configs.parse({"codec": {"path": str(path)}, "placement": {"verify_batch": 4, "render_batch": 2}})


def test_the_invented_text_is_prose_and_the_same_every_time() -> None:
    text = bench_text(20_000)
    assert len(text) >= 20_000 and classify(text) == "prose" and text == bench_text(20_000) != bench_text(20_000, seed=1)
    assert len(set(text.split())) > 1_000 and text.isascii()


def test_pages_are_full_and_different(tmp_path: Path) -> None:
    grid = Grid(32, 16)
    pages = bench_pages(5, grid)
    assert len({text for text, _ in pages}) == 5
    for text, page in pages:
        assert page.drawing and len(text) == grid.cells
    short = tmp_path / "short.txt"
    short.write_text("Über den Wolken.\n\n\n   Ende", "utf-8")
    repeated = bench_pages(3, grid, short)
    assert len(repeated) == 3 and all(set(text) <= set(short.read_text("utf-8")) for text, _ in repeated)
    assert read_back("".join(text for text, _ in repeated)).startswith("Über den Wolken.")


def test_a_text_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for name, body in (("binary", b"\xff\xfe\x00"), ("empty", b" \n"), ("absent", None)):
        path = tmp_path / name
        if body is not None:
            path.write_bytes(body)
        with pytest.raises(ValueError, match=f"--text .*{name}"):
            bench_text(100, path)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=80), st.floats(0, 1), st.integers(0, 99))
def test_as_many_errors_are_planted_as_asked_for(ids: list[int], share: float, seed: int) -> None:
    planted = plant_errors(ids, share, range(20), random.Random(seed))
    assert Levenshtein.distance(ids, planted) <= max(int(share > 0), round(share * len(ids)))
    assert planted == ids or share > 0
    assert planted != plant_errors(ids, 1.0, range(20, 40), random.Random(seed)) or len(ids) < 3


def test_drafted_decoding_is_measured_against_plain_and_equals_it(config: JobConfig) -> None:
    result = bench_verify(config, pages=2, max_new_tokens=40, error_shares=(0.0, 0.1))
    assert [row["planted_errors"] for row in result["rows"]] == [None, "0%", "10%"]
    assert result["all_identical"] and all(row["identical"] == 2 for row in result["rows"])
    own, right, wrong = result["rows"]
    assert (right["passes_per_page"], right["disagreements_per_page"], right["passes_are_1_plus_disagreements"]) == (1, 0, 2)
    assert right["passes_per_page"] < wrong["passes_per_page"] <= own["passes_per_page"] + 1
    assert own["passes_per_page"] <= result["greedy_tokens_per_page"] <= 40
    assert right["ratio"] == pytest.approx(right["pages_per_second"] / right["generate_pages_per_second"])
    assert any("stop after 40 tokens" in note for note in result["notes"])
    with pytest.raises(ValueError, match="max_new_tokens is 0"):
        bench_verify(config, max_new_tokens=0)


def test_encoding_is_measured_by_mode_and_batch(config: JobConfig) -> None:
    result = bench_encode(config, modes=("tiny", "small"), batches=(1, 2), seconds=0.0)
    assert [(row["mode"], row["batch"]) for row in result["rows"]] == [("tiny", 1), ("tiny", 2), ("small", 1), ("small", 2)]
    for row in result["rows"]:
        assert row["pages_per_second"] > 0 and 0 < row["render_share"] < 1 and row["gflop_per_page"] > 0 < row["fast_ratio"]
    assert result["encoder"].startswith("fast (attention ")
    tiny, small = result["rows"][0], result["rows"][2]
    assert small["gflop_per_page"] > tiny["gflop_per_page"]
    with pytest.raises(ValueError, match="mode 'huge': choose one of tiny, small, base, large"):
        bench_encode(config, modes=("huge",))


@pytest.mark.cluster
@pytest.mark.slow
def test_the_job_is_measured_against_the_bare_loop(config: JobConfig, ray_session: None) -> None:
    fast = configs.parse({**configs.to_json(config), "verification": {"share": 0.0}})
    result = bench_run(fast, pages=6, placements={"one": {}, "two": {"encode_workers": 2}})
    assert [row["placement"] for row in result["rows"]] == ["one", "two"]
    assert all(row["pages"] == result["pages"] == bare["pages"] >= 6 for row in result["rows"] for bare in result["bare"])
    assert all(row["whole_seconds"] > 0 for row in result["rows"])
    best = max(bare["pages_per_second"] for bare in result["bare"])
    assert result["rows"][0]["whole_ratio"] == pytest.approx(result["rows"][0]["whole_pages_per_second"] / best)
    with pytest.raises(ValueError, match="pages is 3; it must be at least 4"):
        bench_run(config, pages=3)


def test_results_are_written_where_they_are_looked_for_and_parse(tmp_path: Path) -> None:
    rows = [
        {"mode": "tiny", "ratio": 1234.5, "fast": True, "bar": None},
        {"mode": "a|b", "ratio": 0.12345, "fast": False, "bar": 2},
    ]
    result: dict[str, Any] = {"pages": 7, "rows": rows, "notes": ["A note."], "machine": XEON, "config": {"a": 1}}
    path = write_results("encode", result, tmp_path / "new", command="palimpsest bench encode --json")
    assert path.name == "encode_xeon-2-cores_2026-01-02.md"
    raw = json.loads(path.with_suffix(".json").read_text("utf-8"))
    assert raw == {**result, "command": "palimpsest bench encode --json"}
    page = path.read_text("utf-8")
    assert "| tiny | 1,234 | yes | – |" in page and "| a\\|b | 0.1235 | no | 2 |" in page
    assert "    palimpsest bench encode --json" in page and "commit abc" in page and "- pages: 7" in page and "- A note." in page
    assert json.loads(page.split("```json\n")[-1].split("```")[0]) == {"a": 1}
    assert write_results("encode", result, tmp_path / "new") == path  # one result a theme, machine and day


def test_a_result_without_a_machine_gets_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_results("render", {"rows": [{"mode": "tiny"}]}, tmp_path)
    described = json.loads(path.with_suffix(".json").read_text("utf-8"))["machine"]
    assert described["bf16_matmul_tflops"] > 0 and described["cores"] >= 1 and "torch" in described["packages"]
    monkeypatch.setattr("palimpsest.lab.bench.machine.matmul_rate", lambda *_: pytest.fail("measured again"))
    write_results("render", {"rows": [{"mode": "tiny"}], "machine": described}, tmp_path)


def test_machines_have_short_names() -> None:
    assert hardware(XEON) == "xeon-2-cores"
    assert hardware({"gpu": "NVIDIA H200"}) == "h200"
    assert hardware({"gpu": None, "cpu": "AMD EPYC 7763 64-Core Processor", "cores": 8}) == "epyc-7763-64-core-8-cores"
    assert hardware({"gpu": None, "cpu": "", "cores": 1}) == "machine-1-cores"


def test_a_result_is_shown_as_tables() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table_of("encode", {"pages": 7, "rows": [{"mode": "tiny", "pages_per_second": 3.14159}], "bare": [{"x": 1}]}))
    said = console.export_text()
    assert "bench encode" in said and "pages/s" in said and "3.142" in said and "bare" in said
