"""The curves of a training run, from its log: one panel per measure, one line per blend."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

PANELS = {
    "patch": "inked cells read before the compressor",
    "token": "inked cells read from visual tokens",
    "written": "inked cells written by the decoder",
    "copied": "inked cells written with ideal attentions",
    "looked": "heads that find the token an id names",
    "addresses": "ids between the cells written",
    "token_loss": "loss of reading (nats)",
    "written_loss": "loss of writing (nats)",
    "copied_loss": "loss with ideal attentions (nats)",
    "guidance": "loss of guidance (nats)",
}
WINDOW = 8  # points in a running mean

Series = dict[str, list[tuple[int, float]]]


def plot(log: str | Path, out: str | Path) -> None:
    """Draw `log.jsonl` of a training run to an image file; lines are running means of WINDOW points.

    Raises:
        ValueError: for a log without steps.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    measures = _series(log)
    if not measures:
        raise ValueError(f"{log} holds no steps")
    blends = sorted({blend for series in measures.values() for blend in series}, key=_by_mode)
    shades = [0.05 + 0.9 * number / max(1, len(blends) - 1) for number in range(len(blends))]
    colours = dict(zip(blends, plt.colormaps["turbo"](shades), strict=True))
    columns = min(3, len(measures))
    rows = -(-len(measures) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(5.2 * columns + 2.2, 4.0 * rows), layout="constrained", squeeze=False)
    for axis, (name, series) in zip(axes.flat, measures.items(), strict=False):
        for blend in blends:
            if blend in series:
                axis.plot(*zip(*_smooth(series[blend]), strict=True), color=colours[blend], linewidth=1.3)
        axis.set(title=PANELS[name], xlabel="step")
        axis.set_ylim(0, 1.02 if "loss" not in PANELS[name] else None)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(measures) :]:
        axis.set_axis_off()
    lines = [plt.Line2D([], [], color=colours[blend], label=blend) for blend in blends]
    figure.legend(handles=lines, fontsize=8, frameon=False, loc="outside right upper", title="grid/mode")
    figure.savefig(out, dpi=100)
    plt.close(figure)


def _series(log: str | Path) -> dict[str, Series]:
    """Points by measure and blend, in the order of PANELS."""
    found: dict[str, Series] = {name: defaultdict(list) for name in PANELS}
    for line in Path(log).read_text("utf-8").splitlines():
        row = json.loads(line)
        for name in PANELS.keys() & row.keys():
            found[name][row["blend"]].append((row["step"], row[name]))
    return {name: series for name, series in found.items() if series}


def _by_mode(blend: str) -> tuple[str, int]:
    grid, _, mode = blend.partition("/")
    return mode, int(grid.partition("x")[0])


def _smooth(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    smoothed = []
    for index, (step, _) in enumerate(points):
        window = [value for _, value in points[max(0, index - WINDOW + 1) : index + 1]]
        smoothed.append((step, sum(window) / len(window)))
    return smoothed
