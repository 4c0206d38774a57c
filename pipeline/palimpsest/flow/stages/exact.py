"""Errata on verdicts: which misread words are kept with a page, what they cost, and pages that are cheaper as text."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pyarrow as pa

from palimpsest.flow.stages.tables import TEXT_TIER, with_columns
from palimpsest.schemas import TOKENS, VERDICTS
from palimpsest.verification.errata import Exact, cost_of, find_errata

LONGER = "errata_longer_than_text"
"""Reason of a page kept as text because its tokens with their errata would cost more."""
_OF_TOKENS = (
    *("mode", "image_px", "num_vision_tokens", "tokens", "token_dim", "token_dtype", "token_scales", "tokens_sha256"),
    *("codec", "codec_revision"),
)


def with_errata(table: pa.Table, exact: Exact) -> pa.Table:
    """VERDICTS with the column `errata`, its cost added to `num_context_tokens`; unverified pages have none."""
    if exact == "none":
        return table
    rows = table.select(["text", "decoded_text", "misread", "num_context_tokens"]).to_pylist()
    errata: list[list[dict[str, Any]] | None] = []
    costs = []
    for row in rows:
        # What the codec's dialect undoes, such as a joined line, is not misread and needs no correction.
        spans = [(span["start"], span["end"]) for span in row["misread"] or ()] if row["decoded_text"] is not None else []
        relevant = find_errata(row["text"], row["decoded_text"], exact, spans) if spans else []
        errata.append([asdict(erratum) for erratum in relevant] or None)
        costs.append(row["num_context_tokens"] + cost_of(relevant) if relevant else row["num_context_tokens"])
    return with_columns(
        table,
        {
            "errata": pa.array(errata, VERDICTS.field("errata").type),
            "num_context_tokens": pa.array(costs, VERDICTS.field("num_context_tokens").type),
        },
    )


def cheaper_as_text(table: pa.Table) -> pa.Table:
    """VERDICTS in which pages whose errata are longer than what their tokens save are text."""
    rows = table.select(["errata", "num_context_tokens", "num_text_tokens"]).to_pylist()
    indices = [at for at, row in enumerate(rows) if row["errata"] and row["num_context_tokens"] >= row["num_text_tokens"]]
    for index in indices:
        table = pa.concat_tables([table.slice(0, index), as_text(table.slice(index, 1), LONGER), table.slice(index + 1)])
    return table


def as_text(row: pa.Table, reason: str) -> pa.Table:
    """One row of VERDICTS kept as text: no tokens, no verdict, but the trial."""
    text_tokens = row["num_text_tokens"][0].as_py()
    trial = {
        "mode": row["mode"][0].as_py(),
        "precision": row["precision"][0].as_py(),
        "met": row["status"][0].as_py() == "verified",
    }
    trials = row["tried"][0].as_py() or [trial]
    cleared = [name for name in VERDICTS.names if name not in TOKENS.names and name != "counts"]
    columns = {name: pa.nulls(1, VERDICTS.field(name).type) for name in (*cleared, *_OF_TOKENS)}
    columns |= {
        "tier": pa.array([TEXT_TIER], VERDICTS.field("tier").type),
        "status": pa.array([TEXT_TIER], VERDICTS.field("status").type),
        "reason": pa.array([reason], VERDICTS.field("reason").type),
        "tried": pa.array([trials], VERDICTS.field("tried").type),
        "num_context_tokens": pa.array([text_tokens], VERDICTS.field("num_context_tokens").type),
    }
    return with_columns(row, columns)
