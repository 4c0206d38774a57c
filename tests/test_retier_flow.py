"""Rate control and re-tiering through Ray: the rows of one process, whatever is spread where."""

from __future__ import annotations

from pathlib import Path

import pytest

from palimpsest.corpus.fsck import fsck
from palimpsest.operations.run import run
from palimpsest.storage.local_store import LocalStore
from tests.conftest import JobFactory
from tests.test_retier import DAY, NOW, after, dated, retier, rows, write_documents

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_session")]
MODES = 'tiers.modes=["tiny", "small"]'
MEASURED = ("tiers.policy=fidelity", MODES, "verification.target_precision=0.05", "tiers.cheap_text=false")
FADING = ("tiers.policy=age", MODES, f"tiers.as_of={NOW.isoformat()}")


def test_ray_and_one_process_measure_and_fade_alike(job: JobFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [dated(3, 20 * DAY, seed=1), dated(2, seed=2), {"text": None}]
    folder = write_documents(tmp_path / "in", documents)
    whole = ("verification.share=1.0", "verification.control_share=0.0")
    spread = (
        "placement.executor=ray",
        "placement.encode_workers=1",
        "placement.verify_workers=1",
        "placement.render_batch=2",
        "placement.shard_batch=2",
    )

    def both(name: str, *overrides: str) -> None:
        climbed = job(folder, tmp_path / f"{name}-climbed", *whole, *MEASURED, *overrides)
        faded = job(folder, tmp_path / f"{name}-faded", *whole, *FADING, *overrides)
        run(climbed)
        run(faded)
        result = retier(faded.out, (spread[3],), as_of=after(15 * DAY))
        assert (result.moves, result.findings) == ({"text → small": result.due}, False) and result.due
        assert fsck(LocalStore(faded.out)) == [] == fsck(LocalStore(climbed.out))

    both("ray", *spread)
    both("alone")
    for kind in ("climbed", "faded"):
        ray, alone = (rows(job(folder, tmp_path / f"{name}-{kind}")) for name in ("ray", "alone"))
        assert ray == alone and len(ray) >= 4
    assert {row["reason"] for row in alone} <= {None, "policy"}
