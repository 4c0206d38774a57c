"""Encoding in `bench gpu`: the attention kernel, the fast encoder against transformers', and every way of attention alone."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from palimpsest.lab.bench.sections import Bench, OutOfTime, at_most, summary

BATCHES = 4  # that the fast encoder is given at once: the pages of one are copied while another is computed


def kernel(bench: Bench) -> dict[str, Any]:
    """The page's attention kernel, launched in different ways; the fastest is taken for what follows."""
    import torch

    if not bench.gpu:
        return {}
    from palimpsest.codecs.fast import grid_kernel
    from palimpsest.codecs.fast.attention import biased

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
                row["error"] = summary(error)
            rows.append(row)
            bench.keep({"kernel": rows})
    finally:
        grid_kernel.LAUNCHES.pop(side, None)
        if chosen != usual:
            grid_kernel.LAUNCHES.update(dict.fromkeys((32, 40, 64), chosen))
            bench.notes.append(f"encode used the fastest launch, {chosen}; the package's own is {usual}")
    return {"kernel": rows}


def encode(bench: Bench) -> dict[str, Any]:
    """The fast encoder compared with transformers', by mode: in one go, turn by turn."""
    codec = bench.codec
    rows: list[dict[str, Any]] = []
    started, limit = time.perf_counter(), bench.left
    for number, name in enumerate(("tiny", "small") if bench.tiny else ("base", "small", "tiny", "large")):
        if number > 1 and time.perf_counter() - started > 0.6 * limit:
            bench.notes.append(f"mode {name} was not encoded: no time was left")
            continue
        try:
            with at_most(limit if rows else 0.6 * limit):
                rows.append(_encode_mode(bench, codec.mode(name)))
        except OutOfTime:
            if rows or codec.encoder.fast_encoder is None or not codec.encoder.fast_encoder.compiled:
                raise
            bench.notes.append(f"mode {name} was not compiled within {0.6 * limit:.0f} s: measured without compiling")
            codec.encoder.fast_encoder.give_up_compiling()
            rows.append(_encode_mode(bench, codec.mode(name)))
        except Exception as error:  # the other modes are worth having
            bench.notes.append(f"mode {name} was not encoded: {summary(error)}")
        bench.keep({"encode": rows, "encoder": codec.encoder.description})
    if not rows:
        raise RuntimeError(f"no mode could be encoded: {bench.notes[-1]}")
    return {"encode": rows, "encoder": codec.encoder.description}


def _encode_mode(bench: Bench, mode: Any) -> dict[str, Any]:
    from palimpsest.lab.full_size import useful_flop

    codec = bench.codec
    started = time.perf_counter()
    fast = codec.encoder.fast_encoder
    if fast is None:
        raise RuntimeError(f"no fast encoder: {codec.encoder.description}")
    flop = sum(useful_flop(codec.config, mode.px).values())

    one = noise(1, mode.px)
    fast.encode(one, mode.px)  # compiles, captures, and finds how many pages at a time fit into memory
    bench.sync()
    prepared = time.perf_counter() - started
    batch = fast.batch(mode.px) if bench.gpu else 2
    images = noise(batch * (BATCHES if bench.gpu else 1), mode.px)
    fast_seconds = bench.timed(partial(fast.encode, images, mode.px), 0.1 if bench.tiny else 2.5)[0] / len(images)
    plain_one, plain_tokens = bench.timed(partial(codec.encoder.plain_tokens, one, mode), 0.1 if bench.tiny else 1.5)

    def plain_batch(count: int) -> float:
        some = noise(count, mode.px)
        return bench.timed(lambda: codec.encoder.plain_tokens(some, mode), 0.0 if bench.tiny else 1.5)[0] / count

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
    """Tokens of transformers' encoder for a page with the same weights in float32: the values that both sides round."""
    from copy import deepcopy

    base, table = codec.model.base_model, codec.encoder.pixel_table
    kept = base.vision_tower, base.multi_modal_projector
    try:
        base.vision_tower, base.multi_modal_projector = (deepcopy(part).float() for part in kept)
        codec.encoder.pixel_table = table.float()
        return codec.encoder.plain_tokens(page, mode).float()
    finally:
        base.vision_tower, base.multi_modal_projector = kept
        codec.encoder.pixel_table = table


def attention(bench: Bench) -> dict[str, Any]:
    """Every way of SAM's attention alone, over a page and inside windows; one that does not run says why."""
    import torch

    from palimpsest.codecs.fast.attention import WAYS

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
                row["error"] = summary(error)
            rows.append(row)
            bench.keep({"attention": rows})
    return {"attention": rows}


def noise(count: int, px: int) -> Any:
    """Random dark patches on white, uint8 `[count, px, px]`: how long encoding takes does not depend on what a page says."""
    import numpy as np

    draw = np.random.default_rng(px)
    patches = np.where(draw.random((count, px // 8, px // 8)) < 0.3, 0, 255).astype(np.uint8)
    return patches.repeat(8, 1).repeat(8, 2)
