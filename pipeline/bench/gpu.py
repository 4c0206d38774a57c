"""What one GPU makes of a codec of full size, in one go and in less than eight minutes.

Sections that stand alone: one that fails is reported with its error, one that outlasts its share of the time is broken off, and
the others go on. What is found is written at once, so that a run that is killed loses what it was at only. Only PyTorch,
transformers and this package's codec, page and verification rooms are needed: `python -m pipeline.bench.gpu` runs where Ray and
the rest of the package's requirements are missing.
"""

from __future__ import annotations

import logging
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pipeline.bench.planting import ERROR_SHARES, plant_errors

_log = logging.getLogger(__name__)
Value = TypeVar("Value")
GIB = 2**30
PAGES, TOKENS = 64, 512  # of the comparison with `generate`
BATCHES = 4  # that the fast encoder is given at once: the pages of one are copied while another is computed
LEAST_TOKENS = 96  # fewer per page would compare little but prefills


class OutOfTime(BaseException):
    """A section outlasted its share; no `Exception`, so that nothing on the way takes it for a failure of its own."""


@dataclass
class Bench:
    """What the sections share.

    Attributes:
        seconds: all that there are, from the start.
        save: called with what is there so far whenever something was found.
        notes: sentences for the result.
        ends: when the present section is broken off.
    """

    device: str
    tiny: bool
    seconds: float
    save: Callable[[dict[str, Any]], None] | None = None
    started: float = field(default_factory=time.perf_counter)
    notes: list[str] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)
    matmul: float = 0.0
    codec: Any = None
    ends: float = float("inf")

    @property
    def gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started

    @property
    def left(self) -> float:
        """Seconds that the present section has left."""
        return max(0.0, self.ends - time.perf_counter())

    def keep(self, found: dict[str, Any]) -> None:
        """Add what was found to the result, and write it."""
        self.result.update(found)
        if self.save is not None:
            self.save(self.result | {"notes": self.notes + _NOTES, "seconds": self.elapsed})

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


SECTIONS: tuple[tuple[str, float], ...] = (
    ("matmul", 1),
    ("model", 3),
    ("kernel", 3),
    ("encode", 9),
    ("verify", 9),
    ("pipeline", 5),
    ("attention", 2),
)  # in the order of their worth, and their shares of the time; what one leaves goes to those behind it


def bench_gpu(
    device: str | None = None, *, tiny: bool = False, seconds: float = 420.0, save: Callable[[dict[str, Any]], None] | None = None
) -> dict[str, Any]:
    """Measure encoding, verifying and both together.

    Args:
        device: "cuda" where there is one, else "cpu".
        tiny: a model of a few hundred thousand weights, which shows in seconds that everything runs; its figures mean nothing.
        seconds: for everything; a section that outlasts its share is broken off and keeps what it has found.
        save: called with the result as it is so far, after every section and within long ones.
    """
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: PyTorch finds no GPU here; choose cpu with --tiny")
    bench = Bench(device, tiny, seconds, save)
    bench.result = {
        "device": _device_name(device),
        "torch": torch.__version__,
        "model": "tiny" if tiny else "DeepSeek-OCR",
        "sections": [],
        "command": "palimpsest bench gpu" + (f" --device {device} --tiny" if tiny else ""),
        "machine": _machine(bench),
    }
    for place, (name, share) in enumerate(SECTIONS):
        limit = (seconds - bench.elapsed) * share / sum(other for _, other in SECTIONS[place:])
        rows = bench.result["sections"]
        rows.append(_guarded(bench, name, globals()[f"_{name}"], limit))
        bench.keep({"sections": rows})
    rows = bench.result["sections"]
    bench.keep({"failed_sections": sum(row["outcome"] != "done" for row in rows)})
    order = ("sections", "notes", "command", "machine")
    result = {name: value for name, value in bench.result.items() if name not in order}
    result |= {"sections": rows, "seconds": bench.elapsed, "notes": bench.notes + _NOTES}
    result |= {name: bench.result[name] for name in ("command", "machine")}
    if save is not None:
        save(result)
    return result


