"""The flow of a re-tiering: from the shards that it touches through the same stages as a run."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from pipeline import flow, logs
from pipeline import flow_workers as workers
from pipeline.config import JobConfig
from pipeline.isolation import POISONED
from pipeline.pages.grid import Grid
from pipeline.stages import UNITS
from pipeline.stages.reread import Reread, Touched
from pipeline.tally import WorkerFailed
from pipeline.tiers.policy import Policy


class RereadTask(workers.TaskStage):
    """Reread, timed; its rows were pages before, so none of them can be what kills a worker."""

    def isolated(self, table: pa.Table) -> Iterator[pa.Table]:
        yield from self.plain(table)


def run_retier(
    shards: Sequence[Touched], config: JobConfig, grid: Grid, policy: Policy, fingerprint: str
) -> Iterator[dict[str, Any]]:
    """Process shards, all of units with one fingerprint; yields the WRITTEN rows as they arrive, payloads parsed.

    Raises:
        WorkerFailed: when a worker was lost; what was committed is kept.
    """
    notes = workers.Notes(str(logs.context().get("run_id") or uuid.uuid4().hex))
    table = pa.table({"unit": [touched.to_json() for touched in shards]}, schema=UNITS)
    reread = RereadTask("reread", Reread(config, grid, policy), notes)
    for row in flow.pages_to_shards(table, [reread], config, grid, policy, fingerprint, notes):
        if row["kind"] == POISONED:
            raise WorkerFailed(f"unit {row['unit_id']}, document {row['payload']['doc_id']}: {row['payload']['detail']}")
        yield row
