"""Pages measured in every mode of a codec: what `bench tiers` compares and `palimpsest fit` fits."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from palimpsest.codecs.modes import Mode
from palimpsest.config import JobConfig
from palimpsest.errors import UsageError
from palimpsest.flow.recipe import Recipe
from palimpsest.flow.stages import Encode, Paginate, Render, Verify
from palimpsest.flow.stages.tables import with_columns
from palimpsest.operations.resolving import prepare
from palimpsest.schemas import DOCUMENTS, conform
from palimpsest.sources.documents import document_id
from palimpsest.tiers.policies.protocol import Reading
from palimpsest.tiers.predictor import page_features


@dataclass
class Measured:
    """One page that the codec can read: its cost as text, and its verdict in each mode."""

    text_class: str
    text_tokens: int
    features: tuple[float, ...]
    readings: dict[str, Reading]


def measure_pages(
    config: JobConfig, texts: Mapping[str, str], max_pages: int
) -> tuple[Recipe, list[pa.Table], list[Measured], dict[str, float]]:
    """Lay texts out by class and read their pages in every mode.

    Args:
        max_pages: at most so many pages of each class; 0 takes all.

    Returns:
        The recipe, the pages as tables, what was measured on each of them, and the seconds that a page takes by mode.

    Raises:
        UsageError: no page can be read by the codec.
    """
    config = config.replace(verification=config.verification.replace(share=1.0), tiers=config.tiers.replace(policy="fidelity"))
    prepared = prepare(config)
    tables = list(_pages(prepared, texts, max_pages))
    measured, seconds = _measure(prepared, tables, modes_of(config, prepared))
    if not measured:
        raise UsageError(f"none of the pages can be read by codec {prepared.codec!r}")
    return prepared, tables, measured, seconds


def modes_of(config: JobConfig, prepared: Recipe) -> list[Mode]:
    """Those that are measured, cheapest first: the ones that the settings name, or else all, rungs or not."""
    ladder = prepared.policy.ladder
    return list(reversed(ladder.modes if config.tiers.modes else ladder.known))


def _pages(prepared: Recipe, texts: Mapping[str, str], max_pages: int) -> list[pa.Table]:
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
