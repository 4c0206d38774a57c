"""How fast pages become visual tokens, by mode and batch size, compared with the cost of rendering them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from palimpsest import config as configs
from palimpsest.config import JobConfig
from palimpsest.flow.allocator import keep_freed_memory
from palimpsest.lab.bench.machine import machine
from palimpsest.lab.bench.texts import bench_pages
from palimpsest.operations.resolving import prepare
from palimpsest.pages.layouts.protocol import Layout

if TYPE_CHECKING:
    from palimpsest.codecs.adapter import Codec
    from palimpsest.codecs.modes import Mode


def bench_encode(
    config: JobConfig | None = None,
    *,
    modes: Sequence[str] = (),
    batches: Sequence[int] = (1, 4, 16),
    seconds: float = 2.0,
    text: str | Path | None = None,
) -> dict[str, Any]:
    """Measure `Codec.encode`.

    Rendering (laying the normalised text out and drawing it, one core) and encoding (to tokens in the machine's memory) of the
    same pages take turns, so that a busy machine disturbs both.

    Args:
        modes: by default all of the codec's.
        batches: pages per call.
        seconds: time to spend on each row; at least one batch is always timed.
        text: a file to read instead of invented prose.

    Returns:
        A row for each mode and batch: `pages_per_second` of the encoder, `render_pages_per_second`, `render_share` (of the time
        that both take), `fast_ratio` (to transformers' encoder; 1 where that is the encoder), `gflop_per_page`, and
        `matmul_share` (the encoder's FLOP/s over the bf16 matmul rate of this run).
    """
    import torch

    from palimpsest.codecs.adapter import load_codec
    from palimpsest.flow.stages import codec_options

    keep_freed_memory()
    prepared = prepare(config or JobConfig())
    config, layout = prepared.config, prepared.layout
    if config.placement.threads_per_worker:
        torch.set_num_threads(config.placement.threads_per_worker)
    described = machine()
    codec = load_codec(config.codec.name, config.codec.path, **codec_options(config), parts="encoder")
    texts = [page_text for page_text, _ in bench_pages(max(batches), layout, text)]
    rows = []
    for mode in [codec.mode(name) for name in modes] or codec.modes:
        flop = _flop_per_page(codec, mode)
        for batch in batches:
            render_seconds, encode_seconds, plain_seconds = _turns(codec, mode, layout, texts[:batch], seconds)
            rate = batch / encode_seconds
            rows.append(
                {
                    "mode": mode.name,
                    "px": mode.px,
                    "tokens": mode.num_vision_tokens,
                    "batch": batch,
                    "pages_per_second": rate,
                    "render_pages_per_second": batch / render_seconds,
                    "render_share": render_seconds / (render_seconds + encode_seconds),
                    "fast_ratio": plain_seconds / encode_seconds if codec.encoder.fast_encoder else 1.0,
                    "gflop_per_page": flop / 1e9,
                    "matmul_share": rate * flop / (described["bf16_matmul_tflops"] * 1e12),
                }
            )
    return {
        "codec": f"{codec.id} {codec.revision}",
        "encoder": codec.encoder.description,
        "dtype": config.codec.dtype,
        "device": str(codec.device),
        "grid": str(layout),
        "rows": rows,
        "command": "palimpsest bench encode",
        "config": configs.to_json(config),
        "machine": described,
    }


def _turns(codec: Codec, mode: Mode, layout: Layout, texts: Sequence[str], seconds: float) -> tuple[float, float, float]:
    """Mean seconds of rendering and encoding one batch, and of transformers' encoder; the three take turns after a warm-up."""
    spent, turns = np.zeros(3), 0
    for turn in range(1_000_000):
        marks = [time.perf_counter()]
        drawings = [next(layout.paginate(text, "prose")).drawing for text in texts]
        images = layout.render(texts, drawings, mode.px)
        marks.append(time.perf_counter())
        for encode in (codec.encode, codec.encoder.plain_tokens):
            encode(images, mode).cpu()
            marks.append(time.perf_counter())
        if turn:
            spent, turns = spent + np.diff(marks), turns + 1
        if turns and spent.sum() >= seconds:
            break
    render_seconds, encode_seconds, plain_seconds = (spent / turns).tolist()
    return render_seconds, encode_seconds, plain_seconds


def _flop_per_page(codec: Codec, mode: Mode) -> float:
    """Floating-point operations of the encoder's products and attentions for one page, as PyTorch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        codec.encoder.plain_tokens(np.full((1, mode.px, mode.px), 255, np.uint8), mode)
    return float(counter.get_total_flops())
