"""Rate control measured: tokens and trials of `tiers.policy = "fidelity"` beside those of one mode for all pages.

Every page is drawn, encoded and read back once in every mode. The policy is a pure function of these verdicts, so all ways of
choosing are compared on the same ones; a page that does not meet the target is text in each of them, and costs its text tokens. A
share of the pages then really goes through the stage, and must come to rest where the comparison says.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from palimpsest import config as configs
from palimpsest.config import JobConfig
from palimpsest.flow.recipe import Recipe
from palimpsest.flow.stages import RateControl
from palimpsest.lab.bench.fit import MIN_PAGES, entry_of
from palimpsest.lab.bench.machine import machine
from palimpsest.lab.bench.measured_pages import Measured, measure_pages, modes_of
from palimpsest.tiers.ladder import TEXT
from palimpsest.tiers.operating_points.measured import points_file
from palimpsest.tiers.policies.protocol import PageFacts, Policy, Reading, find_policy
from palimpsest.tiers.predictor import Predictor, read_predictor

REALLY = 32  # pages that go through the stage


def bench_tiers(config: JobConfig, texts: dict[str, str], *, max_pages: int = 0) -> dict[str, Any]:
    """Measure on `texts` by class.

    Args:
        config: `tiers.policy` is taken to be fidelity; the rungs are `tiers.modes`, the target `verification.target_precision`.
        max_pages: at most so many pages of each class; 0 takes all.

    Returns:
        {"rows": one for each way of choosing, "classes": tiers by class of the page, …}

    Raises:
        ValueError: where no page can be read by the codec.
    """
    prepared, tables, measured, seconds = measure_pages(config, texts, max_pages)
    modes = [mode.name for mode in modes_of(config, prepared)]
    crossed = _cross_validated(prepared, measured, modes)
    blind = find_policy(prepared.config.tiers, prepared.policy.ladder)
    ways: dict[str, Callable[[int], tuple[str, int]]] = {}
    ways.update((f"fixed {mode}", partial(_fixed_way, prepared, measured, mode)) for mode in modes)
    ways["climbing"] = lambda place: _climb(blind, measured[place])
    if prepared.policy.predictor:
        ways["predicted"] = lambda place: _climb(prepared.policy, measured[place])
    elif crossed:
        ways["predicted, cross-validated"] = lambda place: _climb(crossed[place % 2], measured[place])
    ways["cheapest, known beforehand"] = lambda place: _cheapest(prepared, measured[place])
    chosen = {name: [way(place) for place in range(len(measured))] for name, way in ways.items()}
    rows = [_row(prepared, name, measured, ends) for name, ends in chosen.items()]
    best = _beside_fixed(rows)
    named = next((name for name in chosen if name.startswith("predicted")), "climbing")
    return {
        "codec": f"{prepared.codec} {prepared.revision}",
        "grid": str(prepared.layout),
        "target": config.verification.target_precision,
        "storage": config.storage.tokens,
        "reader": config.verification.reader,
        "cheap_text": config.tiers.cheap_text,
        "pages": len(measured),
        "predictor": "as configured"
        if prepared.policy.predictor
        else "fitted to the other half of the pages"
        if crossed
        else None,
        "best_fixed": best,
        "rungs": ", ".join(mode.name for mode in reversed(prepared.policy.ladder.modes)),
        "as_the_stage_does": _really(prepared, tables, measured),
        "encode_and_verify_seconds": {name: round(value, 4) for name, value in seconds.items()},
        "rows": rows,
        "classes": _classes(measured, chosen[named], modes),
        "notes": [
            "A page below the target is text in every row, and costs its text tokens; so all rows keep the same fidelity.",
            "A page that goes to text without a trial counts as no encode; hits come to rest where they were tried first.",
            "of best fixed: of the tokens of the cheapest fixed row. of fixed at same share: of those of the cheapest fixed row "
            "that brings at least as many pages to the target; – where there is none.",
        ],
        "verdicts": {"columns": ["text_class", "text_tokens", *modes], "pages": [_verdict(page, modes) for page in measured]},
        "config": configs.to_json(config),
        "machine": machine(),
    }


def _climb(policy: Policy, page: Measured) -> tuple[str, int]:
    """Where a page comes to rest, and after how many trials."""
    seen: dict[str, Reading] = {}
    while True:
        tier = policy.tier(PageFacts(text_tokens=page.text_tokens, features=page.features, readings=seen))
        if tier == TEXT or tier in seen:
            return tier, len(seen)
        seen = {**seen, tier: page.readings[tier]}


def _cost(prepared: Recipe, page: Measured, tier: str) -> int:
    if tier == TEXT:
        return page.text_tokens
    return next(mode.num_context_tokens for mode in prepared.policy.ladder.known if mode.name == tier)


def _fixed(prepared: Recipe, page: Measured, mode: str) -> str:
    cheaper = prepared.config.tiers.cheap_text and page.text_tokens <= _cost(prepared, page, mode)
    return mode if page.readings[mode].met and not cheaper else TEXT


def _fixed_way(prepared: Recipe, measured: Sequence[Measured], mode: str, place: int) -> tuple[str, int]:
    return _fixed(prepared, measured[place], mode), 1


def _cheapest(prepared: Recipe, page: Measured) -> tuple[str, int]:
    known = [mode.name for mode in reversed(prepared.policy.ladder.known) if mode.name in page.readings]
    met = [mode for mode in known if _fixed(prepared, page, mode) != TEXT]
    return (met[0], 1) if met else (TEXT, 0)


def _row(prepared: Recipe, name: str, measured: Sequence[Measured], ends: Sequence[tuple[str, int]]) -> dict[str, Any]:
    visual = [(page, tier) for page, (tier, _) in zip(measured, ends, strict=True) if tier != TEXT]
    missed = sum(not page.readings[tier].met for page, tier in visual)
    context = sum(_cost(prepared, page, tier) for page, (tier, _) in zip(measured, ends, strict=True))
    precision = [page.readings[tier].precision for page, tier in visual]
    return {
        "way": name,
        "context_tokens": context,
        "of_best_fixed": 0.0,
        "of_fixed_at_same_share": None,
        "ratio": round(sum(page.text_tokens for page in measured) / context, 3),
        "visual_pages": len(visual),
        "text_pages": len(measured) - len(visual),
        "visual_pages_below_target": missed,
        "mean_precision": round(sum(precision) / len(precision), 4) if precision else None,
        "encodes_per_page": round(sum(trials for _, trials in ends) / len(ends), 3),
        "hits": None if name.startswith(("fixed", "cheapest")) else round(sum(trials <= 1 for _, trials in ends) / len(ends), 4),
    }


def _verdict(page: Measured, modes: Sequence[str]) -> list[Any]:
    return [page.text_class, page.text_tokens, *(round(page.readings[mode].precision, 5) for mode in modes)]


def _beside_fixed(rows: Sequence[dict[str, Any]]) -> str:
    """Add to every row its tokens as a share of those of fixed modes; returns the cheapest fixed way."""
    fixed = [row for row in rows if row["way"].startswith("fixed")]
    best = min(fixed, key=lambda row: row["context_tokens"])
    for row in rows:
        row["of_best_fixed"] = round(row["context_tokens"] / best["context_tokens"], 4)
        reaching = [other["context_tokens"] for other in fixed if other["visual_pages"] >= row["visual_pages"]]
        row["of_fixed_at_same_share"] = round(row["context_tokens"] / min(reaching), 4) if reaching else None
    return str(best["way"])


def _classes(measured: Sequence[Measured], ends: Sequence[tuple[str, int]], modes: Sequence[str]) -> list[dict[str, Any]]:
    counts: dict[str, Counter[str]] = {}
    for page, (tier, _) in zip(measured, ends, strict=True):
        counts.setdefault(page.text_class, Counter())[tier] += 1
    return [{"text_class": name, **{tier: found[tier] for tier in (*modes, TEXT)}} for name, found in sorted(counts.items())]


def _cross_validated(prepared: Recipe, measured: Sequence[Measured], modes: Sequence[str]) -> list[Policy] | None:
    """For pages of even and of odd place the policy with a predictor that was fitted to the others; None for too few pages."""
    halves = [measured[1::2], measured[::2]]
    if min(map(len, halves)) < MIN_PAGES:
        return None
    fitted = [_predictor(prepared, entry_of(prepared, half, modes)) for half in halves]
    return [find_policy(prepared.config.tiers, prepared.policy.ladder, predictor) for predictor in fitted]


def _predictor(prepared: Recipe, entry: dict[str, Any]) -> Predictor | None:
    target = prepared.config.verification.target_precision
    return read_predictor(json.dumps(points_file([entry])), prepared.revision, prepared.layout, target)


def _really(prepared: Recipe, tables: Sequence[pa.Table], measured: Sequence[Measured]) -> str:
    """Whether pages that go through the stage end where the comparison says they do."""
    stage = RateControl(prepared.config, prepared.fingerprint, prepared.layout, prepared.policy)
    pages = pa.concat_tables(tables)
    step = max(1, pages.num_rows // REALLY)
    places = list(range(0, pages.num_rows, step))[:REALLY]
    found = stage(pages.take(pa.array(places, pa.int64())))["tier"].to_pylist()
    same = sum(_climb(prepared.policy, measured[place])[0] == tier for place, tier in zip(places, found, strict=True))
    return f"{same} of {len(places)} pages"
