"""Drafted exact decoding compared with plain `generate`, on the same pages in the same run.

How much faster drafting is depends on how often the decoder disagrees with its draft. So besides the pages' own texts, the
decoder's own greedy output with errors planted in it is tried: that is meaningful for any weights, random ones included.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from palimpsest import config as configs
from palimpsest.config import JobConfig
from palimpsest.flow.allocator import keep_freed_memory
from palimpsest.lab.bench.drafted import EncodedPages, compared
from palimpsest.lab.bench.machine import machine
from palimpsest.lab.bench.planting import ERROR_SHARES, plant_errors
from palimpsest.lab.bench.texts import bench_pages
from palimpsest.operations.resolving import prepare

if TYPE_CHECKING:
    from palimpsest.codecs.adapter import Codec
    from palimpsest.verification.reading import Decoded

Value = TypeVar("Value")


def bench_verify(
    config: JobConfig | None = None,
    *,
    pages: int = 8,
    dtype: str | None = "float32",
    max_new_tokens: int = 512,
    error_shares: Sequence[float] = ERROR_SHARES,
    turns: int = 1,
    text: str | Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure `greedy.decode` against `Codec.generate`.

    Args:
        pages: how many; plain decoding takes them in batches of `placement.verify_batch`, which suits it best, and so does
            drafted decoding, but one by one on a CPU, as the pipeline does.
        dtype: float32 by default, where equal outputs are certain but for true ties; None takes `codec.dtype`.
        max_new_tokens: both sides stop a page there, so that `generate` ends in bearable time.
        error_shares: planted errors per token of the greedy output.
        turns: how often everything is timed; the sides take turns and the fastest of each counts.
        text: a file to read instead of invented prose.

    Returns:
        A row for each draft: `identical` pages, decoder passes and disagreements per page, on how many pages `passes` is 1 + the
        disagreements, rates of both sides in pages/s, and their `ratio`.

    Raises:
        ValueError: for a count below 1, or what the codec does not know.
    """
    import torch

    from palimpsest.codecs.adapter import load_codec
    from palimpsest.flow.stages import codec_options

    for name, value in (("pages", pages), ("max_new_tokens", max_new_tokens), ("turns", turns)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    keep_freed_memory()
    config = config or JobConfig()
    prepared = prepare(config.replace(codec=config.codec.replace(dtype=dtype or config.codec.dtype)))
    config = prepared.config
    if config.placement.threads_per_worker:
        torch.set_num_threads(config.placement.threads_per_worker)
    codec = load_codec(config.codec.name, config.codec.path, **codec_options(config), parts="both")
    made = bench_pages(pages, prepared.layout, text, seed)
    mode, size = codec.mode(config.tiers.mode), (prepared.layout.sizes or ((0, 0),))[0]
    drawings = [page.drawing for _, page in made]
    images = prepared.layout.render([page_text for page_text, _ in made], drawings, mode.px)
    reader = EncodedPages(codec, _features(codec, config, images, mode), [codec.prompt_ids(mode, size)] * pages, max_new_tokens)
    draft_batch = 1 if codec.device.type == "cpu" else config.placement.verify_batch
    generate, draft = partial(reader.generate, config.placement.verify_batch), partial(reader.draft, batch=draft_batch)
    own = [codec.encode_text(page_text, mode, size) for page_text, _ in made]
    greedy = generate()  # also the warm-up
    draft(greedy)
    draw, choices = random.Random(seed), sorted({token for ids in own for token in ids} - codec.eos_ids)
    drafts: dict[tuple[str, float | None], list[list[int]]] = {("the page's text", None): own}
    drafts |= {("greedy output", share): [plant_errors(ids, share, choices, draw) for ids in greedy] for share in error_shares}
    plain_seconds, drafted = _race(generate, draft, list(drafts.values()), turns)
    rows = [
        {
            "draft": name,
            "planted_errors": None if share is None else f"{share:.0%}",
            **compared(read, greedy, seconds, plain_seconds),
            "passes_are_1_plus_disagreements": sum(page.passes == 1 + page.disagreements for page in read),
        }
        for (name, share), (seconds, read) in zip(drafts, drafted, strict=True)
    ]
    return {
        "codec": f"{codec.id} {codec.revision}",
        "dtype": config.codec.dtype,
        "device": str(codec.device),
        "grid": str(prepared.layout),
        "mode": mode.name,
        "pages": pages,
        "generate_batch": config.placement.verify_batch,
        "draft_batch": draft_batch,
        "max_new_tokens": max_new_tokens,
        "greedy_tokens_per_page": sum(map(len, greedy)) / pages,
        "generate_pages_per_second": pages / plain_seconds,
        "all_identical": all(row["identical"] == pages for row in rows),
        "rows": rows,
        "notes": [
            f"Both sides stop after {max_new_tokens} tokens of a page; whole pages take more, and gain more from drafting.",
            "Planted errors: half of them replace a token, a quarter drops one, a quarter inserts one.",
            "An output that repeats itself takes more passes than errors were planted: where a draft goes on is then ambiguous.",
            "passes = 1 + disagreements, but one more where a draft ran out (after an error drafts are only as long as they are "
            "worth), and one less where a disagreement ended the page.",
        ],
        "command": f"palimpsest bench verify --pages {pages}",
        "config": configs.to_json(config),
        "machine": machine(),
    }


def _features(codec: Codec, config: JobConfig, images: Any, mode: Any) -> list[Any]:
    """Features of page images `[n, px, px]`, through the token storage like any other."""
    from palimpsest.codecs.token_storage import pack, unpack

    features: list[Any] = []
    for start in range(0, len(images), config.placement.encode_batch):
        packed = pack(config.storage.tokens, codec.encode(images[start : start + config.placement.encode_batch], mode))
        features += codec.features(unpack(config.storage.tokens, packed, mode.num_vision_tokens, codec.token_dim), mode)
    return features


def _race(
    generate: Callable[[], Any],
    draft: Callable[[list[list[int]]], list[Decoded]],
    drafts: Sequence[list[list[int]]],
    turns: int,
) -> tuple[float, list[tuple[float, list[Decoded]]]]:
    """Fewest seconds of plain decoding, and of drafted decoding with what it read, one for each set of drafts."""
    plain: list[float] = []
    drafted: list[list[tuple[float, list[Decoded]]]] = [[] for _ in drafts]
    for _ in range(turns):
        plain.append(_timed(generate)[0])
        for timed, ids in zip(drafted, drafts, strict=True):
            timed.append(_timed(partial(draft, ids)))
    return min(plain), [min(timed, key=lambda pair: pair[0]) for timed in drafted]


def _timed(work: Callable[[], Value]) -> tuple[float, Value]:
    start = time.perf_counter()
    value = work()  # ends with ids on the CPU, so a GPU has finished too
    return time.perf_counter() - start, value
