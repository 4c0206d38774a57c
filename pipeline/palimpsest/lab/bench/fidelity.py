"""Precision over compression: what the codec reads back from its stored tokens, by text class, grid and mode.

Texts of one class are joined, so that pages are full and the ratio is the grid's and the mode's, not that of a short document.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from palimpsest.config import JobConfig
from palimpsest.flow.stages import Encode, Paginate, Render, Verify
from palimpsest.lab.bench.machine import machine
from palimpsest.operations.resolving import prepare
from palimpsest.schemas import DOCUMENTS, conform
from palimpsest.sources.documents import document_id
from palimpsest.verification.errata import cost_of, find_errata
from palimpsest.verification.fidelity import fox_precision

BOOTSTRAP = 2000


def read_classes(path: str | Path, text_field: str = "text", class_field: str = "text_class") -> dict[str, str]:
    """The texts of a JSON-lines file, joined by class.

    Raises:
        ValueError: for a record without text or class.
    """
    texts: dict[str, list[str]] = defaultdict(list)
    for number, line in enumerate(Path(path).read_text("utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: {error}") from error
        if (
            not isinstance(record, dict)
            or not isinstance(record.get(text_field), str)
            or not isinstance(record.get(class_field), str)
        ):
            raise ValueError(f"{path}:{number}: needs the strings {text_field!r} and {class_field!r}")
        texts[record[class_field]].append(record[text_field])
    return {name: "\n\n".join(parts) for name, parts in texts.items()}


def parse_setting(text: str) -> tuple[str, str]:
    """`"80x40/tiny"` -> `("80x40", "tiny")`.

    Raises:
        ValueError: for anything else.
    """
    grid, slash, mode = text.partition("/")
    if not slash:
        raise ValueError(f"--setting {text!r}: expected GRID/MODE, for example 80x40/tiny")
    return grid, mode


def bench_fidelity(
    config: JobConfig, texts: dict[str, str], settings: Iterable[tuple[str, str]], max_pages: int = 0
) -> dict[str, Any]:
    """Precision and ratio of `texts` (by class) for every (grid, mode) of `settings`.

    Args:
        max_pages: at most so many pages per class and setting; 0 takes all.

    Returns:
        {"rows": one per class and setting}, with the mean precision over pages and its bootstrap 95 % confidence interval.
        `identifier_errata` and `errata` are mean context tokens of a page's misread identifiers and of all its misread words, and
        `ratio_identifiers` and `ratio_exact` the ratios with them (`tiers.exact`).
    """
    rows = []
    for grid, mode in settings:
        changed = config.replace(layout=config.layout.replace(grid=grid), tiers=config.tiers.replace(mode=mode))
        changed = changed.replace(verification=changed.verification.replace(share=1.0))
        prepared = prepare(changed)
        stages = (
            Paginate(prepared.config, prepared.layout, prepared.policy),
            Render(prepared.layout),
            Encode(prepared.config, prepared.fingerprint),
            Verify(prepared.config, prepared.fingerprint),
        )
        for name, text in texts.items():
            rows.append({"grid": grid, "mode": mode, "text_class": name, **_measure(stages, name, text, max_pages)})
    return {
        "machine": machine(),
        "codec": prepared.codec,
        "codec_revision": prepared.revision,
        "reader": config.verification.reader,
        "storage": config.storage.tokens,
        "rows": rows,
    }


def _measure(stages: tuple[Paginate, Render, Encode, Verify], name: str, text: str, max_pages: int) -> dict[str, Any]:
    paginate, render, encode, verify = stages
    document = {"unit_id": "bench", "kind": "document", "doc_id": document_id(text), "text_class": name, "text": text}
    document |= {"source_uri": "bench", "source_version": "1"}
    columns = {field.name: pa.array([document.get(field.name)], field.type) for field in DOCUMENTS}
    found: list[dict[str, Any]] = []
    for pages in paginate(conform(pa.table(columns), DOCUMENTS, "bench")):
        pages = pages.slice(0, max_pages - len(found)) if max_pages else pages
        if pages.num_rows:
            table = verify(encode(render(pages)))
            names = ["tier", "text", "decoded_text", "precision", "exact", "blank_precision", "decoder_passes", "reason"]
            found += table.select([*names, "num_text_tokens", "num_context_tokens", "num_vision_tokens"]).to_pylist()
    seen = [row for row in found if row["precision"] is not None]
    measured: dict[str, Any] = {"pages": len(seen), "as_text": len(found) - len(seen)}
    if not seen:
        return measured
    precision = np.array([row["precision"] for row in seen])
    low, high = interval(precision)
    blank = [row["blank_precision"] for row in seen if row["blank_precision"] is not None]
    tokens, context = (sum(row[f"num_{kind}_tokens"] for row in seen) for kind in ("text", "context"))
    read = [(row["text"], row["text"] if row["decoded_text"] is None else row["decoded_text"]) for row in seen]
    identifiers, every = (
        sum(cost_of(find_errata(text, decoded, exact)) for text, decoded in read) for exact in ("identifiers", "all")
    )
    return measured | {
        "ratio": round(tokens / context, 2),
        "identifier_errata": round(identifiers / len(seen), 1),
        "errata": round(every / len(seen), 1),
        "ratio_identifiers": round(tokens / (context + identifiers), 2),
        "ratio_exact": round(tokens / (context + every), 2),
        "paper_ratio": round(tokens / sum(row["num_vision_tokens"] for row in seen), 2),
        "set_precision": round(float(fox_precision(*zip(*read, strict=True)).mean()), 4),
        "precision": round(float(precision.mean()), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "exact": round(float(np.mean([row["exact"] for row in seen])), 4),
        "blank": round(float(np.mean(blank)), 4) if blank else None,
        "passes": round(float(np.mean([row["decoder_passes"] for row in seen])), 1),
    }


def interval(values: np.ndarray) -> tuple[float, float]:
    """The bootstrap 95 % confidence interval of a mean."""
    draws = np.random.default_rng(0).choice(values, (BOOTSTRAP, len(values))).mean(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)
