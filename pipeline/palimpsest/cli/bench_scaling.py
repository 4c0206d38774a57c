"""`palimpsest bench scaling`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from palimpsest.cli.console import err, explained, out, print_json


def bench_scaling(
    units: Annotated[int, typer.Option(help="Units through the planner and into the manifest.", min=1)] = 2000,
    rows: Annotated[int, typer.Option(help="Rows through the tally.", min=100)] = 20_000,
    tasks: Annotated[int, typer.Option(help="Units of a real job that measures Ray's tasks; 0: none.", min=0)] = 400,
    gpu_rate: Annotated[float, typer.Option(help="Pages per second of one GPU, supposed.", min=0.001)] = 20.0,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Override a setting: section.key=value.")] = None,
    write: Annotated[Path | None, typer.Option(help="Also write Markdown, JSON and a plot to this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """The driver's rates on this machine, and where store, manifest or driver become the limit of up to 10,000 GPUs.

    palimpsest bench scaling

    palimpsest bench scaling --gpu-rate 40 --write docs/results
    """
    from palimpsest.config import JobConfig, load
    from palimpsest.lab.bench.machine import command_line, table_of, write_results
    from palimpsest.lab.bench.scaling import bench_scaling as measure
    from palimpsest.lab.bench.scaling import plot

    with explained():
        result = measure(load("local", overrides or (), JobConfig), units=units, rows=rows, tasks=tasks, gpu_rate=gpu_rate)
        if write:
            path = write_results("scaling", result, write, command=command_line())
            plot(result, path.with_suffix(".png"))
            path.write_text(path.read_text("utf-8") + f"\n![pages/s against GPUs]({path.stem}.png)\n", "utf-8")
            err.print(f"written: {path}", markup=False, soft_wrap=True)
    print_json(result) if as_json else out.print(table_of("scaling", result))
