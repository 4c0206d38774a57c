"""Encode that waits at a gate, so that a run is surely in the middle of its work when a test kills something."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow as pa

from palimpsest.config import JobConfig
from palimpsest.flow.stages import Encode

PATIENCE = 300  # seconds
FREE = 3  # batches of a worker that pass: one block of pages has two, and nothing of it comes out before the last


def gate_of(out: str | Path) -> Path:
    """The file that opens the gate of the run into `out`."""
    return Path(f"{out}.gate")


class GatedEncode(Encode):
    """Of each worker, FREE batches pass; the others wait for the gate."""

    def __init__(self, config: JobConfig, fingerprint: str) -> None:
        super().__init__(config, fingerprint)
        self.gate, self.batches = gate_of(config.out), 0

    def __call__(self, table: pa.Table) -> pa.Table:
        end = time.monotonic() + PATIENCE
        while self.batches >= FREE and not self.gate.exists():
            if time.monotonic() > end:
                raise TimeoutError(f"nobody opened {self.gate}")
            time.sleep(0.05)
        self.batches += 1
        return super().__call__(table)