def _guarded(bench: Bench, name: str, section: Callable[[Bench], dict[str, Any]], limit: float) -> dict[str, Any]:
    import torch

    row: dict[str, Any] = {"section": name, "outcome": "done", "seconds": 0.0, "peak_memory_gib": None}
    if limit <= 0:
        return {**row, "outcome": f"skipped: {bench.elapsed:.0f} s had passed of {bench.seconds:.0f}"}
    start = time.perf_counter()
    bench.ends = start + limit
    try:
        if bench.gpu:
            torch.cuda.reset_peak_memory_stats()
        with _at_most(limit):
            bench.keep(section(bench))
    except OutOfTime:
        row["outcome"] = f"broken off after its {limit:.0f} s; what it had found is kept"
    except Exception as error:  # the other sections are worth having
        _log.exception("section %s", name)
        row["outcome"] = _said(error)
    row["seconds"] = time.perf_counter() - start
    if bench.gpu:
        with suppress(RuntimeError):
            row["peak_memory_gib"] = torch.cuda.max_memory_allocated() / GIB
            torch.cuda.empty_cache()
    return row


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` in here after that many seconds, where this is the main thread of a system with alarms."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    start = time.perf_counter()
    outer, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, max(0.001, outer - (time.perf_counter() - start)) if outer else 0)
        signal.signal(signal.SIGALRM, before)


def _said(error: BaseException) -> str:
    """An error's kind and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"


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


def _kernel(bench: Bench) -> dict[str, Any]:
    """The page's attention kernel, launched in different ways; the fastest is taken for what follows."""
    import torch

    if not bench.gpu:
        return {}
    from pipeline.codecs.fast import grid_kernel
    from pipeline.codecs.fast.attention import biased

    sam, rows, best = bench.codec.config.vision_config.sam_config, [], float("inf")
    side, heads, head = 64, sam.num_attention_heads, sam.hidden_size // sam.num_attention_heads
    usual = grid_kernel.launch_of(side)
    q, k, v = torch.randn(8, side**2, 3, heads, head, device=bench.device).bfloat16().permute(2, 0, 3, 1, 4)
    tables = torch.randn(2, side, side, head, device=bench.device).bfloat16() * 0.1
    expected = biased(q[:1].float(), k[:1].float(), v[:1].float(), *tables.float())
    chosen = usual
    try:
        for launch in grid_kernel.CHOICES:
            row: dict[str, Any] = {
                **launch._asdict(),
                "milliseconds": None,
                "tflops": None,
                "mean_difference": None,
                "error": None,
            }
            try:
                grid_kernel.LAUNCHES[side] = launch
                seconds, found = bench.timed(lambda: grid_kernel.grid_attention(q, k, v, *tables), 0.1)
                row |= {"milliseconds": seconds * 1e3, "tflops": 4 * len(q) * heads * side**4 * head / seconds / 1e12}
                row["mean_difference"] = float((found[:1].float() - expected).abs().mean() / expected.abs().mean())
                if seconds < best and row["mean_difference"] < 0.02:
                    chosen, best = launch, seconds
            except Exception as error:  # a launch that this device refuses is a finding
                row["error"] = _said(error)
            rows.append(row)
            bench.keep({"kernel": rows})
    finally:
        grid_kernel.LAUNCHES.pop(side, None)
        if chosen != usual:
            grid_kernel.LAUNCHES.update(dict.fromkeys((32, 40, 64), chosen))
            bench.notes.append(f"encode used the fastest launch, {chosen}; the package's own is {usual}")
    return {"kernel": rows}


def _encode(bench: Bench) -> dict[str, Any]:
    """The fast encoder beside transformers', by mode: in one go, turn by turn."""
    codec = bench.codec
    rows: list[dict[str, Any]] = []
    started, limit = time.perf_counter(), bench.left
    for place, name in enumerate(("tiny", "small") if bench.tiny else ("base", "small", "tiny", "large")):
        if place > 1 and time.perf_counter() - started > 0.6 * limit:
            bench.notes.append(f"mode {name} was not encoded: no time was left")
            continue
        try:
            with _at_most(limit if rows else 0.6 * limit):
                rows.append(_encode_mode(bench, codec.mode(name)))
        except OutOfTime:
            if rows or codec.fast_encoder is None or not codec.fast_encoder.compiled:
                raise
            bench.notes.append(f"mode {name} was not compiled within {0.6 * limit:.0f} s: measured without compiling")
            codec.fast_encoder.give_up_compiling()
            rows.append(_encode_mode(bench, codec.mode(name)))
        except Exception as error:  # the other modes are worth having
            bench.notes.append(f"mode {name} was not encoded: {_said(error)}")
        bench.keep({"encode": rows, "encoder": codec.encoder_path})
    if not rows:
        raise RuntimeError(f"no mode could be encoded: {bench.notes[-1]}")
    return {"encode": rows, "encoder": codec.encoder_path}


def _encode_mode(bench: Bench, mode: Any) -> dict[str, Any]:
    from pipeline.codecs.full_size import useful_flop

    codec = bench.codec
    started = time.perf_counter()
    fast = codec.fast_encoder
    if fast is None:
        raise RuntimeError(f"no fast encoder: {codec.encoder_path}")
    flop = sum(useful_flop(codec.config, mode.px).values())

    one = _noise(1, mode.px)
    fast.encode(one, mode.px)  # compiles, captures, and finds how many pages at a time fit into memory
    bench.sync()
    prepared = time.perf_counter() - started
    batch = fast.batch(mode.px) if bench.gpu else 2
    images = _noise(batch * (BATCHES if bench.gpu else 1), mode.px)
    fast_seconds = bench.timed(partial(fast.encode, images, mode.px), 0.1 if bench.tiny else 2.5)[0] / len(images)
    plain_one, plain_tokens = bench.timed(partial(codec._encode_plainly, one, mode), 0.1 if bench.tiny else 1.5)

    def plain_batch(count: int) -> float:
        some = _noise(count, mode.px)
        return bench.timed(lambda: codec._encode_plainly(some, mode), 0.0 if bench.tiny else 1.5)[0] / count

    plain_count, plain_seconds = bench.fitting(min(batch, 8), plain_batch, f"transformers in mode {mode.name}, pages,")
    fast_tokens, exact = fast.encode(one, mode.px).float(), _in_float32(codec, one, mode)
    difference = (fast_tokens - plain_tokens.float()).abs()
    size = plain_tokens.float().abs().mean()
    rate = 1 / fast_seconds
    return {
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
        "mean_difference_from_float32": float((fast_tokens - exact).abs().mean() / size),
        "transformers_difference_from_float32": float((plain_tokens.float() - exact).abs().mean() / size),
        "seconds_to_compile": prepared,
    }


def _in_float32(codec: Any, page: Any, mode: Any) -> Any:
    """What transformers' encoder makes of a page with the same weights in float32: what both sides round."""
    from copy import deepcopy

    base, table = codec.model.base_model, codec._pixel_table
    kept = base.vision_tower, base.multi_modal_projector
    try:
        base.vision_tower, base.multi_modal_projector = (deepcopy(part).float() for part in kept)
        codec._pixel_table = table.float()
        return codec._encode_plainly(page, mode).float()
    finally:
        base.vision_tower, base.multi_modal_projector = kept
        codec._pixel_table = table


def _attention(bench: Bench) -> dict[str, Any]:
    """Every way of SAM's attention alone, over a page and inside windows; one that does not run says why."""
    import torch

    from pipeline.codecs.fast.attention import WAYS

    sam, rows = bench.codec.config.vision_config.sam_config, []
    head = sam.hidden_size // sam.num_attention_heads
    shapes = [("tiny, windows", 9, 14)] if bench.tiny else [("base", 4, 64), ("base, windows", 25 * 16, 14), ("small", 8, 40)]
    for way, attend in sorted(WAYS.items(), key=lambda item: item[0] == "flex"):  # the one that compiles for long last
        for what, count, side in shapes:
            packed = torch.randn(count, side * side, 3, sam.num_attention_heads, head, device=bench.device, dtype=torch.bfloat16)
            q, k, v = packed.permute(2, 0, 3, 1, 4)
            tables = torch.randn(2, side, side, head, device=bench.device, dtype=torch.bfloat16) * 0.1
            flop = 4.0 * count * sam.num_attention_heads * side**4 * head
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
                row["error"] = _said(error)
            rows.append(row)
            bench.keep({"attention": rows})
    return {"attention": rows}


def _verify(bench: Bench) -> dict[str, Any]:
    """Drafted decoding beside `generate`: the same pages, errors planted in what the decoder itself writes."""
    from pipeline.codecs.full_size import chain, prompt

    codec, count = bench.codec, 3 if bench.tiny else PAGES
    mode = codec.mode("tiny" if bench.tiny else "small")
    features, prompts = _features(bench, mode, count), [prompt(codec, mode, page) for page in range(count)]
    length = 40 if bench.tiny else _affordable(bench, features, prompts)

    def plain(some: int) -> tuple[float, list[list[int]]]:
        bench.sync()
        start = time.perf_counter()
        return _since(start, codec.generate(features[:some], prompts[:some], length))

    pages, (plain_seconds, greedy) = bench.fitting(count, plain, "generate, pages,")
    expected = [chain(codec, ids, length) for ids in prompts[:pages]]
    as_planned = sum(ids == wanted for ids, wanted in zip(greedy, expected, strict=True))
    facts = {"verify_tokens_per_page": length, "generate_wrote_the_chain": f"{as_planned} of {pages}"}
    bench.keep(facts)
    choices, draw, rows = sorted({token for ids in greedy for token in ids}), random.Random(0), []
    drafts = {share: [plant_errors(ids, share, choices, draw) for ids in greedy] for share in ERROR_SHARES}
    for revise in (True, False):
        for share in sorted(ERROR_SHARES, key=lambda share: share != 0.03):  # the goal's first, for when time runs out
            seconds, read = _drafted(bench, features[:pages], prompts[:pages], drafts[share], length, revise)
            rows.append(_verify_row(share, revise, read, greedy, seconds, plain_seconds))
            rows.sort(key=lambda row: (float(row["planted_errors"].strip("%")), not row["corrections"]))
            bench.keep({"verify": rows})
    return {"verify": rows, **facts}


def _affordable(bench: Bench, features: list[Any], prompts: list[Any]) -> int:
    """Tokens per page that `generate` writes in half of this section's time, by a trial of a few."""
    codec = bench.codec
    codec.generate(features[:2], prompts[:2], 4)

    def trial(some: int) -> float:
        bench.sync()
        start = time.perf_counter()
        return _since(start, codec.generate(features[:some], prompts[:some], 12))[0] / 12

    _, each = bench.fitting(len(prompts), trial, "generate, pages,")
    length = int(min(TOKENS, max(LEAST_TOKENS, 0.5 * bench.left / each)))
    if length < TOKENS:
        bench.notes.append(f"generate takes {each * 1e3:.0f} ms a token: compared over {length} tokens a page, not {TOKENS}")
    return length


def _drafted(
    bench: Bench, features: list[Any], prompts: list[Any], drafts: list[Any], length: int, revise: bool
) -> tuple[float, list[Any]]:
    from pipeline.verification.greedy import decode
    from pipeline.verification.reading import DraftedPage

    batch = [
        DraftedPage(features=f, prompt_ids=p, draft_ids=d, max_new_tokens=length)
        for f, p, d in zip(features, prompts, drafts, strict=True)
    ]
    work = partial(decode, bench.codec, batch, image_inputs=bench.codec.image_inputs, revise=revise)
    return bench.timed(work, 0.0 if bench.tiny else 0.5)


def _verify_row(
    share: float, revise: bool, read: list[Any], greedy: list[list[int]], seconds: float, plain_seconds: float
) -> dict[str, Any]:
    pages = len(greedy)
    return {
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
    except Exception as error:  # a description is no reason to lose what is measured
        bench.notes.append(f"the machine is described in short: {_said(error)}")
        return {
            "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            "commit": None,
            "cpu": platform.processor() or platform.machine(),
            "cores": 0,
            "gpu": _device_name(bench.device) if bench.gpu else None,
        }


_NOTES = [
    "Random weights of the stated size; the output head is a permutation of the embeddings, so that greedy outputs can be "
    "compared token for token in bfloat16. A pass takes as long as with trained weights, but experts may be chosen less evenly.",
    "gflop per page: two per multiplication of products and attentions that the page needs, windows without padding, one "
    "channel; matmul share: that rate over the bf16 matmul rate of this run.",
    "transformers' pages/s: `get_image_features` page by page; batched: the stated number at once. Differences are over the mean "
    "size of a token's values, both sides in bfloat16; from float32: of each side from the same weights in float32.",
    "corrections: the decoder's own choices behind a disagreement are taken over. Without them each planted error costs a pass, "
    "as with a decoder that loses the thread after an error; a decoder that reads its page lies between the two.",
    "generate and drafted decoding take the same pages in one batch; generate is timed once after a trial, drafted decoding for "
    "half a second after a warm-up.",
    "device idle share: time in which no kernel and no copy runs, as the profiler sees it in two seconds at full load; by driver "
    "samples: of what nvidia-smi says ten times a second over the whole run.",
]


def write_so_far(folder: str | Path) -> Callable[[dict[str, Any]], None]:
    """What writes a result into `folder`, JSON and Markdown, in the place of what it wrote before."""

    def save(result: dict[str, Any]) -> None:
        import json

        Path(folder).mkdir(parents=True, exist_ok=True)
        try:
            from pipeline.bench.machine import write_results

            write_results("gpu", result, folder)
        except Exception:  # no Markdown without the package's requirements, or for half a result: the figures are worth more
            name = f"gpu_{result['machine']['date'][:10]}.json"
            (Path(folder) / name).write_text(json.dumps(result, indent=1, default=str) + "\n")

    return save


def main(arguments: Sequence[str] | None = None) -> None:
    """The command without the package's requirements: JSON on standard output and, as it grows, in files."""
    import argparse
    import json

    parser = argparse.ArgumentParser(description=bench_gpu.__doc__)
    parser.add_argument("--out", default="docs/results")
    parser.add_argument("--seconds", type=float, default=420.0)
    parser.add_argument("--device")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args(arguments)
    result = bench_gpu(given.device, tiny=given.tiny, seconds=given.seconds, save=write_so_far(given.out))
    print(json.dumps(result, indent=1, default=str))


if __name__ == "__main__":
    main()
