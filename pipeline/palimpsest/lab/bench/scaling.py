"""`palimpsest bench scaling`: what the driver does in a second here, and where that becomes the limit of a big cluster.

Measured: rows through the tally, units through the planner and into a manifest, tasks through Ray, and what a core supplies (lay
out, draw, write; CPU seconds, so that other work on the machine counts little). The result says what of `Scale` is supposed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from palimpsest.config import JobConfig, SourceConfig
from palimpsest.corpus import manifest
from palimpsest.corpus.format import create_corpus
from palimpsest.corpus.manifest import write_segment
from palimpsest.corpus.snapshots import publish
from palimpsest.flow.ledger import Ledger, SourceUnit
from palimpsest.flow.plan import PlannedUnit, make_plan
from palimpsest.flow.stages import Paginate, Render, Write
from palimpsest.flow.stages.tables import with_columns
from palimpsest.lab.bench.ingest import _record
from palimpsest.lab.bench.texts import bench_text
from palimpsest.lab.forecast.scaling import Scale, before_and_after, limiting, limits, most_gpus, pages_per_second
from palimpsest.lab.forecast.simulation import simulate
from palimpsest.operations.resolving import identify
from palimpsest.operations.run import run
from palimpsest.schemas import DOCUMENTS, PAGE_COUNTS, VERDICTS, WRITTEN, conform
from palimpsest.sources.listing import expand
from palimpsest.sources.objects import SourceObject
from palimpsest.sources.units import Unit
from palimpsest.storage.opening import open_store

GPUS = (1, 8, 64, 256, 1000, 2500, 5000, 10_000)
STATED_ERROR = 0.1
PAGES = 256


def bench_scaling(
    config: JobConfig, *, units: int = 2000, rows: int = 20_000, tasks: int = 400, gpu_rate: float = 20.0
) -> dict[str, Any]:
    """Measure, model, and compare the model with the simulation.

    Args:
        units: through the planner and into the manifest.
        rows: WRITTEN rows through the tally.
        tasks: units of one page each in a real job, compared with one of a tenth of them; 0 leaves Ray alone.
        gpu_rate: pages per second of one GPU, all its stages together; supposed, not measured.
    """
    with TemporaryDirectory(prefix="palimpsest-bench-") as place:
        measured = {
            "rows_per_second": _tally_rate(rows),
            **_plan_rates(config, Path(place), units),
        }
        if tasks:
            measured["tasks_per_second"] = _task_rate(config, Path(place), tasks)
        supplied = _supply(config, Path(place))
    scale = Scale(pages_per_gpu_second=gpu_rate, bytes_per_page=supplied.pop("written_bytes_per_page"), **measured)
    compared = [_compared(scale, gpus) for gpus in GPUS]
    listed = before_and_after(scale, 1e9)
    return {
        "mode": config.tiers.mode,
        **supplied,
        "limit_of_this_job": limiting(scale, max(GPUS)),
        "most_gpus": most_gpus(scale),
        "largest_error": max(abs(row["error"]) for row in compared),
        "stated_error": STATED_ERROR,
        "rows": compared,
        "parameters": [
            {"name": name, "value": value, "basis": _basis(name, measured)} for name, value in asdict(scale).items()
        ],
        "a_billion_pages": [{"what": name, "value": float(value)} for name, value in listed.items()],
        "what_if": [_changed(scale, name, factor) for name, factor in _CHANGES],
        "notes": [
            "supposed: an unmeasured figure; it is in `lab.forecast.scaling.Scale`. The devices' rate is one.",
            "tasks per second: a real job of units of one page of text each, a block each: workers and driver share the cores of "
            "this machine, so that a driver on a machine of its own does more. 0 --tasks leaves it supposed.",
            "The simulation shares these figures with the model: it checks the formula (queues, waves, back-pressure), not them.",
            "The tally, the planner and publishing write to a local disk; the driver's waits for a bucket are request_seconds. "
            "Publishing here leaves out the document index, which reads a column of every new shard.",
            "Supply: CPU seconds of one core to lay out, draw and write; reading the sources is not in it.",
        ],
    }  # fmt: skip


_CHANGES = (
    ("pages_per_block", 4.0), ("tasks_per_second", 4.0), ("pages_per_shard", 0.1), ("pages_per_unit", 0.01),
    ("request_seconds", 4.0), ("store_bytes_per_second", 0.1),
)  # fmt: skip


def _basis(name: str, measured: dict[str, float]) -> str:
    return "measured" if name in measured or name == "bytes_per_page" else "supposed"


def _changed(scale: Scale, name: str, factor: float) -> dict[str, Any]:
    changed = replace(scale, **{name: getattr(scale, name) * factor})
    most = max(GPUS)
    return {
        "what": f"{name} x {factor:g}",
        "limit": limiting(changed, most),
        "pages_per_second": pages_per_second(changed, most),
        "most_gpus": most_gpus(changed),
    }


def _compared(scale: Scale, gpus: int) -> dict[str, Any]:
    model = pages_per_second(scale, gpus)
    played = simulate(scale, gpus, blocks_per_gpu=max(30.0, min(400.0, 40_000 / gpus)))
    row = {"gpus": gpus, "model_pages_per_second": model, "limit": limiting(scale, gpus)}
    return {**row, "simulated_pages_per_second": played, "error": played / model - 1, **_named(limits(scale, gpus))}


def _named(found: dict[str, float]) -> dict[str, float]:
    return {f"limit_{name.replace(' ', '_')}": value for name, value in found.items()}


def _tally_rate(rows: int) -> float:
    """WRITTEN rows per second: from Arrow and added, as the driver does it; without commits."""
    each = 100
    item = SourceObject(uri="s3://texts/0", key="s3://texts/0", size=1, version="v")
    planned = tuple(PlannedUnit(unit=Unit(object=item), unit_id=f"{n:032x}") for n in range(max(1, rows // each)))
    shard = asdict(_record("s3://texts/0", "etag:0", "f" * 16, shard=True).shards[0])
    counts = dict.fromkeys(PAGE_COUNTS, 0) | {"first_pages": 100, "pages_expected": 512, "pages": 512, "text_tokens": 250_000}
    statuses = [{"tier": "tiny", "status": status, "pages": pages} for status, pages in (("verified", 500), ("below_target", 12))]
    precision = {"total": 510.0, "pages": 512}
    written: dict[str, Any] = {
        "kind": "written",
        "shards": [shard],
        "counts": counts,
        "statuses": statuses,
        "precision": precision,
    }
    end = {
        "kind": "unit_end",
        "control": {"documents_in": 100 * each, "documents": 100 * each, "quarantined": 0, "duplicates": 0},
    }
    messages: list[dict[str, Any]] = [{"unit_id": "", **row} for row in (*[written] * each, end)]
    ledger = Ledger(SourceUnit(unit, "f" * 16) for unit in planned)
    done, began = 0, time.process_time()
    for unit in planned:
        for row in pa.Table.from_pylist(messages, WRITTEN).to_pylist():
            done += ledger.take({**row, "unit_id": unit.unit_id}) is not None
    seconds = time.process_time() - began
    assert done == len(planned) and not len(ledger)
    return len(planned) * (each + 1) / seconds


def _plan_rates(config: JobConfig, place: Path, units: int) -> dict[str, float]:
    """Units planned and published per second, and bytes of the manifest for a unit; the reading of documents is left out."""
    folder = place / "in"
    for number in range(units):
        path = folder / f"{number // 1000:03d}" / f"{number % 1000}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"the text of object {number}")
    found = expand([str(folder)], config.source)
    store = open_store(place / "corpus")
    create_corpus(store)

    def index(some: list[Unit], config: SourceConfig) -> Iterator[list[str]]:
        yield from ([f"{number:032x}"] for number in range(len(some)))

    began = time.perf_counter()
    plan = make_plan(store, None, found, config.source, "f" * 16, index)
    planned = time.perf_counter() - began
    assert len(plan.todo) == units
    records = [_record(f"s3://texts/{n:09d}.jsonl", f"etag:{n:032x}", "f" * 16, shard=False) for n in range(units)]
    began = time.perf_counter()
    snapshot = publish(store, "bench", records)
    published = time.perf_counter() - began
    assert len(snapshot.units) == units
    whole = [_record(record.source_uri, record.source_version, "f" * 16, shard=True) for record in records]
    size = write_segment(store, whole[: manifest.SEGMENT_UNITS]).bytes * units / len(whole[: manifest.SEGMENT_UNITS])
    return {
        "plan_units_per_second": units / planned,
        "publish_units_per_second": units / published,
        "manifest_bytes_per_unit": size / units,
    }


def _task_rate(config: JobConfig, place: Path, units: int) -> float:
    """Tasks and batches per second through a real job, from the difference of two, so that its start does not count."""
    from palimpsest.flow.ray_executor import connected

    place_of: dict[str, Any] = {
        "read_tasks": 2,
        "render_tasks": 2,
        "encode_workers": 1,
        "verify_workers": 1,
        "render_batch": 1,
        "shard_batch": 1,
    }
    placement = config.placement.replace(**place_of)
    tiers = config.tiers.replace(policy="fixed", mode="text")
    config = config.replace(placement=placement, tiers=tiers, verification=config.verification.replace(share=0.0))
    seconds = []
    with connected(placement):
        for count in (max(1, units // 10), units):
            folder = place / f"tasks-{count}"
            folder.mkdir()
            for number in range(count):
                (folder / f"{number}.txt").write_text(f"the text of object {number} of {count}")
            result = run(config.replace(sources=(str(folder),), out=str(place / f"made-{count}")))
            assert result.fresh.pages_committed == count
            seconds.append(result.seconds)
    if seconds[1] <= seconds[0]:
        raise ValueError(f"--tasks {units}: too few to be distinguished from the noise of the machine")
    return (units - max(1, units // 10)) * Scale.stages / (seconds[1] - seconds[0])


def _supply(config: JobConfig, place: Path) -> dict[str, float]:
    """The work of one core for pages, in pages per CPU second, and the bytes that a page takes in a shard with random tokens."""
    prepared = identify(config.replace(out=str(place / "pages")))
    paginate, render = Paginate(prepared.config, prepared.layout, prepared.policy), Render(prepared.layout)
    write, mode = Write(str(place / "pages"), config.storage.row_group_bytes), prepared.policy.modes[0]
    text = bench_text(PAGES * prepared.layout.capacity)
    row = {
        "unit_id": "u",
        "kind": "document",
        "doc_id": "d" * 32,
        "text": text,
        "source_uri": "s3://texts/0",
        "source_version": "1",
    }
    documents = pa.Table.from_pylist([row], DOCUMENTS)
    for _ in paginate(documents):
        pass  # the tokenizer and the atlas are loaded now
    marks = [time.process_time()]
    pages = pa.concat_tables(paginate(documents))
    marks.append(time.process_time())
    blocks = [render(pages.slice(at, 32)) for at in range(0, pages.num_rows, 32)]
    marks.append(time.process_time())
    made = with_columns(pa.concat_tables(blocks).drop_columns(["image"]), _tokens(pages.num_rows, mode, config.storage.tokens))
    made = conform(made, VERDICTS, "verify")
    begin = time.process_time()
    write(made)
    writing = time.process_time() - begin
    seconds = {"paginate": marks[1] - marks[0], "render": marks[2] - marks[1], "write": writing}
    size = sum(path.stat().st_size for path in (place / "pages" / "data").rglob("*.parquet"))
    return {
        "supply_pages_per_core_second": pages.num_rows / sum(seconds.values()),
        **{f"{stage}_pages_per_core_second": pages.num_rows / spent for stage, spent in seconds.items()},
        "written_bytes_per_page": size / pages.num_rows,
    }


def _tokens(rows: int, mode: Any, storage: str, dim: int = 512) -> dict[str, pa.Array]:
    """Token columns of random bytes, which no compression makes smaller."""
    draw = np.random.default_rng(0)
    width = dim * (2 if storage == "bf16" else 1)
    payloads = [draw.bytes(mode.num_vision_tokens * width) for _ in range(rows)]
    return {
        "tokens": pa.array(payloads, pa.large_binary()),
        "num_vision_tokens": pa.array([mode.num_vision_tokens] * rows, pa.int32()),
        "num_context_tokens": pa.array([mode.num_context_tokens] * rows, pa.int32()),
        "token_scales": pa.array([draw.bytes(4 * mode.num_vision_tokens)] * rows, pa.binary()),
        "status": pa.array(["verified"] * rows, pa.string()),
    }


def plot(result: dict[str, Any], page: Path) -> list[Path]:
    """Pages per second against GPUs: each limit's line, the model, and the simulation; a PNG next to the file `page`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    rows = result["rows"]
    gpus = [row["gpus"] for row in rows]
    for name in (key for key in rows[0] if key.startswith("limit_")):
        axes.plot(gpus, [row[name] for row in rows], "--", linewidth=1, label=name.removeprefix("limit_").replace("_", " "))
    axes.plot(gpus, [row["model_pages_per_second"] for row in rows], color="black", linewidth=2, label="model")
    axes.plot(gpus, [row["simulated_pages_per_second"] for row in rows], "o", color="black", label="simulated")
    axes.set(xscale="log", yscale="log", xlabel="GPUs", ylabel="pages/s", title="Where the cluster stops growing")
    axes.legend(fontsize=8)
    path = page.with_suffix(".png")
    figure.savefig(path, dpi=120)
    return [path]
