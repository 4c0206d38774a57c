"""What one GPU makes of a codec of full size, in one go and in less than eight minutes.

Sections that stand alone: one that fails is reported with its error, one that there is no time for is named, and the others go
on. Only PyTorch, transformers and this package's codec, page and verification rooms are needed: `python -m pipeline.bench.gpu`
runs where Ray and the rest of the package's requirements are missing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pipeline.bench.planting import ERROR_SHARES, plant_errors

Value = TypeVar("Value")
GIB = 2**30


@dataclass
class Bench:
    """What the sections share.

    Attributes:
        seconds: when the last section may begin, after the start.
        notes: sentences for the result.
    """

    device: str
    tiny: bool
    seconds: float
    started: float = field(default_factory=time.perf_counter)
    notes: list[str] = field(default_factory=list)
    matmul: float = 0.0
    codec: Any = None

    @property
    def gpu(self) -> bool:
        return self.device.startswith("cuda")

    def sync(self) -> None:
        import torch

        if self.gpu:
            torch.cuda.synchronize()

    def timed(self, work: Callable[[], Value], seconds: float, least: int = 1) -> tuple[float, Value]:
        """Mean seconds of one call, over as many as fit into `seconds`, after one that does not count."""
        value = work()
        self.sync()
        start, calls = time.perf_counter(), 0
        while calls < least or time.perf_counter() - start < seconds:
            value, calls = work(), calls + 1
            self.sync()
        return (time.perf_counter() - start) / calls, value

    def fitting(self, size: int, work: Callable[[int], Value], what: str) -> tuple[int, Value]:
        """`work(size)`, with half the size as long as memory does not suffice."""
        import torch

        while True:
            try:
                return size, work(size)
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
            size //= 2
            torch.cuda.empty_cache()
            self.notes.append(f"out of memory: {what} went on with {size}")


def bench_gpu(device: str | None = None, *, tiny: bool = False, seconds: float = 420.0) -> dict[str, Any]:
    """Measure encoding, verifying and both together.

    Args:
        device: "cuda" where there is one, else "cpu".
        tiny: a model of a few hundred thousand weights, which shows in seconds that everything runs; its figures mean nothing.
        seconds: no section begins later than that; the longest takes about two minutes on an H100.
    """
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: PyTorch finds no GPU here; choose cpu with --tiny")
    bench = Bench(device, tiny, seconds)
    result: dict[str, Any] = {
        "device": _device_name(device),
        "torch": torch.__version__,
        "model": "tiny" if tiny else "DeepSeek-OCR",
    }
    sections: list[tuple[str, Callable[[Bench], dict[str, Any]]]] = [
        ("matmul", _matmul),
        ("model", _model),
        ("encode", _encode),
        ("attention", _attention),
        ("verify", _verify),
        ("pipeline", _pipeline),
    ]
    rows = []
    for name, section in sections:
        row, found = _guarded(bench, name, section)
        rows.append(row)
        result.update(found)
    result["sections"] = rows
    result["failed_sections"] = sum(row["outcome"] != "done" for row in rows)
    result["seconds"] = time.perf_counter() - bench.started
    described = _machine(bench)
    result["notes"] = bench.notes + _NOTES
    result["command"] = "palimpsest bench gpu" + (f" --device {device} --tiny" if tiny else "")
    result["machine"] = described
    return result


def _guarded(bench: Bench, name: str, section: Callable[[Bench], dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    import torch

    elapsed = time.perf_counter() - bench.started
    row: dict[str, Any] = {"section": name, "outcome": "done", "seconds": 0.0, "peak_memory_gib": None}
    if elapsed > bench.seconds:
        return {**row, "outcome": f"skipped: {elapsed:.0f} s had passed of {bench.seconds:.0f}"}, {}
    if bench.gpu:
        torch.cuda.reset_peak_memory_stats()
    start, found = time.perf_counter(), {}
    try:
        found = section(bench)
    except Exception as error:  # the other sections are worth having
        row["outcome"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300] if str(error).strip() else ''}"
    row["seconds"] = time.perf_counter() - start
    if bench.gpu:
        row["peak_memory_gib"] = torch.cuda.max_memory_allocated() / GIB
        with suppress(RuntimeError):
            torch.cuda.empty_cache()
    return row, found


def _matmul(bench: Bench) -> dict[str, Any]:
    """The rate that every other rate is compared with: the fastest of a second's square bfloat16 products."""
    import torch

    side = 8192 if bench.gpu else 512
    left, right = (torch.randn(side, side, device=bench.device).bfloat16() for _ in range(2))
    best = min(bench.timed(lambda: left @ right, 0.05)[0] for _ in range(3 if bench.tiny else 20))
    bench.matmul = 2 * side**3 / best
    return {"bf16_matmul_tflops": bench.matmul / 1e12}


