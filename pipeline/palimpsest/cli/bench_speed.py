"""`palimpsest bench render`, `encode`, `verify`, `run`, `ingest`, `loading`, `scaling`, `gpu`: how fast, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from palimpsest.cli.bench_result import finish, local
from palimpsest.cli.console import FINDINGS, explained
from palimpsest.cli.options import Json, Set, Text, Write


def bench_render(
    seconds: Annotated[float, typer.Option(help="Time per measurement.")] = 3.0, write: Write = None, as_json: Json = False
) -> None:
    """Pages per second of our renderer and of Pillow's, on the same pages.

    palimpsest bench render --seconds 5 --json
    """
    from palimpsest.lab.bench.render import bench_render as measure

    with explained():
        result = measure(seconds=seconds)
    finish("render", result, write, as_json)


def bench_encode(text: Text = None, overrides: Set = None, write: Write = None, as_json: Json = False) -> None:
    """Pages per second of the encoder, by mode and batch size.

    palimpsest bench encode --set codec.dtype=float32
    """
    from palimpsest.lab.bench.encode import bench_encode as measure

    with explained():
        result = measure(local(overrides), text=text)
    finish("encode", result, write, as_json)


def bench_verify(
    pages: Annotated[int, typer.Option(help="Pages to decode.")] = 8,
    max_new_tokens: Annotated[int, typer.Option(help="Bound of the output, so that plain `generate` ends.")] = 512,
    text: Text = None,
    overrides: Set = None,
    write: Write = None,
    as_json: Json = False,
) -> None:
    """Drafted exact decoding compared with plain `generate`: passes, wall time, identity of the outputs.

    palimpsest bench verify --pages 4 --max-new-tokens 256
    """
    from palimpsest.lab.bench.verify import bench_verify as measure

    with explained():
        result = measure(local(overrides), pages=pages, max_new_tokens=max_new_tokens, text=text)
    finish("verify", result, write, as_json)


def bench_run(
    pages: Annotated[int, typer.Option(help="Pages to process.")] = 256,
    sweep: Annotated[bool, typer.Option("--sweep", help="Try several placements.")] = False,
    text: Text = None,
    overrides: Set = None,
    write: Write = None,
    as_json: Json = False,
) -> None:
    """Pages per second through Ray to committed shards, over the bare loop in one process.

    palimpsest bench run --pages 512 --sweep
    """
    from palimpsest.lab.bench.run import bench_run as measure

    with explained():
        result = measure(local(overrides), pages=pages, sweep=sweep, text=text)
    finish("run", result, write, as_json)


def bench_ingest(
    objects: Annotated[int, typer.Option(min=1, help="Objects of the nights.")] = 100_000,
    units: Annotated[int, typer.Option(min=1, help="Units of the corpus that one unit is published into.")] = 1_000_000,
    place: Annotated[str | None, typer.Option(help="An empty s3:// prefix for the nights, instead of local files.")] = None,
    overrides: Set = None,
    write: Write = None,
    as_json: Json = False,
) -> None:
    """The cost of a night when nothing or one object of many changed, and of a publish among many units.

    palimpsest bench ingest --objects 10000 --units 100000 --place s3://bucket/bench
    """
    from palimpsest.lab.bench.ingest import bench_ingest as measure

    with explained():
        result = measure(local(overrides), objects=objects, units=units, place=place)
    finish("ingest", result, write, as_json)


def bench_loading(
    pages: Annotated[int, typer.Option(min=64, help="Pages of the corpus that is read.")] = 2048,
    write: Write = None,
    as_json: Json = False,
) -> None:
    """The training loader compared with raw pyarrow, HF streaming and Lance: rates per CPU second.

    palimpsest bench loading --pages 4096
    """
    from palimpsest.lab.bench.loading import bench_loading as measure

    with explained():
        result = measure(pages)
    finish("loading", result, write, as_json)


def bench_scaling(
    units: Annotated[int, typer.Option(help="Units through the planner and into the manifest.", min=1)] = 2000,
    rows: Annotated[int, typer.Option(help="Rows through the tally.", min=100)] = 20_000,
    tasks: Annotated[int, typer.Option(help="Units of a real job that measures Ray's tasks; 0: none.", min=0)] = 400,
    gpu_rate: Annotated[float, typer.Option(help="Pages per second of one GPU, supposed.", min=0.001)] = 20.0,
    overrides: Set = None,
    write: Write = None,
    as_json: Json = False,
) -> None:
    """The driver's rates on this machine, and where store, manifest or driver become the limit of up to 10,000 GPUs.

    palimpsest bench scaling

    palimpsest bench scaling --gpu-rate 40 --write docs/results
    """
    from palimpsest.lab.bench.scaling import bench_scaling as measure
    from palimpsest.lab.bench.scaling import plot

    with explained():
        result = measure(local(overrides), units=units, rows=rows, tasks=tasks, gpu_rate=gpu_rate)
    finish("scaling", result, write, as_json, plot)


def bench_gpu(
    target: Annotated[Path, typer.Option("--out", help="Folder for the result.")] = Path("docs/results"),
    seconds: Annotated[float, typer.Option(help="For everything; a section that outlasts its share is stopped.")] = 420.0,
    device: Annotated[str | None, typer.Option(help="cuda or cpu; by default cuda where there is one.")] = None,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="A tiny model: shows that everything runs; its figures mean nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Encoding, verifying and both together with a codec of full DeepSeek-OCR size and random weights; nothing is downloaded.

        palimpsest bench gpu

        palimpsest bench gpu --tiny --device cpu --out /tmp/results

    Without the package's other requirements: `python -m palimpsest.lab.bench.gpu`.

    Exit code 3 when a section failed or was skipped.
    """
    from palimpsest.lab.bench.gpu import bench_gpu as measure
    from palimpsest.lab.bench.gpu import write_so_far

    with explained():
        result = measure(device, tiny=tiny, seconds=seconds, save=write_so_far(target))
    finish("gpu", result, target, as_json, command=result["command"])
    if result["failed_sections"]:
        raise typer.Exit(FINDINGS)
