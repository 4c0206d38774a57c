"""The flow without Ray: the same stages, one after the other in this process, so that a test of a whole run takes a second."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pyarrow as pa
import pytest

from pipeline import flow
from pipeline.config import JobConfig
from pipeline.pages.grid import Grid
from pipeline.plan import PlannedUnit, document_ids
from pipeline.stages import UNITS, Encode, Paginate, Read, Render, Verify, Write


def run_units(
    units: tuple[PlannedUnit, ...], config: JobConfig, grid: Grid, px: int, fingerprint: str
) -> Iterator[dict[str, Any]]:
    """As `flow.run_units`."""
    read, paginate, render = Read(config.source), Paginate(config, grid, px), Render(grid, px)
    encode, verify = Encode(config, fingerprint), Verify(config, fingerprint)
    write = Write(config.out, config.storage.row_group_bytes)
    for unit in units:
        for documents in read(pa.table({"unit": [unit.to_json()]}, schema=UNITS)):
            for pages in paginate(documents):
                for row in write(verify(encode(render(pages)))).to_pylist():
                    yield {**row, "payload": json.loads(row["payload"])}


def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, `pipeline.run.run` starts no Ray."""
    monkeypatch.setattr(flow, "cluster", lambda placement: nullcontext())
    monkeypatch.setattr(flow, "index_units", lambda config: lambda units: (document_ids(unit, config) for unit in units))
    monkeypatch.setattr(flow, "run_units", run_units)