def _model(bench: Bench) -> dict[str, Any]:
    import torch

    from pipeline.codecs.full_size import full_config, random_codec, tiny_config

    bench.codec = random_codec(tiny_config() if bench.tiny else full_config(), bench.device, torch.bfloat16)
    model = bench.codec.model
    encoder = model.model.vision_tower
    return {
        "weights_millions": sum(weight.numel() for weight in model.parameters()) / 1e6,
        "encoder_weights_millions": sum(weight.numel() for weight in encoder.parameters()) / 1e6,
        "experts_implementation": model.config.text_config._experts_implementation,
    }


def _encode(bench: Bench) -> dict[str, Any]:
    """The fast encoder beside transformers', by mode: in one go, turn by turn."""
    from pipeline.codecs.full_size import useful_flop

    codec, rows = bench.codec, []
    for mode in [codec.mode(name) for name in (("tiny", "small") if bench.tiny else ("base", "small", "tiny", "large"))]:
        started = time.perf_counter()
        fast = codec.fast_encoder
        if fast is None:
            raise RuntimeError(f"no fast encoder: {codec.encoder_path}")
        flop = sum(useful_flop(codec.config, mode.px).values())

        def fast_batch(places: int, mode: Any = mode, fast: Any = fast) -> tuple[int, float]:
            fast.static_places = places
            fast._captured.clear()
            images = _noise(fast.batch(mode.px) if bench.gpu else 2, mode.px)
            return len(images), bench.timed(partial(fast.encode, images, mode.px), 0.1 if bench.tiny else 4.0)[0]

        _, (batch, fast_seconds) = bench.fitting(fast.static_places, fast_batch, f"encoding in mode {mode.name}, patches,")
        prepared = time.perf_counter() - started
        one = _noise(1, mode.px)
        plain_one, plain_tokens = bench.timed(partial(codec._encode_plainly, one, mode), 0.1 if bench.tiny else 2.0)

        def plain_batch(count: int, mode: Any = mode) -> float:
            some = _noise(count, mode.px)
            return bench.timed(lambda: codec._encode_plainly(some, mode), 0.0 if bench.tiny else 2.0)[0] / count

        plain_count, plain_seconds = bench.fitting(min(batch, 8), plain_batch, f"transformers in mode {mode.name}, pages,")
        difference = (fast.encode(one, mode.px).float() - plain_tokens.float()).abs()
        size = plain_tokens.float().abs().mean()
        rate = batch / fast_seconds
        rows.append(
            {
                "mode": mode.name,
                "batch": batch,
                "fast_pages_per_second": rate,
                "transformers_pages_per_second": 1 / plain_one,
                "transformers_batch": plain_count,
                "transformers_batched_pages_per_second": 1 / plain_seconds,
                "ratio": rate * plain_one,
                "ratio_batched": rate * plain_seconds,
                "gflop_per_page": flop / 1e9,
                "matmul_share": rate * flop / bench.matmul if bench.matmul else None,
                "mean_difference": float(difference.mean() / size),
                "p99_difference": float(difference.flatten().float().kthvalue(int(0.99 * difference.numel())).values / size),
                "largest_difference": float(difference.max() / size),
                "seconds_to_compile_and_measure": prepared,
            }
        )
    return {"encode": rows, "encoder": codec.encoder_path}


