"""Operations on tables that the stages share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from palimpsest.schemas import IMAGES, TOKENS, VERDICTS, conform

TEXT_TIER = "text"


def by_mode(table: pa.Table) -> Iterator[tuple[str, list[int]]]:
    """Places of the rows that have a mode, by mode, in order."""
    indices: dict[str, list[int]] = {}
    for index, mode in enumerate(table["mode"].to_pylist()):
        if mode is not None:
            indices.setdefault(mode, []).append(index)
    yield from indices.items()


def page_image(scalar: pa.Scalar, px: int) -> np.ndarray:
    return np.frombuffer(scalar.as_buffer(), np.uint8).reshape(px, px)


def token_columns() -> list[str]:
    return [name for name in TOKENS.names if name not in IMAGES.names]


def verdict_columns() -> list[str]:
    return [name for name in VERDICTS.names if name not in TOKENS.names]


def table_of(rows: list[dict[str, Any]], schema: pa.Schema, boundary: str) -> pa.Table:
    """Rows as a table of `schema`; what a row lacks is null."""
    columns = {column.name: pa.array([row.get(column.name) for row in rows], column.type) for column in schema}
    return conform(pa.table(columns), schema, boundary)


def with_columns(table: pa.Table, columns: dict[str, pa.Array]) -> pa.Table:
    """The table with columns replaced or added."""
    for name, column in columns.items():
        at = table.schema.get_field_index(name)
        table = table.append_column(name, column) if at < 0 else table.set_column(at, name, column)
    return table
