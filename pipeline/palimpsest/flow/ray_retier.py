"""The flow of a re-tiering: from the shards that it touches through the same stages as a run."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from palimpsest import telemetry
from palimpsest.config import JobConfig
from palimpsest.flow import ray_executor as flow
from palimpsest.flow import ray_workers as workers
from palimpsest.flow.isolation import POISONED
from palimpsest.flow.ledger import WorkerFailed
from palimpsest.flow.stages import UNITS
from palimpsest.flow.stages.reread import Reread, Touched
from palimpsest.pages.grid import Grid
from palimpsest.tiers.policy import Policy


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
    notes = workers.Notes(str(telemetry.context().get("run_id") or uuid.uuid4().hex))
    table = pa.table({"unit": [touched.to_json() for touched in shards]}, schema=UNITS)
    reread = RereadTask("reread", Reread(config, grid, policy), notes)
    for row in flow.pages_to_shards(table, [reread], config, grid, policy, fingerprint, notes):
        if row["kind"] == POISONED:
            raise WorkerFailed(f"unit {row['unit_id']}, document {row['payload']['doc_id']}: {row['payload']['detail']}")
        yield row
