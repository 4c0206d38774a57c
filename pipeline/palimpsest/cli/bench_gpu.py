"""`palimpsest bench gpu`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from palimpsest.cli import console
from palimpsest.cli.console import FINDINGS, explained, out, print_json


def bench_gpu(
    target: Annotated[Path, typer.Option("--out", help="Folder for the result.")] = Path("docs/results"),
    seconds: Annotated[float, typer.Option(help="For everything; a section that outlasts its share is stopped.")] = 420.0,
    device: Annotated[str | None, typer.Option(help="cuda or cpu; by default cuda where there is one.")] = None,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="A tiny model: shows that everything runs; its figures mean nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Encoding, verifying and both together with a codec of full DeepSeek-OCR size and random weights; nothing is downloaded.

        palimpsest bench gpu

        palimpsest bench gpu --tiny --device cpu --out /tmp/results

    Without the package's other requirements: `python -m palimpsest.lab.bench.gpu`.

    Exit code 3 when a section failed or was skipped.
    """
    from palimpsest.lab.bench.gpu import bench_gpu as measure
    from palimpsest.lab.bench.gpu import write_so_far
    from palimpsest.lab.bench.machine import table_of, write_results

    with explained():
        result = measure(device, tiny=tiny, seconds=seconds, save=write_so_far(target))
        path = write_results("gpu", result, target)
    console.err.print(f"written: {path}", markup=False, soft_wrap=True)
    print_json(result) if as_json else out.print(table_of("gpu", result))
    if result["failed_sections"]:
        raise typer.Exit(FINDINGS)
