"""The cost of Ray and the store: pages/s through the whole job to committed shards, over pages/s of a bare loop.

The bare loop calls the stages Paginate, Render, Encode and Verify one after the other in this process, warm, on the same
documents; it stores nothing. A Ray job's time is given in two ways. As a whole: from the call to the snapshot, starting of Ray,
planning and loading of models included. And from the first block on: the job's time less that of a job with one block only, so
that what is paid once, whatever the size of the corpus, does not count. (Counting from the arrival of the first block at the
driver would flatter Ray: the encoder has by then worked ahead on the blocks that follow.)
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from palimpsest import config as configs
from palimpsest.config import JobConfig, SourceConfig
from palimpsest.flow.plan import PlannedUnit, units_table
from palimpsest.flow.recipe import Recipe
from palimpsest.flow.stages import Encode, Paginate, Read, Render, Verify
from palimpsest.lab.bench.machine import machine
from palimpsest.lab.bench.texts import bench_pages
from palimpsest.operations.resolving import prepare
from palimpsest.operations.run import run
from palimpsest.sources.listing import expand
from palimpsest.sources.tables import plan_units

BAR = 0.8
PAGES_PER_DOCUMENT = 4
PLACEMENTS: dict[str, dict[str, Any]] = {
    "as configured": {},
    "1 + 1 actors, 1 thread": {"encode_workers": 1, "verify_workers": 1, "threads_per_worker": 1},
    "1 + 1 actors, 2 threads": {"encode_workers": 1, "verify_workers": 1, "threads_per_worker": 2},
    "1 + 2 actors, 1 thread": {"encode_workers": 1, "verify_workers": 2, "threads_per_worker": 1},
    "2 + 2 actors, 1 thread": {"encode_workers": 2, "verify_workers": 2, "threads_per_worker": 1},
}


def bench_run(
    config: JobConfig | None = None,
    *,
    pages: int = 256,
    sweep: bool = False,
    text: str | Path | None = None,
    placements: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Measure the job; its corpora go to a temporary folder.

    Args:
        pages: of the job; at least two blocks (`placement.render_batch`).
        sweep: try PLACEMENTS too, all in one Ray and one after the other, the bare loop before and after them.
        text: a file to read instead of invented prose.
        placements: names and settings to try, instead of PLACEMENTS.

    Returns:
        A row for each placement: `pages_per_second` from the first block on, and its `ratio` to the faster of the bare loops
        (one thread, and one for each core); the same of the `whole` job. `bare` has a row for each bare loop.

    Raises:
        ValueError: for too few pages, or what the codec does not know.
    """
    prepared = prepare(config or JobConfig())
    config = prepared.config
    block = config.placement.render_batch
    if pages < 2 * block:
        raise ValueError(f"pages is {pages}; it must be at least {2 * block}, two blocks of placement.render_batch = {block}")
    tried = placements or (PLACEMENTS if sweep else {"as configured": {}})
    with tempfile.TemporaryDirectory(prefix="palimpsest-bench-") as folder:
        made = bench_pages(pages, prepared.layout, text)
        whole, small = (_write_documents(Path(folder, name), made[:count]) for name, count in (("all", pages), ("block", block)))
        bare = _bare_loops(prepared, whole)
        rows = [*_ray_jobs(prepared, whole, small, pages, tried, Path(folder))]
        if sweep:
            bare = [min(pair, key=lambda row: row["seconds"]) for pair in zip(bare, _bare_loops(prepared, whole), strict=True)]
    best = max(row["pages_per_second"] for row in bare)
    for row in rows:
        row["ratio"] = row["pages_per_second"] and row["pages_per_second"] / best
        row["whole_ratio"] = row["whole_pages_per_second"] / best
    first = rows[0]
    return {
        "codec": f"{prepared.codec} {prepared.revision}",
        "dtype": config.codec.dtype,
        "grid": str(prepared.layout),
        "mode": config.tiers.mode,
        "pages": bare[0]["pages"],
        "ratio": first["ratio"],
        "bar": BAR,
        "passed": (first["ratio"] or 0) >= BAR,
        "rows": rows,
        "bare": bare,
        "notes": ["Ratios are to the faster bare loop. On a machine that does other work too, rates mean little, ratios more."],
        "command": f"palimpsest bench run --pages {pages}" + " --sweep" * sweep,
        "config": configs.to_json(config),
        "machine": machine(),
    }


