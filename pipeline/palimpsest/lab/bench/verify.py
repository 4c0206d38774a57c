"""Drafted exact decoding beside plain `generate`, on the same pages in the same run.

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
from palimpsest.lab.bench.machine import machine
from palimpsest.lab.bench.planting import ERROR_SHARES, plant_errors
from palimpsest.lab.bench.texts import bench_pages
from palimpsest.operations.run import prepare

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
    reader = _Reader(codec, config, max_new_tokens)
    made = bench_pages(pages, prepared.layout, text, seed)
    mode, size = codec.mode(config.tiers.mode), prepared.layout.size or (0, 0)
    drawings = [page.drawing for _, page in made]
    reader.see(prepared.layout.render([page_text for page_text, _ in made], drawings, mode.px), mode, size)
    own = [codec.encode_text(page_text, mode, size) for page_text, _ in made]
    greedy = reader.generate()  # also the warm-up
    reader.draft(greedy)
    draw, choices = random.Random(seed), sorted({token for ids in own for token in ids} - codec.eos_ids)
    drafts: dict[tuple[str, float | None], list[list[int]]] = {("the page's text", None): own}
    drafts |= {("greedy output", share): [plant_errors(ids, share, choices, draw) for ids in greedy] for share in error_shares}
    plain_seconds, drafted = _race(reader, list(drafts.values()), turns)
    rows = [
        _row(draft, share, greedy, read, plain_seconds, seconds)
        for (draft, share), (seconds, read) in zip(drafts, drafted, strict=True)
    ]
    return {
        "codec": f"{codec.id} {codec.revision}",
        "dtype": config.codec.dtype,
        "device": str(codec.device),
        "grid": str(prepared.layout),
        "mode": mode.name,
        "pages": pages,
        "generate_batch": config.placement.verify_batch,
        "draft_batch": reader.draft_batch,
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


class _Reader:
    """Pages, and the two ways of reading them."""

    def __init__(self, codec: Codec, config: JobConfig, max_new_tokens: int) -> None:
        self.codec, self.config, self.limit = codec, config, max_new_tokens
        self.features: list[Any] = []
        self.prompts: list[list[int]] = []
        self.draft_batch = 1 if codec.device.type == "cpu" else config.placement.verify_batch

    def see(self, images: Any, mode: Any, size: tuple[int, int]) -> None:
        """Encode page images `[n, px, px]`, through the token storage like any other."""
        from palimpsest.codecs.token_storage import pack, unpack

        storage, step = self.config.storage.tokens, self.config.placement.encode_batch
        for start in range(0, len(images), step):
            packed = pack(storage, self.codec.encode(images[start : start + step], mode))
            tokens = unpack(storage, packed, mode.num_vision_tokens, self.codec.token_dim)
            self.features += self.codec.features(tokens, mode)
        self.prompts = [self.codec.prompt_ids(mode, size)] * len(images)

    def generate(self) -> list[list[int]]:
        """Plain greedy decoding."""
        some_pages = self._slices(self.config.placement.verify_batch)
        batches = (self.codec.generate(self.features[some], self.prompts[some], self.limit) for some in some_pages)
        return [ids for batch in batches for ids in batch]

    def draft(self, drafts: Sequence[Sequence[int]]) -> list[Decoded]:
        """Drafted decoding."""
        from palimpsest.verification.greedy import decode
        from palimpsest.verification.reading import DraftedPage

        read: list[Decoded] = []
        for some in self._slices(self.draft_batch):
            inputs = zip(self.features[some], self.prompts[some], drafts[some], strict=True)
            batch = [DraftedPage(features=f, prompt_ids=p, draft_ids=d, max_new_tokens=self.limit) for f, p, d in inputs]
            read += decode(self.codec, batch)
        return read

    def _slices(self, step: int) -> list[slice]:
        return [slice(start, start + step) for start in range(0, len(self.features), step)]


def _race(reader: _Reader, drafts: Sequence[list[list[int]]], turns: int) -> tuple[float, list[tuple[float, list[Decoded]]]]:
    """Fewest seconds of plain decoding, and of drafted decoding with what it read, one for each set of drafts."""
    plain: list[float] = []
    drafted: list[list[tuple[float, list[Decoded]]]] = [[] for _ in drafts]
    for _ in range(turns):
        plain.append(_timed(reader.generate)[0])
        for timed, draft in zip(drafted, drafts, strict=True):
            timed.append(_timed(partial(reader.draft, draft)))
    return min(plain), [min(timed, key=lambda pair: pair[0]) for timed in drafted]


def _timed(work: Callable[[], Value]) -> tuple[float, Value]:
    start = time.perf_counter()
    value = work()  # ends with ids on the CPU, so a GPU has finished too
    return time.perf_counter() - start, value


def _row(
    draft: str, share: float | None, greedy: list[list[int]], read: list[Decoded], plain_seconds: float, seconds: float
) -> dict[str, Any]:
    pages = len(read)
    return {
        "draft": draft,
        "planted_errors": None if share is None else f"{share:.0%}",
        "identical": sum(list(page.ids) == ids for page, ids in zip(read, greedy, strict=True)),
        "near_ties": sum(page.near_ties for page in read),
        "disagreements_per_page": sum(page.disagreements for page in read) / pages,
        "passes_per_page": sum(page.passes for page in read) / pages,
        "passes_are_1_plus_disagreements": sum(page.passes == 1 + page.disagreements for page in read),
        "pages_per_second": pages / seconds,
        "generate_pages_per_second": pages / plain_seconds,
        "ratio": plain_seconds / seconds,
    }