def _attention(bench: Bench) -> dict[str, Any]:
    """Every way of SAM's attention alone, over a page and inside windows; one that does not run says why."""
    import torch

    from pipeline.codecs.fast.attention import WAYS

    sam, rows = bench.codec.config.vision_config.sam_config, []
    head = sam.hidden_size // sam.num_attention_heads
    shapes = [("tiny, windows", 9, 14)] if bench.tiny else [("base", 4, 64), ("base, windows", 25 * 16, 14), ("small", 8, 40)]
    for what, count, side in shapes:
        packed = torch.randn(count, side * side, 3, sam.num_attention_heads, head, device=bench.device, dtype=torch.bfloat16)
        q, k, v = packed.permute(2, 0, 3, 1, 4)
        tables = torch.randn(2, side, side, head, device=bench.device, dtype=torch.bfloat16) * 0.1
        flop = 4.0 * count * sam.num_attention_heads * side**4 * head
        for way, attend in WAYS.items():
            row: dict[str, Any] = {
                "shape": what,
                "way": way,
                "milliseconds": None,
                "tflops": None,
                "matmul_share": None,
                "error": None,
            }
            try:
                if way == "flex" and not bench.gpu:
                    raise RuntimeError("not tried without a GPU")
                seconds, _ = bench.timed(partial(attend, q, k, v, *tables), 0.0 if bench.tiny else 0.3)
                row |= {"milliseconds": seconds * 1e3, "tflops": flop / seconds / 1e12}
                row["matmul_share"] = flop / seconds / bench.matmul if bench.matmul else None
            except Exception as error:  # a way that does not run here is a finding
                row["error"] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:160]}"
            rows.append(row)
    return {"attention": rows}


def _verify(bench: Bench) -> dict[str, Any]:
    """Drafted decoding beside `generate`: the same pages, errors planted in what the decoder itself writes."""
    from pipeline.codecs.full_size import chain, prompt
    from pipeline.verification.greedy import decode
    from pipeline.verification.reading import DraftedPage

    codec, count, length = bench.codec, 3 if bench.tiny else 64, 40 if bench.tiny else 512
    mode = codec.mode("tiny" if bench.tiny else "small")
    features, prompts = _features(bench, mode, count), [prompt(codec, mode, page) for page in range(count)]
    codec.generate(features[:1], prompts[:1], 4)

    def plain(some: int) -> tuple[float, list[list[int]]]:
        bench.sync()
        start = time.perf_counter()
        return _since(start, codec.generate(features[:some], prompts[:some], length))

    pages, (plain_seconds, greedy) = bench.fitting(count, plain, "generate, pages,")
    expected = [chain(codec, ids, length) for ids in prompts[:pages]]
    choices, draw, rows = sorted({token for ids in greedy for token in ids}), random.Random(0), []
    for share in ERROR_SHARES:
        drafts = [plant_errors(ids, share, choices, draw) for ids in greedy]
        for revise in (True, False):
            batch = [
                DraftedPage(features=f, prompt_ids=p, draft_ids=d, max_new_tokens=length)
                for f, p, d in zip(features, prompts, drafts, strict=False)
            ]
            work = partial(decode, codec, batch, image_inputs=codec.image_inputs, revise=revise)
            seconds, read = bench.timed(work, 0.0)
            rows.append(
                {
                    "planted_errors": f"{share:.0%}",
                    "corrections": revise,
                    "pages": pages,
                    "identical": sum(list(page.ids) == ids for page, ids in zip(read, greedy, strict=True)),
                    "near_ties": sum(page.near_ties for page in read),
                    "disagreements_per_page": sum(page.disagreements for page in read) / pages,
                    "passes_per_page": sum(page.passes for page in read) / pages,
                    "most_passes": max(page.passes for page in read),
                    "pages_per_second": pages / seconds,
                    "generate_pages_per_second": pages / plain_seconds,
                    "ratio": plain_seconds / seconds,
                }
            )
    as_planned = sum(ids == wanted for ids, wanted in zip(greedy, expected, strict=True))
    return {"verify": rows, "verify_tokens_per_page": length, "generate_wrote_the_chain": f"{as_planned} of {pages}"}


