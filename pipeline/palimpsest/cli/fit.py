"""`palimpsest fit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from palimpsest.cli.console import err, explained, line, out, print_json

GRIDS = ("64x32", "80x40", "96x48", "112x56")


def fit(
    codec: Annotated[str, typer.Argument(help="A codec preset, for example embedded.")],
    sample: Annotated[Path, typer.Option(help="JSON lines with `text` and `text_class`: texts like those of the corpus.")],
    target: Annotated[float, typer.Option(help="Precision that pages must reach.", min=0, max=1)] = 0.97,
    grid: Annotated[list[str] | None, typer.Option(help=f"COLUMNSxROWS; may be repeated. Else {', '.join(GRIDS)}.")] = None,
    file: Annotated[Path, typer.Option("--out", help="The file to write; policies read it as `tiers.predictor`.")] = Path(
        "operating-points.json"
    ),
    max_pages: Annotated[int, typer.Option(help="At most so many pages per class and grid; 0 takes all.", min=0)] = 20,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Override a setting: section.key=value.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure a codec's operating points on texts of yours: every grid in every mode, and the cheapest that meets the target.

    palimpsest fit embedded --sample sample.jsonl --target 0.97 --out operating-points.json

    A run uses the file with `--set tiers.policy=fidelity --set tiers.predictor=operating-points.json`.
    """
    from palimpsest.config import JobConfig, load
    from palimpsest.lab.bench.fidelity import read_classes
    from palimpsest.lab.bench.tiers import fit_points

    points: list[dict[str, Any]] = []
    with explained():
        texts = read_classes(sample)
        config: JobConfig = load("local", [f"codec.name={codec}", *(overrides or ())])
        config = config.replace(verification=config.verification.replace(target_precision=target, control_share=0.0))
        for name in grid or GRIDS:
            points += fit_points(config.replace(layout=config.layout.replace(grid=name)), texts, file, max_pages=max_pages)[1]
            err.print(f"{name}: measured", markup=False)
    meeting = [point for point in points if point["text_class"] == "all" and point["precision"] >= target]
    best = max(meeting, key=lambda point: point["ratio"], default=None)
    if as_json:
        print_json({"codec": codec, "target": target, "file": str(file), "best": best, "points": points})
        return
    _print(points, target, best, file)


def _print(points: list[dict[str, Any]], target: float, best: dict[str, Any] | None, file: Path) -> None:
    from rich.table import Table

    table = Table("grid", "mode", "text", "pages", "ratio", "precision", f"pages at {target:.0%}", title="operating points")
    for point in points:
        table.add_row(
            point["grid"], point["mode"], point["text_class"], str(point["pages"]), f"{point['ratio']:.2f}x",
            f"{point['precision']:.2%}", f"{point['reached']:.0%}",
        )  # fmt: skip
    out.print(table)
    if best:
        line(f"cheapest at {target:.0%}: grid {best['grid']}, mode {best['mode']}: {best['ratio']:.2f}x, {best['precision']:.2%}")
    else:
        line(f"no grid and mode reads {target:.0%} of these texts on average; lower --target, or choose a sparser --grid")
    line(f"written: {file}")
