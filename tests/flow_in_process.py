"""The flow without Ray: the same stages, one after the other in this process, so that a test of a whole run takes a second."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import pyarrow as pa
import pytest

from palimpsest.config import JobConfig
from palimpsest.flow import ray_executor as flow
from palimpsest.flow import ray_retier as flow_retier
from palimpsest.flow.plan import PlannedUnit, document_ids
from palimpsest.flow.stages import UNITS, Encode, Paginate, RateControl, Read, Render, Verify, Write
from palimpsest.flow.stages.reread import Reread, Touched
from palimpsest.pages.grid import Grid
from palimpsest.tiers.policy import Policy


def run_units(
    units: tuple[PlannedUnit, ...],
    config: JobConfig,
    grid: Grid,
    policy: Policy,
    fingerprint: str,
    pending: Callable[[], Collection[PlannedUnit]] | None = None,
) -> Iterator[dict[str, Any]]:
    """As `flow.run_units`."""
    read, paginate = Read(config.source), Paginate(config, grid, policy)
    judge = judging(config, grid, policy, fingerprint)
    write = Write(config.out, config.storage.row_group_bytes)
    for unit in units:
        for documents in read(pa.table({"unit": [unit.to_json()]}, schema=UNITS)):
            for pages in paginate(documents):
                for row in write(judge(pages)).to_pylist():
                    yield {**row, "payload": json.loads(row["payload"])}


def judging(config: JobConfig, grid: Grid, policy: Policy, fingerprint: str) -> Callable[[pa.Table], pa.Table]:
    """PAGES -> VERDICTS, as `flow.pages_to_shards` chains it."""
    if policy.climbs:
        return RateControl(config, fingerprint, grid, policy)
    render, encode, verify = Render(grid), Encode(config, fingerprint), Verify(config, fingerprint)
    return lambda pages: verify(encode(render(pages)))


def run_retier(
    shards: Sequence[Touched], config: JobConfig, grid: Grid, policy: Policy, fingerprint: str
) -> Iterator[dict[str, Any]]:
    """As `flow_retier.run_retier`."""
    reread, judge = Reread(config, grid, policy), judging(config, grid, policy, fingerprint)
    write = Write(config.out, config.storage.row_group_bytes)
    for touched in shards:
        for pages in reread(pa.table({"unit": [touched.to_json()]}, schema=UNITS)):
            for row in write(judge(pages)).to_pylist():
                yield {**row, "payload": json.loads(row["payload"])}


def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, `palimpsest.operations.run.run` and `palimpsest.operations.retier.retier` start no Ray."""
    monkeypatch.setattr(flow_retier, "run_retier", run_retier)
    monkeypatch.setattr(flow, "cluster", lambda placement: nullcontext())
    monkeypatch.setattr(flow, "index_units", lambda config: lambda units: (document_ids(unit, config) for unit in units))
    monkeypatch.setattr(flow, "run_units", run_units)
