"""A re-tiering under kill -9: wherever it dies, the old snapshot is whole, and the next run ends as an undisturbed one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from palimpsest.corpus.fsck import fsck
from palimpsest.corpus.snapshots import iter_rows, latest, read_snapshot
from palimpsest.operations.run import run
from palimpsest.storage.local_store import LocalStore
from tests.conftest import JobFactory
from tests.paths import PYTHONPATH
from tests.retier_crash_child import AS_OF, POLICY
from tests.test_retier import DAY, NOW, dated, retier, write_documents


def content(root: Path) -> tuple[Any, ...]:
    """Every row that a reader of the newest snapshot sees, and its totals; not the names of tries and runs."""
    store = LocalStore(root)
    snapshot = latest(store)
    assert snapshot is not None
    rows = sorted(iter_rows(store, snapshot), key=lambda row: row["page_id"])
    return rows, snapshot.totals, snapshot.number, [unit.unit_id for unit in snapshot.units]


def test_a_retier_killed_at_any_step_and_run_again_ends_in_the_same_corpus(
    job: JobFactory, tiny_codec: Path, tmp_path: Path
) -> None:
    shared = dated(1, 20 * DAY, seed=1)
    folder = write_documents(tmp_path / "in", [shared, dated(1, seed=2, importance=1.0), {"text": None}])
    write_documents(folder, [shared, {"text": "An undated page."}], "b.jsonl")
    root = tmp_path / "sweep" / "corpus"
    run(job(folder, root, "tiers.policy=age+importance", f"tiers.as_of={NOW:%Y-%m-%d}", "placement.shard_batch=64"))
    undisturbed = job(folder, tmp_path / "undisturbed", "tiers.policy=age+importance", f"tiers.as_of={NOW:%Y-%m-%d}")
    run(undisturbed)
    old = sorted(iter_rows(LocalStore(root), read_snapshot(LocalStore(root), 1)), key=lambda row: row["page_id"])
    assert retier(undisturbed.out, POLICY, as_of=AS_OF).due
    expected = content(Path(undisturbed.out))
    assert expected[2] == 2 and expected[0] != old
    here = {"PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1"}
    child = [sys.executable, "-m", "tests.retier_crash_child", str(root.parent), str(tiny_codec)]
    swept = subprocess.run(child, env=here, capture_output=True, text=True)
    assert swept.returncode == 0, swept.stderr[-2000:]
    steps = int(swept.stdout)
    assert steps > 20
    for step in range(steps):
        store = LocalStore(root.parent / f"{step:03d}")
        assert content(root.parent / f"{step:03d}") == expected, f"killed at step {step}"
        assert sorted(iter_rows(store, read_snapshot(store, 1)), key=lambda row: row["page_id"]) == old
        findings = fsck(store)
        assert all(finding.severity == "warning" for finding in findings), f"killed at step {step}: {findings}"
    print(f"{steps} steps")
