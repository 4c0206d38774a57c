"""`palimpsest plan`: rates with their sources, pages, hours, bytes; and the scaling model beside the simulation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from palimpsest.cli.app import app
from palimpsest.codecs.modes import MODES
from palimpsest.config import ConfigError, JobConfig, parse
from palimpsest.flow.supply import described, supply
from palimpsest.lab.forecast.estimate import Speeds, Terms, estimate, sensitivity
from palimpsest.lab.forecast.rates import EXTRAPOLATED, NotMeasured, Rate, find_rate, measured_rates, parse_rate
from palimpsest.lab.forecast.scaling import Scale, limiting, limits, most_gpus, pages_per_second
from palimpsest.lab.forecast.simulation import simulate
from palimpsest.lab.forecast.workload import Workload, given_workload, sampled_workload
from palimpsest.pages.layouts.document import DocumentLayout
from palimpsest.pages.layouts.grid import Grid
from palimpsest.tiers.policies.protocol import Policy, policy_of

GRID = Grid.parse("64x32", "latin")


def policy(*overrides: str) -> Policy:
    return policy_of(parse({}, overrides), GRID, "")[1]


def rate(stage: str, speed: float, **more: Any) -> Rate:
    return Rate(**{"stage": stage, "device": "h100", "pages_per_second": speed, "codec": "deepseek-ocr", **more})


# Rates


@pytest.fixture
def results(tmp_path: Path) -> Path:
    machine = {"bf16_matmul_tflops": 700.0}
    gpu: dict[str, Any] = {
        "model": "DeepSeek-OCR",
        "encode": [{"mode": "base", "fast_pages_per_second": 50.0}, {"mode": "small", "fast_pages_per_second": 120.0}],
        "verify": [
            {"planted_errors": "3%", "corrections": True, "pages_per_second": 30.0},
            {"planted_errors": "0%", "corrections": True, "pages_per_second": 99.0},
        ],
        "verify_tokens_per_page": 512,
        "machine": machine,
    }
    (tmp_path / "gpu_h100-80gb_2026-01-02.json").write_text(json.dumps(gpu))
    gpu["encode"] = [{"mode": "base", "fast_pages_per_second": 10.0}]
    (tmp_path / "gpu_h100-80gb_2026-01-01.json").write_text(json.dumps(gpu))
    return tmp_path


def test_the_newest_measured_rate_counts_and_names_its_file(results: Path) -> None:
    found = find_rate(measured_rates(results), "encode", "h100", codec="unlimited-ocr", mode="base")
    assert (found.pages_per_second, found.basis, found.source) == (50.0, "measured", "gpu_h100-80gb_2026-01-02.json")


def test_a_rate_that_nobody_measured_is_refused_and_says_what_was(results: Path) -> None:
    rates = measured_rates(results)
    with pytest.raises(NotMeasured, match=r"'b200'.*encode base on h100-80gb.*--rate encode="):
        find_rate(rates, "encode", "b200", codec="deepseek-ocr", mode="base")
    with pytest.raises(NotMeasured, match="'embedded'.*Measured of this codec: nothing"):
        find_rate(rates, "encode", "h100", codec="embedded", mode="base", extrapolate=True)
    with pytest.raises(NotMeasured, match="tflops"):
        find_rate(rates, "encode", "b200", codec="deepseek-ocr", mode="base", extrapolate=True)


def test_an_extrapolated_rate_is_marked_with_its_formula(results: Path) -> None:
    rates = measured_rates(results)
    mode = find_rate(rates, "encode", "h100", codec="deepseek-ocr", mode="large", extrapolate=True)
    assert mode.basis == EXTRAPOLATED and mode.pages_per_second == pytest.approx(50 * (1024 / 1280) ** 2)
    other = find_rate(rates, "encode", "b200", codec="deepseek-ocr", mode="base", extrapolate=True, tflops=1400.0)
    assert other.pages_per_second == pytest.approx(100.0) and "1400 / 700 bf16 matmul TFLOP/s" in other.formula


def test_a_decoder_s_rate_in_another_mode_goes_by_the_tokens_of_a_pass(results: Path) -> None:
    rates = measured_rates(results)
    found = find_rate(rates, "verify", "h100", codec="deepseek-ocr", mode="base", reader="generative", extrapolate=True)
    small, base = MODES["small"].num_context_tokens, MODES["base"].num_context_tokens
    assert found.basis == EXTRAPOLATED and found.pages_per_second == pytest.approx(30 * (small + 512) / (base + 512))
    assert "623 tokens / 785 tokens of context and text" in found.formula


def test_a_verification_rate_of_pages_cut_short_is_no_rate_of_pages(tmp_path: Path) -> None:
    rows = [{"planted_errors": "3%", "pages_per_second": 7.0}]
    cut = {"codec": "embedded x", "mode": "tiny", "greedy_tokens_per_page": 128.0, "max_new_tokens": 128, "rows": rows}
    (tmp_path / "verify_m-2-cores_2026-01-01.json").write_text(json.dumps(cut))
    assert measured_rates(tmp_path) == []
    (tmp_path / "verify_m-2-cores_2026-01-01.json").write_text(json.dumps({**cut, "max_new_tokens": 2000}))
    assert measured_rates(tmp_path)[0].tokens == 128.0


def test_the_plan_shows_every_kind_of_device_that_was_measured(results: Path) -> None:
    whole = json.loads((results / "gpu_h100-80gb_2026-01-02.json").read_text())
    whole["encode"] = [{"mode": "small", "fast_pages_per_second": 240.0}]
    (results / "gpu_h200_2026-01-02.json").write_text(json.dumps(whole))
    common = ["plan", "gpu-cluster", "--set", "codec.name=deepseek-ocr", "--set", "verification.reader=generative", "--json"]
    common += ["--set", "tiers.mode=small", "--pages", "1e6", "--text-tokens", "5e8", "--results", str(results)]
    ran = CliRunner().invoke(app, [*common, "--gpu", "h200", "--deadline", "1h"])
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    assert [row["device"] for row in found["kinds"]] == ["h200", "h100-80gb"]
    here, there = found["kinds"]
    assert here["encode_hours"] == pytest.approx(there["encode_hours"] / 2) and here["verify_hours"] == there["verify_hours"]
    assert here["total_hours"] == found["total_hours"] < there["total_hours"] and here["machines"] == found["machines"]
    assert {row["basis"] for row in found["kinds"]} == {"measured"}
    assert {rate["source"] for rate in found["rates"] if rate["stage"] == "encode"} == {"gpu_h200_2026-01-02.json"}
    given = CliRunner().invoke(app, [*common, "--gpu", "h200", "--rate", "encode=9", "--rate", "verify=9"])
    assert [row["device"] for row in json.loads(given.stdout)["kinds"]] == ["h200"], "a given rate is of the device named"


def test_the_results_that_come_with_the_repository_can_be_read() -> None:
    found = measured_rates(Path(__file__).parent.parent / "docs" / "results")
    assert find_rate(found, "job", "cpu", codec="embedded", mode="tiny", reader="cells").pages_per_second > 0


def test_a_broken_result_and_a_bad_rate_are_errors(tmp_path: Path) -> None:
    (tmp_path / "encode_h100_2026-01-01.json").write_text('{"rows": 3}')
    with pytest.raises(ValueError, match="encode_h100_2026-01-01.json: no result of `palimpsest bench encode`"):
        measured_rates(tmp_path)
    for text in ("encode", "encode=0", "encode=fast", "brew=3", "encode/huge=3"):
        with pytest.raises(ValueError, match="stages: encode, verify, job"):
            parse_rate(text)


# Pages


def test_pages_from_documents() -> None:
    work = given_workload(GRID, policy(), documents=1000, characters=20_480)
    assert work.pages == pytest.approx(1000 * 10.5) and work.tiers == {"tiny": work.pages}
    assert given_workload(GRID, policy(), documents=1000, characters=10).pages == 1000
    assert any("4.1 characters" in said for said in work.assumed)


def test_a_policy_that_climbs_tries_every_mode_below() -> None:
    shares = {"tiny": 0.5, "base": 0.3, "text": 0.2}
    climbing = policy("tiers.policy=fidelity", "tiers.predictor=none")
    work = given_workload(GRID, climbing, pages=100, tiers=shares)
    tried = {"tiny": 100.0, "small": 50.0, "base": 50.0, "large": 20.0}
    assert work.encodes == pytest.approx({name: tried[name] for name in work.encodes})
    assert set(work.encodes) == {mode.name for mode in climbing.ladder.modes}


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({}, "--documents with --characters"),
        ({"pages": 10.0, "tiers": {"tiny": 0.5}}, "add up to 0.5"),
        ({"pages": 10.0, "tiers": {"huge": 1.0}}, "--tier huge"),
    ],
)
def test_numbers_that_do_not_suffice_are_errors(more: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        given_workload(GRID, policy(), **more)
    with pytest.raises(ConfigError, match="depends on the page"):
        given_workload(GRID, policy("tiers.policy=age", "tiers.as_of=2026-01-01"), pages=10)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(12):
        (folder / f"{number}.txt").write_text("It was a dark and stormy night. " * (100 + 37 * number))
    return folder


def test_a_sample_of_everything_is_the_corpus_itself(corpus: Path) -> None:
    config = parse({"sources": [str(corpus)]}, ["layout.alphabet=latin"])
    work = sampled_workload(config, GRID, policy(), megabytes=10)
    texts = [path.read_text() for path in corpus.iterdir()]
    assert work.pages == sum(len(list(GRID.paginate(text, "prose"))) for text in texts)
    assert work.characters == sum(map(len, texts)) and work.documents == 12
    assert work.sample["pages_standard_error"] == 0 and work.sample["classes"] == {"prose": 1.0}


def test_a_part_of_it_is_near_and_says_how_sure_it_is(corpus: Path) -> None:
    config: JobConfig = parse({"sources": [str(corpus)]}, ["layout.alphabet=latin"])
    whole = sampled_workload(config, GRID, policy(), megabytes=10)
    part = sampled_workload(config, GRID, policy(), megabytes=0.05)
    error = part.sample["pages_standard_error"]
    assert part.sample["units"] < 12 and 0 < error < 0.2
    assert part.pages == pytest.approx(whole.pages, rel=4 * error)
    assert any("like those of the sample" in said for said in part.assumed)


# Hours, bytes, cost


WORK = Workload(characters=4e9, text_tokens=1e9, text_bytes=4e9, tiers={"base": 3.6e6}, encodes={"base": 3.6e6})
SPEEDS = Speeds(encode={"base": rate("encode", 50)}, verify={"base": rate("verify", 25)}, job={}, core=rate("supply", 500))
EASY = Terms(utilisation=1.0, controlled=0.0)


def test_hours_machines_bytes_and_cost() -> None:
    found = estimate(WORK, SPEEDS, replace(EASY, deadline_hours=10, price=2.5), MODES, 1280)
    assert found.hours == pytest.approx({"encode": 20.0, "verify": 40.0})
    assert found.total_hours == pytest.approx(60.0) and found.machines == 6
    assert found.cost == pytest.approx(150.0) and found.cost_per_million_pages == pytest.approx(150 / 3.6)
    assert found.bytes_per_page == {"bf16": 256 * 2560, "int8": 256 * 1284, "int4": 256 * 642, "pq": 256 * 480, "none": 0}
    assert found.bytes_per_text_token["int8"] == pytest.approx(256 * 1284 * 3.6e6 / 1e9)
    assert found.cores_per_device == pytest.approx((1 / (1 / 50 + 1 / 25)) / 500)


def test_retries_interruptions_and_idle_time_come_on_top() -> None:
    terms = replace(EASY, retries=0.1, interruptions=0.5, lost_seconds=720, utilisation=0.5)
    assert estimate(WORK, SPEEDS, terms, MODES, 1280).total_hours == pytest.approx(60 * 1.1 / 0.9 / 0.5)
    with pytest.raises(ConfigError, match="leave no time"):
        replace(EASY, interruptions=10, lost_seconds=400)


def test_a_decoder_s_rate_is_that_of_pages_as_long_as_these() -> None:
    speeds = replace(SPEEDS, verify={"base": rate("verify", 25, tokens=555.5)})  # these pages have 277.8 tokens: half as many
    assert estimate(WORK, speeds, EASY, MODES, 1280).hours["verify"] == pytest.approx(20.0, rel=1e-3)


def test_the_sensitivity_table_changes_one_thing_at_a_time() -> None:
    rows = {row["what"]: row for row in sensitivity(WORK, SPEEDS, EASY, MODES, 1280)}
    assert rows["as planned"]["change"] == 0
    assert rows["rates -25%"]["change"] == pytest.approx(1 / 3) and rows["rates +25%"]["change"] == pytest.approx(-0.2)
    assert rows["characters per page +25%"]["pages"] == pytest.approx(3.6e6 / 1.25)
    assert rows["verification share 0"]["hours"] == pytest.approx(20.0)
    assert rows["verification share 0.1"]["hours"] == pytest.approx(24.0)
    assert rows["10% of the pages done twice"]["change"] == pytest.approx(0.1)
    assert rows["0.5 interruptions an hour of 300 s"]["change"] == pytest.approx(1 / (1 - 150 / 3600) - 1)
    assert rows["storage bf16"]["token_bytes"] == pytest.approx(3.6e6 * 256 * 2560)


# The command


def test_the_command_prints_json_with_the_source_of_each_rate(results: Path) -> None:
    flags = ["--set", "codec.name=deepseek-ocr", "--set", "verification.reader=generative", "--set", "tiers.mode=small"]
    numbers = ["--documents", "1e6", "--characters", "4000", "--gpu", "h100", "--deadline", "72h", "--price", "2.5"]
    shown = CliRunner().invoke(app, ["plan", "gpu-cluster", *flags, *numbers, "--results", str(results), "--json"])
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    assert {rate["source"] for rate in found["rates"]} == {"gpu_h100-80gb_2026-01-02.json"}
    assert found["token_dim"] == 1280 and found["machines"] >= 1 and found["cost"] > 0
    assert found["pages"] == pytest.approx(1e6 * (4000 / DocumentLayout().capacity + 0.5))


def test_the_command_refuses_what_was_not_measured(results: Path) -> None:
    flags = ["--gpu", "h100", "--pages", "1e6", "--results", str(results)]
    shown = CliRunner().invoke(app, ["plan", "gpu-cluster", *flags])
    assert shown.exit_code == 2 and "was never measured on 'h100'" in " ".join(shown.output.split())


# Scaling


FAST = Scale(tasks_per_second=1e6, rows_per_second=1e6, request_seconds=0.001, put_requests_per_second=1e6)
CASES = {
    "devices": (replace(FAST, store_bytes_per_second=1e12), 300),
    "driver": (Scale(), 2000),
    "bytes written": (replace(FAST, store_bytes_per_second=1e9), 5000),
    "put requests": (replace(FAST, put_requests_per_second=20, store_bytes_per_second=1e12), 2000),
}


@pytest.mark.parametrize("part", CASES)
def test_model_and_simulation_agree_on_every_limit(part: str) -> None:
    scale, gpus = CASES[part]
    assert limiting(scale, gpus) == part
    assert simulate(scale, gpus) == pytest.approx(pages_per_second(scale, gpus), rel=0.1)


def test_the_simulation_notices_a_wrong_formula() -> None:
    """It knows nothing of `limits`: a driver twice as slow shows in it."""
    slow = replace(Scale(), tasks_per_second=Scale.tasks_per_second / 2)
    assert simulate(slow, 2000) < 0.6 * pages_per_second(Scale(), 2000)


def test_small_units_make_the_driver_the_limit_sooner() -> None:
    small = replace(Scale(), pages_per_unit=100.0)
    assert most_gpus(small) < most_gpus(Scale()) / 3
    assert limits(small, 1)["driver"] == pytest.approx(1 / (4 / 64 / 500 + 1 / 512 / 10_000 + 2 * 0.05 / 100))


# Supply


def test_supply_says_how_many_cores_a_worker_needs() -> None:
    spent = {
        "read": {"seconds": 1.0}, "paginate": {"seconds": 2.0}, "render": {"seconds": 4.0}, "write": {"seconds": 1.0},
        "encode": {"seconds": 22.0, "wall_seconds": 40.0, "model_seconds": 20.0, "model_pages": 1000, "halved": 2},
        "verify": {"seconds": 0.0},
    }  # fmt: skip
    found = supply(spent, 1000)
    assert found["render_pages_per_core_second"] == 250.0 and found["supply_pages_per_core_second"] == 125.0
    assert found["encode"] == {
        "pages_per_worker_second": 50.0, "cores_per_worker": 0.4, "busy_share": 0.55, "model_share": 0.5, "halved": 2,
    }  # fmt: skip
    assert "verify" not in found and "2 batches halved" in described(found)[1]
    assert supply({}, 0) == {} and supply({}, 10) == {}
