"""The same run through Ray: what arrives is what the stages give in one process, whatever is spread where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from palimpsest.corpus.fsck import fsck
from palimpsest.corpus.shards import read_shard
from palimpsest.corpus.snapshots import iter_tables, latest
from palimpsest.operations.progress import Progress
from palimpsest.operations.run import run
from palimpsest.storage.local_store import LocalStore
from palimpsest.storage.object_store import StoreError
from tests.conftest import OBJECT_STORE, JobFactory
from tests.mixed_sources import DOCUMENTS, prose

PAGE_BYTES = 512 * 512
RAY = "placement.executor=ray"

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_session")]


def content(out: Path) -> tuple[Any, ...]:
    """Every row and every quarantined record that a reader of the newest snapshot sees."""
    store = LocalStore(out)
    snapshot = latest(store)
    assert snapshot is not None
    rows = pa.concat_tables(iter_tables(store, snapshot)).sort_by("page_id").to_pylist()
    quarantined = [read_shard(store, unit.quarantine).to_pylist() for unit in snapshot.units if unit.quarantine]
    return rows, quarantined, [unit.unit_id for unit in snapshot.units]


def test_ray_and_one_process_make_the_same_corpus(
    mixed_sources: Path, job: JobFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    def watch(progress: Progress) -> None:
        seen.append((progress.units, progress.pages))

    spread = (RAY, "placement.encode_workers=2", "placement.render_batch=3", "placement.shard_batch=4")
    result = run(job(mixed_sources, tmp_path / "ray", *spread), watch)
    assert (result.units_new, result.counts.documents_in) == (4, DOCUMENTS)
    assert fsck(LocalStore(tmp_path / "ray")) == []
    assert seen == sorted(seen) and seen[-1] == (4, result.counts.pages_committed)
    again = run(job(mixed_sources, tmp_path / "ray", RAY))
    assert (again.units_new, again.units_done, again.snapshot) == (0, 4, 1)
    run(job(mixed_sources, tmp_path / "alone"))
    assert content(tmp_path / "ray") == content(tmp_path / "alone")


def test_a_corpus_larger_than_the_object_store_goes_through(job: JobFactory, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for part in range(4):
        texts = (prose(20_000, 100 * part + seed) for seed in range(10))
        (folder / f"{part}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    result = run(job(folder, out, RAY, "verification.share=0"))
    assert result.counts.pages_committed * PAGE_BYTES > 1.2 * OBJECT_STORE
    assert result.counts.documents_committed == 40
    assert [finding for finding in fsck(LocalStore(out)) if finding.severity == "error"] == []


def test_an_output_that_fails_while_running_is_named(job: JobFactory, tmp_path: Path) -> None:
    source, out = tmp_path / "a.txt", tmp_path / "out"
    source.write_text("some text")
    out.mkdir()
    (out / "data").write_text("in the way")
    (out / "corpus.json").write_text('{"format": "palimpsest corpus", "version": 2}')
    with pytest.raises(StoreError, match=r"out/data/tiny/.*a part of the path is a file"):
        run(job(source, out, RAY))
    assert latest(LocalStore(out)) is None