def _pipeline(bench: Bench) -> dict[str, Any]:
    """Rendering, encoding and verifying, each in a thread of its own: what one process makes of one device."""
    from pipeline.bench.overlap import overlapped

    return overlapped(bench)


def _features(bench: Bench, mode: Any, count: int) -> list[Any]:
    """Visual tokens of `count` different pages, as the decoder takes them."""
    codec = bench.codec
    return [
        rows
        for start in range(0, count, 8)
        for rows in codec.features(codec.encode(_noise(min(8, count - start), mode.px), mode), mode)
    ]


def _noise(count: int, px: int) -> Any:
    """Random dark patches on white, uint8 `[count, px, px]`: how long encoding takes does not depend on what a page says."""
    import numpy as np

    draw = np.random.default_rng(px)
    patches = np.where(draw.random((count, px // 8, px // 8)) < 0.3, 0, 255).astype(np.uint8)
    return patches.repeat(8, 1).repeat(8, 2)


def _since(start: float, value: Value) -> tuple[float, Value]:
    return time.perf_counter() - start, value


def _device_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name() if device.startswith("cuda") else device


def _machine(bench: Bench) -> dict[str, Any]:
    """As every result carries it; less where the package's requirements are not installed."""
    import platform
    from datetime import UTC, datetime

    try:
        from pipeline.bench.machine import machine

        return machine()
    except ImportError as error:
        bench.notes.append(f"the machine is described in short: {error}")
        return {
            "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            "commit": None,
            "cpu": platform.processor() or platform.machine(),
            "cores": 0,
            "gpu": _device_name(bench.device) if bench.gpu else None,
            "bf16_matmul_tflops": bench.matmul / 1e12,
        }


_NOTES = [
    "Random weights of the stated size; the output head is a permutation of the embeddings, so that greedy outputs can be "
    "compared token for token in bfloat16. A pass takes as long as with trained weights, but experts may be chosen less evenly.",
    "gflop per page: two per multiplication of products and attentions that the page needs, windows without padding, one "
    "channel; matmul share: that rate over the bf16 matmul rate of this run.",
    "transformers' pages/s: `get_image_features` page by page; batched: the stated number at once. Differences are over the mean "
    "size of a token's values, both sides in bfloat16.",
    "corrections: the decoder's own choices behind a disagreement are taken over. Without them each planted error costs a pass, "
    "as with a decoder that loses the thread after an error; a decoder that reads its page lies between the two.",
    "generate and drafted decoding take the same pages in one batch; each is timed once after a warm-up.",
]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command without the package's requirements: JSON on standard output, and the two files where they can be written."""
    import argparse
    import json

    parser = argparse.ArgumentParser(description=bench_gpu.__doc__)
    parser.add_argument("--out", default="docs/results")
    parser.add_argument("--seconds", type=float, default=420.0)
    parser.add_argument("--device")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args(arguments)
    result = bench_gpu(given.device, tiny=given.tiny, seconds=given.seconds)
    print(json.dumps(result, indent=1))
    Path(given.out).mkdir(parents=True, exist_ok=True)
    try:
        from pipeline.bench.machine import write_results

        write_results("gpu", result, given.out)
    except ImportError:
        (Path(given.out) / f"gpu_{result['machine']['date'][:10]}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
