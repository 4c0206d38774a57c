"""Rate control measured: tokens and trials of `tiers.policy = "fidelity"` beside those of one mode for all pages; rungs files.

Every page is drawn, encoded and read back once in every mode. The policy is a pure function of these verdicts, so all ways of
choosing are compared on the same ones; a page that does not meet the target is text in each of them, and costs its text tokens. A
share of the pages then really goes through the stage, and must come to rest where the comparison says. The same verdicts say
which modes are rungs (`fit_rungs`).
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from palimpsest import config as configs
from palimpsest.codecs.modes import Mode
from palimpsest.config import ConfigError, JobConfig
from palimpsest.flow.recipe import Recipe
from palimpsest.flow.stages import Encode, Paginate, RateControl, Render, Verify
from palimpsest.flow.stages.tables import with_columns
from palimpsest.lab.bench.fit_rungs import MIN_PAGES, fit_grid
from palimpsest.lab.bench.machine import machine
from palimpsest.operations.resolving import prepare
from palimpsest.schemas import DOCUMENTS, conform
from palimpsest.sources.documents import document_id
from palimpsest.tiers.ladder import TEXT
from palimpsest.tiers.policies.protocol import PageFacts, Policy, Reading, find_policy
from palimpsest.tiers.predictor import FORMAT, Predictor, page_features, read_entries, read_predictor, rungs_file

REALLY = 32  # pages that go through the stage


@dataclass
class Measured:
    """One page that the codec can read: its cost as text, and its verdict in each mode."""

    text_class: str
    text_tokens: int
    features: tuple[float, ...]
    readings: dict[str, Reading]


def bench_tiers(config: JobConfig, texts: dict[str, str], *, fit: Path | None = None, max_pages: int = 0) -> dict[str, Any]:
    """Measure on `texts` by class.

    Args:
        config: `tiers.policy` is taken to be fidelity; the rungs are `tiers.modes`, the target `verification.target_precision`.
        fit: also write an entry fitted to these pages to the rungs file there; other grids and revisions in that file stay.
        max_pages: at most so many pages of each class; 0 takes all.

    Returns:
        {"rows": one for each way of choosing, "classes": tiers by class of the page, …}

    Raises:
        ValueError: where no page can be read by the codec.
    """
    prepared, tables, measured, seconds = _measured(config, texts, max_pages)
    modes = [mode.name for mode in _modes(config, prepared)]
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
    if fit:
        _write_fit(fit, prepared, measured, modes)
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


def fit_rungs(config: JobConfig, texts: dict[str, str], path: Path, *, max_pages: int = 0) -> dict[str, Any]:
    """Measure `texts` by class in every mode of the codec on the grid, and write the entry to the rungs file at `path`.

    Raises:
        ValueError: where too few pages can be read by the codec; for a file there that is no rungs file.
    """
    return fit_points(config, texts, path, max_pages=max_pages)[0]


def fit_points(
    config: JobConfig, texts: dict[str, str], path: Path, *, max_pages: int = 0
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """`fit_rungs`, and the operating points that were measured: one for each mode and class, and one for "all" classes."""
    config = config.replace(tiers=config.tiers.replace(modes=(), predictor="none"))
    prepared, _, measured, _ = _measured(config, texts, max_pages)
    modes = _modes(config, prepared)
    entry = _write_fit(path, prepared, measured, [mode.name for mode in modes])
    classes = {name: [page for page in measured if page.text_class == name] for name in texts}
    points = []
    for name, pages in [*classes.items(), ("all", measured)]:
        for mode in modes if pages else []:
            read = [page.readings[mode.name] for page in pages]
            tokens = mean(page.text_tokens for page in pages)
            points.append(
                {
                    "grid": str(prepared.layout),
                    "mode": mode.name,
                    "text_class": name,
                    "pages": len(pages),
                    "ratio": tokens / mode.num_context_tokens,
                    "precision": mean(reading.precision for reading in read),
                    "reached": mean(float(reading.met) for reading in read),
                }
            )
    return entry, points


def _measured(
    config: JobConfig, texts: dict[str, str], max_pages: int
) -> tuple[Recipe, list[pa.Table], list[Measured], dict[str, float]]:
    config = config.replace(verification=config.verification.replace(share=1.0), tiers=config.tiers.replace(policy="fidelity"))
    prepared = prepare(config)
    tables = list(_pages(prepared, texts, max_pages))
    measured, seconds = _measure(prepared, tables, _modes(config, prepared))
    if not measured:
        raise ValueError(f"none of the pages can be read by codec {prepared.codec!r}")
    return prepared, tables, measured, seconds


def _modes(config: JobConfig, prepared: Recipe) -> list[Mode]:
    """Those that are measured, cheapest first: the ones that the settings name, or else all, rungs or not."""
    ladder = prepared.policy.ladder
    return list(reversed(ladder.modes if config.tiers.modes else ladder.known))


def _pages(prepared: Recipe, texts: dict[str, str], max_pages: int) -> list[pa.Table]:
    paginate = Paginate(prepared.config, prepared.layout, prepared.policy)
    found = []
    for name, text in texts.items():
        document = {"unit_id": "bench", "kind": "document", "doc_id": document_id(text), "text_class": name, "text": text}
        document |= {"source_uri": "bench", "source_version": "1"}
        columns = {field.name: pa.array([document.get(field.name)], field.type) for field in DOCUMENTS}
        left = max_pages or 1 << 30
        for table in paginate(conform(pa.table(columns), DOCUMENTS, "bench")):
            table = table.filter(pc.is_null(table["tier"])).slice(0, left)  # the others are text, whatever the policy
            left -= table.num_rows
            if table.num_rows:
                found.append(table)
    return found


def _measure(prepared: Recipe, tables: Sequence[pa.Table], modes: Sequence[Mode]) -> tuple[list[Measured], dict[str, float]]:
    """Every page in every mode; and the seconds that a page takes in each."""
    render, encode = Render(prepared.layout), Encode(prepared.config, prepared.fingerprint)
    verify = Verify(prepared.config, prepared.fingerprint)
    measured: list[Measured] = []
    seconds: Counter[str] = Counter()
    for table in tables:
        rows = table.select(["text", "text_class", "num_text_tokens"]).to_pylist()
        some = [
            Measured(row["text_class"], row["num_text_tokens"], page_features(row["text"], prepared.layout.capacity), {})
            for row in rows
        ]
        for mode in modes:
            names = pa.array([mode.name] * len(rows), pa.string())
            sizes = pa.array([mode.px] * len(rows), pa.int32())
            start = time.perf_counter()
            judged = verify(encode(render(with_columns(table, {"tier": names, "mode": names, "image_px": sizes}))))
            seconds[mode.name] += time.perf_counter() - start  # type: ignore[assignment]
            for page, precision, status in zip(some, judged["precision"].to_pylist(), judged["status"].to_pylist(), strict=True):
                page.readings[mode.name] = Reading(precision, status == "verified")
        measured += some
    return measured, {name: value / max(len(measured), 1) for name, value in seconds.items()}


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
    fitted = [_predictor(prepared, _entry(prepared, half, modes)) for half in halves]
    return [find_policy(prepared.config.tiers, prepared.policy.ladder, predictor) for predictor in fitted]


def _entry(prepared: Recipe, measured: Sequence[Measured], modes: Sequence[str]) -> dict[str, Any]:
    precisions = [[page.readings[mode].precision for mode in modes] for page in measured]
    return fit_grid(prepared.revision, str(prepared.layout), modes, [page.features for page in measured], precisions)


def _predictor(prepared: Recipe, entry: dict[str, Any]) -> Predictor | None:
    target = prepared.config.verification.target_precision
    return read_predictor(json.dumps(rungs_file([entry])), prepared.revision, str(prepared.layout), target)


def _write_fit(path: Path, prepared: Recipe, measured: Sequence[Measured], modes: Sequence[str]) -> dict[str, Any]:
    entry = _entry(prepared, measured, modes)
    kept: list[dict[str, Any]] = []
    if path.is_file():
        try:
            kept = read_entries(path.read_text("utf-8"))
        except ConfigError as error:
            raise ConfigError(f"--fit {str(path)!r} is there and is no rungs file of format {FORMAT}: {error}") from error
    same = (entry["codec_revision"], entry["grid"])
    kept = [old for old in kept if (old["codec_revision"], old["grid"]) != same]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rungs_file([*kept, entry]), indent=1) + "\n", "utf-8")
    return entry


def _really(prepared: Recipe, tables: Sequence[pa.Table], measured: Sequence[Measured]) -> str:
    """Whether pages that go through the stage end where the comparison says they do."""
    stage = RateControl(prepared.config, prepared.fingerprint, prepared.layout, prepared.policy)
    pages = pa.concat_tables(tables)
    step = max(1, pages.num_rows // REALLY)
    places = list(range(0, pages.num_rows, step))[:REALLY]
    found = stage(pages.take(pa.array(places, pa.int64())))["tier"].to_pylist()
    same = sum(_climb(prepared.policy, measured[place])[0] == tier for place, tier in zip(places, found, strict=True))
    return f"{same} of {len(places)} pages"