def _write_documents(folder: Path, pages: list[tuple[str, Any]]) -> str:
    """Documents of a few whole pages each as JSON lines, one file a core, so that units run side by side; returns the folder."""
    folder.mkdir()
    texts = ["".join(text for text, _ in pages[at : at + PAGES_PER_DOCUMENT]) for at in range(0, len(pages), PAGES_PER_DOCUMENT)]
    for file in range(files := min(len(texts), os.cpu_count() or 1)):
        lines = [json.dumps({"id": f"{file}-{number}", "text": text}) for number, text in enumerate(texts[file::files])]
        (folder / f"{file}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return str(folder)


def _bare_loops(prepared: Recipe, source: str) -> list[dict[str, Any]]:
    """The bare loop with one thread, and with one for each core."""
    import torch

    before = torch.get_num_threads()
    rows = []
    try:
        for threads in sorted({1, os.cpu_count() or 1}):
            rows.append(_bare_loop(prepared, source, threads))
    finally:
        torch.set_num_threads(before)
    return rows


def _bare_loop(prepared: Recipe, source: str, threads: int) -> dict[str, Any]:
    config = prepared.config.replace(placement=prepared.config.placement.replace(threads_per_worker=threads))
    paginate, render = Paginate(config, prepared.layout, prepared.policy), Render(prepared.layout)
    encode, verify = Encode(config, prepared.fingerprint), Verify(config, prepared.fingerprint)

    def pages_of(documents: list[pa.Table]) -> Iterator[pa.Table]:
        for table in documents:
            for pages in paginate(table):
                yield verify(encode(render(pages)))

    documents = list(_documents(source, config.source))
    next(pages_of(documents))  # the warm-up
    start = time.perf_counter()
    count = sum(pc.sum(pc.equal(table["kind"], "page")).as_py() for table in pages_of(documents))
    seconds = time.perf_counter() - start
    return {"threads": threads, "pages": count, "seconds": seconds, "pages_per_second": count / seconds}


def _documents(source: str, config: SourceConfig) -> Iterator[pa.Table]:
    read = Read(config)
    for item in expand([source], config):
        for number, unit in enumerate(plan_units(item, config)):
            planned = PlannedUnit(unit=unit, unit_id=f"{item.key}-{number}")
            yield from read(units_table([planned]))


def _ray_jobs(
    prepared: Recipe, source: str, block: str, pages: int, tried: Mapping[str, Mapping[str, Any]], folder: Path
) -> Iterator[dict[str, Any]]:
    from palimpsest.flow.ray_executor import connected

    started = time.perf_counter()
    with connected(prepared.config.placement):
        ray_seconds = time.perf_counter() - started
        for number, (name, settings) in enumerate(tried.items()):
            placement = prepared.config.placement.replace(**settings)
            config = prepared.config.replace(placement=placement)
            first = run(config.replace(sources=(block,), out=str(folder / f"block-{number}")))
            job = run(config.replace(sources=(source,), out=str(folder / f"all-{number}")))
            later = job.fresh.pages_committed - first.fresh.pages_committed
            seconds = job.seconds - first.seconds
            yield {
                "placement": name,
                "pages": job.fresh.pages_committed,
                "first_block_seconds": first.seconds,
                "seconds": seconds,
                "pages_per_second": later / seconds if seconds > 0 else None,  # so short that the difference drowns in noise
                "whole_seconds": ray_seconds + job.total_seconds,
                "whole_pages_per_second": job.fresh.pages_committed / (ray_seconds + job.total_seconds),
            }
