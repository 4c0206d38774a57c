"""A small published corpus of the codec that ships, re-tiered once: for tests of what reads a corpus."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from palimpsest.config import JobConfig, parse
from palimpsest.operations.retier import retier
from palimpsest.operations.run import run
from tests.mixed_sources import prose


def trusting(corpus: str | Path) -> tuple[str, ...]:
    """The checkpoint that the runs of a corpus recorded, repeated as a user does who trusts it; () where there is none."""
    records = [tomllib.loads(path.read_text()) for path in sorted(Path(corpus).glob("runs/*/config.toml"))]
    paths = [record["codec"]["path"] for record in records if record.get("codec", {}).get("path")]
    return (f"codec.path={paths[-1]}",) if paths else ()


DATES = {"old": "2024-01-01T00:00:00Z", "older": "2023-01-01T00:00:00Z", "new": "2025-12-31T23:30:00Z"}


def write_retiered_corpus(base: Path) -> Path:
    """`base/corpus`: three documents, five pages and one quarantined record; snapshot 1 sharp, snapshot 2 a year later."""
    (base / "in").mkdir()
    lines = [
        json.dumps({"id": name, "text": prose(2600, seed), "timestamp": date}) for seed, (name, date) in enumerate(DATES.items())
    ]
    (base / "in" / "chats.jsonl").write_text("\n".join([*lines, "{no JSON"]) + "\n")
    settings = {
        "sources": [str(base / "in")],
        "out": str(base / "corpus"),
        "verification": {"reader": "cells", "share": 1.0, "control_share": 0.0, "target_precision": 0.0},
        "placement": {"executor": "local", "threads_per_worker": 1},
    }
    config: JobConfig = parse(settings, ("limits.quarantine_share=0.9", "tiers.policy=age", "tiers.as_of=2024-01-01T01:00:00Z"))
    run(config)
    retier(config.out, as_of="2026-01-01T00:00:00Z")
    return base / "corpus"
