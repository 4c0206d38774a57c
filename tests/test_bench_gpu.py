"""`palimpsest bench gpu` on a CPU with a tiny model: every section runs, what it says adds up, and a failure harms no other."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from palimpsest.cli.app import app
from palimpsest.lab.bench import gpu
from palimpsest.lab.bench.gpu import bench_gpu
from palimpsest.lab.bench.gpu_encode import noise
from palimpsest.lab.bench.overlap import _Line
from palimpsest.lab.bench.sections import Bench, OutOfTime, at_most
from palimpsest.lab.full_size import chain, full_config, prompt, random_codec, tiny_config, useful_flop

RUN = CliRunner()


def test_the_command_measures_everything_and_writes_it(tmp_path: Path) -> None:
    ran = RUN.invoke(app, ["bench", "gpu", "--tiny", "--device", "cpu", "--out", str(tmp_path), "--json"])
    assert ran.exit_code == 0, ran.output
    (page,) = tmp_path.glob("gpu_*.md")
    result = json.loads(page.with_suffix(".json").read_text())
    assert [row["section"] for row in result["sections"]] == list(gpu.SECTIONS)
    assert result["failed_sections"] == 0 and all(row["outcome"] == "done" for row in result["sections"])
    assert result["command"] == "palimpsest bench gpu --device cpu --tiny" and "torch" in result["machine"]["packages"]
    for row in result["encode"]:
        assert row["fast_pages_per_second"] > 0 and row["mean_difference"] < 0.03 and row["matmul_share"] > 0
        theirs = row["transformers_difference_from_float32"]
        assert 0 < row["mean_difference_from_float32"] < 1.5 * theirs < 0.05, "not further from float32 than transformers is"
        assert row["ratio"] == pytest.approx(row["fast_pages_per_second"] / row["transformers_pages_per_second"])
    assert {row["way"] for row in result["attention"] if row["error"] is None} >= {"augmented", "augmented-flash", "bias"}
    rows = result["verify"]
    assert [row["planted_errors"] for row in rows[::2]] == ["0%", "1%", "3%", "10%", "30%"]
    assert all(row["identical"] == row["pages"] == 3 and row["near_ties"] == 0 for row in rows)
    assert all(row["passes_per_page"] == 1 for row in rows[:2]) and result["generate_wrote_the_chain"] == "3 of 3"
    assert all(
        with_["passes_per_page"] <= without["passes_per_page"] + 1 for with_, without in zip(rows[::2], rows[1::2], strict=True)
    )
    (line,) = result["pipeline"]
    right, pages = line["right"].split(" of ")
    assert right == pages and int(pages) >= 2 and line["pages"].startswith("rendered") and line["pages_per_second"] > 0
    assert "| 30% | yes | 3 | 3 |" in page.read_text()


def test_a_section_that_fails_or_comes_too_late_is_named_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(bench: Bench) -> dict[str, object]:
        raise ValueError("no such kernel\nsecond line")

    for name in ("encode", "verify"):
        monkeypatch.setitem(gpu.SECTIONS, name, (broken, 5.0))
    result = bench_gpu("cpu", tiny=True)
    outcomes = {row["section"]: row["outcome"] for row in result["sections"]}
    assert outcomes["encode"] == outcomes["verify"] == "ValueError: no such kernel" and outcomes["pipeline"] == "done"
    assert result["failed_sections"] == 2 and "pipeline" in result and "encode" not in result
    late = bench_gpu("cpu", tiny=True, seconds=-1)
    assert all(row["outcome"].startswith("skipped: ") for row in late["sections"]) and late["failed_sections"] == len(
        gpu.SECTIONS
    )


def test_what_was_found_is_there_when_a_section_is_broken_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def slow(bench: Bench) -> dict[str, object]:
        bench.keep({"verify": [{"planted_errors": "3%", "ratio": 21.0}]})
        time.sleep(60)
        return {}

    shares = {"matmul": 1.0, "verify": 2.0, "pipeline": 50.0}
    made = {name: (slow if name == "verify" else lambda bench: {}, share) for name, share in shares.items()}
    monkeypatch.setattr(gpu, "SECTIONS", made)
    began = time.perf_counter()
    result = bench_gpu("cpu", tiny=True, seconds=60, save=gpu.write_so_far(tmp_path))
    assert time.perf_counter() - began < 30
    outcomes = {row["section"]: row["outcome"] for row in result["sections"]}
    assert outcomes["verify"].startswith("stopped after its ") and outcomes["pipeline"] == "done"
    (page,) = tmp_path.glob("gpu_*.md")
    for found in (result, json.loads(page.with_suffix(".json").read_text())):
        assert found["verify"] == [{"planted_errors": "3%", "ratio": 21.0}] and found["failed_sections"] == 1
    assert "| 3% | 21 |" in page.read_text()


def test_alarms_stand_inside_each_other() -> None:
    began = time.perf_counter()
    with pytest.raises(OutOfTime), at_most(0.6):
        with pytest.raises(OutOfTime), at_most(0.2):
            time.sleep(5)
        assert time.perf_counter() - began < 0.5
        time.sleep(5)
    assert 0.5 < time.perf_counter() - began < 4


def test_several_threads_verify_at_once_and_an_error_comes_out() -> None:
    def made(_: object) -> int | None:
        number = next(numbers, None)
        if number is None:
            over.wait(60)
        return number

    def shifted(number: int | None) -> int | None:
        time.sleep(0.02)
        return None if number is None else number + 1

    numbers, over = iter(range(20)), threading.Event()
    with _Line(torch.device("cpu"), (made, 1), (shifted, 3)) as line:
        assert sorted(line.get() for _ in range(20)) == list(range(1, 21))
        over.set()
    with _Line(torch.device("cpu"), (lambda _: 1 // 0, 1), (shifted, 2)) as line, pytest.raises(ZeroDivisionError):
        line.get()
    assert not any(thread.is_alive() for thread in line._threads)


def test_the_batch_is_halved_until_memory_suffices() -> None:
    bench, tried = Bench("cpu", True, 1.0), []

    def work(size: int) -> str:
        tried.append(size)
        if size > 3:
            raise torch.OutOfMemoryError("too much")
        return "done"

    assert bench.fitting(16, work, "pages,") == (2, "done") and tried == [16, 8, 4, 2]
    assert bench.notes == [f"out of memory: pages, went on with {size}" for size in (8, 4, 2)]
    with pytest.raises(torch.OutOfMemoryError):
        bench.fitting(8, lambda size: work(size + 4), "pages,")


def test_a_gpu_that_is_not_there_is_an_error() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    ran = RUN.invoke(app, ["bench", "gpu", "--device", "cuda"])
    assert ran.exit_code == 2 and "--device cuda: PyTorch finds no GPU here" in ran.output


def test_the_model_writes_a_chain_of_its_own_for_every_page() -> None:
    codec = random_codec(tiny_config(), "cpu", torch.bfloat16)
    mode = codec.mode("tiny")
    prompts = [prompt(codec, mode, page) for page in range(3)]
    features = list(torch.randn(3, mode.num_context_tokens, codec.token_dim).bfloat16())
    written = codec.generate(features, prompts, 30)
    assert written == [chain(codec, ids, 30) for ids in prompts]
    assert all(len(set(ids)) == 30 for ids in written) and len({tuple(ids) for ids in written}) == 3


def test_flops_are_those_that_pytorch_counts_where_nothing_is_wasted() -> None:
    config = tiny_config()
    config.vision_config.sam_config.window_size = 8  # divides the page: no padding in transformers either
    codec = random_codec(config, "cpu", torch.float32)
    side = 32
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # the CPU's fused attention is not counted
        codec.encoder.plain_tokens(noise(1, 512), codec.mode("tiny"))
    sam = config.vision_config.sam_config
    terms = 4 * side**2 * sam.hidden_size * (2 * 8 + side)  # position terms: two blocks with windows, one without
    channels = 2 * 2 * side**2 * sam.patch_size**2 * sam.hidden_size  # the second and third channel
    assert counter.get_total_flops() == pytest.approx(sum(useful_flop(config, 512).values()) + terms + channels, rel=1e-6)
    assert 0.9e12 < sum(useful_flop(full_config(), 1024).values()) < 1.2e12
    assert 0.3e12 < sum(useful_flop(full_config(), 640).values()) < 0.4e12


def test_it_needs_no_ray_and_runs_as_a_module(tmp_path: Path) -> None:
    """In this process's own modules nothing can be unloaded, so a fresh one is asked what it loaded."""
    import subprocess

    script = (
        "import sys; sys.modules.update(dict.fromkeys(('ray', 'pyarrow', 'typer', 'rich')))\n"
        "from palimpsest.lab.bench import gpu; nothing = lambda bench: {}\n"
        "gpu.SECTIONS |= dict.fromkeys(('encode', 'attention', 'verify'), (nothing, 1))\n"
        f"gpu.main(['--tiny', '--device', 'cpu', '--out', {str(tmp_path)!r}])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert result["failed_sections"] == 0, result["sections"]
    (path,) = tmp_path.glob("*.json")
    assert json.loads(path.read_text())["sections"] == result["sections"]
