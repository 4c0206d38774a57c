"""`palimpsest fit`."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

from palimpsest.cli.console import err, explained, line, out, print_json
from palimpsest.errors import UsageError

SEARCHED = {
    "grid": ("grid=64x32,80x40,96x48,112x56",),
    "document": ("font_size=12,16,20", "newline=break,glyph"),
}
"""The settings of [layout] that are searched where none is named, by layout."""


def fit(
    codec: Annotated[str, typer.Argument(help="A codec preset, for example embedded.")],
    sample: Annotated[Path, typer.Option(help="JSON lines with `text` and `text_class`: texts like those of the corpus.")],
    target: Annotated[float, typer.Option(help="Precision that pages must reach.", min=0, max=1)] = 0.97,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            help="A setting of [layout] and its values, as font_size=12,16; may be repeated, all combinations are measured. "
            "Else " + " ".join(text for texts in SEARCHED.values() for text in texts) + ", as the codec's layout has them."
        ),
    ] = None,
    mode: Annotated[list[str] | None, typer.Option(help="A mode; may be repeated. Else all of the codec.")] = None,
    file: Annotated[Path, typer.Option("--out", help="The file to write; policies read it as `tiers.predictor`.")] = Path(
        "operating-points.json"
    ),
    max_pages: Annotated[int, typer.Option(help="At most so many pages per class and layout; 0 takes all.", min=0)] = 20,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Override a setting: section.key=value.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be measured.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure a codec's operating points on texts of yours: every layout in every mode, and the cheapest that meets the target.

    What was measured on the same texts is taken from the file: a command that was interrupted goes on where it stopped.

    palimpsest fit embedded --sample sample.jsonl --target 0.97 --vary grid=80x40,96x48

    palimpsest fit deepseek-ocr --sample sample.jsonl --vary font_size=12,14,16 --vary newline=break,glyph --mode tiny

    A run uses the file with `--set tiers.policy=fidelity --set tiers.predictor=operating-points.json`.
    """
    from palimpsest.codecs.presets import find_preset
    from palimpsest.config import JobConfig, load
    from palimpsest.lab.bench.fidelity import read_classes
    from palimpsest.lab.bench.fit import fit_points
    from palimpsest.operations.resolving import concrete_layout

    points: list[dict[str, Any]] = []
    with explained():
        texts = read_classes(sample)
        settings = [f"codec.name={codec}", f"verification.target_precision={target}", "verification.control_share=0"]
        settings += [f"tiers.modes={list(mode)}".replace("'", '"')] if mode else []
        config: JobConfig = load("local", [*settings, *(overrides or ())])
        searched = vary or SEARCHED[concrete_layout(config.layout, find_preset(codec)).name]
        layouts = [
            (named, load("local", [*settings, *(overrides or ()), *(f"layout.{setting}" for setting in named)]))
            for named in product(*map(_values, searched))
        ]
        for named, laid_out in layouts:
            if dry_run:
                line(f"would measure {' '.join(named)}: {len(texts)} classes, at most {max_pages or 'all'} pages each")
                continue
            entry, measured = fit_points(laid_out, texts, file, max_pages=max_pages)
            err.print(f"{' '.join(named)}: {'measured' if measured else 'measured before'}", markup=False)
            points += [{"settings": [f"layout.{setting}" for setting in named], **point} for point in entry["points"]]
    if dry_run:
        return
    meeting = [point for point in points if point["text_class"] == "all" and point["precision"] >= target]
    best = max(meeting, key=lambda point: point["ratio"], default=None)
    if as_json:
        print_json({"codec": codec, "target": target, "file": str(file), "best": best, "points": points})
        return
    _print(points, target, best, file)


def _values(text: str) -> list[str]:
    name, equals, values = text.partition("=")
    if not equals or not values:
        raise UsageError(f"--vary {text!r}: expected SETTING=VALUE,VALUE, for example font_size=12,16")
    return [f"{name.removeprefix('layout.')}={value}" for value in values.split(",")]


def _print(points: list[dict[str, Any]], target: float, best: dict[str, Any] | None, file: Path) -> None:
    from palimpsest.report.tables import Rows

    columns = ("layout", "mode", "text", ">pages", ">ratio", ">precision", ">p5")
    rows = [
        (
            " ".join(setting.removeprefix("layout.") for setting in point["settings"]), point["mode"], point["text_class"],
            str(point["pages"]), f"{point['ratio']:.2f}x", f"{point['precision']:.2%}", f"{point['p5']:.2%}",
        )
        for point in points
    ]  # fmt: skip
    out.print(Rows("operating points", columns, rows))
    if best:
        how = " ".join(f"--set {setting}" for setting in [*best["settings"], f"tiers.mode={best['mode']}"])
        line(f"cheapest at {target:.0%} on average: {best['ratio']:.2f}x, {best['precision']:.2%} read: {how}")
    else:
        line(f"no layout and mode reads {target:.0%} of these texts on average; lower --target, or search sparser layouts")
    line(f"written: {file}")
