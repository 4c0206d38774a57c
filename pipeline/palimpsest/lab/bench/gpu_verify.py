"""Verifying in `bench gpu`: drafted decoding compared with `generate`, at several shares of planted errors."""

from __future__ import annotations

import random
import time
from functools import partial
from typing import Any

from palimpsest.lab.bench.drafted import EncodedPages, compared
from palimpsest.lab.bench.gpu_encode import noise
from palimpsest.lab.bench.planting import ERROR_SHARES, plant_errors
from palimpsest.lab.bench.sections import Bench, Value

PAGES, TOKENS = 64, 512  # of the comparison with `generate`
LEAST_TOKENS = 96  # fewer per page would compare little but prefills


def verify(bench: Bench) -> dict[str, Any]:
    """Drafted decoding compared with `generate`: the same pages, errors planted in what the decoder itself writes."""
    from palimpsest.lab.full_size import chain, prompt

    codec, count = bench.codec, 3 if bench.tiny else PAGES
    mode = codec.mode("tiny" if bench.tiny else "small")
    features, prompts = _features(bench, mode, count), [prompt(codec, mode, page) for page in range(count)]
    length = 40 if bench.tiny else _affordable(bench, features, prompts)

    def plain(some: int) -> tuple[float, list[list[int]]]:
        bench.sync()
        start = time.perf_counter()
        return _since(start, EncodedPages(codec, features[:some], prompts[:some], length).generate())

    pages, (plain_seconds, greedy) = bench.fitting(count, plain, "generate, pages,")
    expected = [chain(codec, ids, length) for ids in prompts[:pages]]
    as_planned = sum(ids == planned for ids, planned in zip(greedy, expected, strict=True))
    facts = {"verify_tokens_per_page": length, "generate_wrote_the_chain": f"{as_planned} of {pages}"}
    bench.keep(facts)
    choices, draw, rows = sorted({token for ids in greedy for token in ids}), random.Random(0), []
    drafts = {share: [plant_errors(ids, share, choices, draw) for ids in greedy] for share in ERROR_SHARES}
    reader = EncodedPages(codec, features[:pages], prompts[:pages], length)
    for revise in (True, False):
        for share in sorted(ERROR_SHARES, key=lambda share: share != 0.03):  # the goal's first, for when time runs out
            seconds, read = bench.timed(partial(reader.draft, drafts[share], revise=revise), 0.0 if bench.tiny else 0.5)
            row = compared(read, greedy, seconds, plain_seconds)
            rows.append({"planted_errors": f"{share:.0%}", "corrections": revise, **row})
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


def _features(bench: Bench, mode: Any, count: int) -> list[Any]:
    """Visual tokens of `count` different pages, as the decoder takes them."""
    codec = bench.codec
    return [
        rows
        for start in range(0, count, 8)
        for rows in codec.features(codec.encode(noise(min(8, count - start), mode.px), mode), mode)
    ]


def _since(start: float, value: Value) -> tuple[float, Value]:
    return time.perf_counter() - start, value
