"""The curves of a training run, from its log."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

CURVES = {
    "cells read (share of inked cells)": {
        "patch": "before the compressor",
        "token": "from visual tokens",
        "written": "by the decoder",
    },
    "loss (nats)": {"token_loss": "from visual tokens", "written_loss": "by the decoder", "guidance": "guidance"},
}
SMOOTHING = 0.9


def plot(log: str | Path, out: str | Path) -> None:
    """Draw `log.jsonl` of a training run to an image file; one line per blend and measure, exponentially smoothed.

    Raises:
        ValueError: for a log without steps.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    series: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
    for line in Path(log).read_text("utf-8").splitlines():
        row = json.loads(line)
        for name, value in row.items():
            if name not in ("step", "seconds", "blend"):
                series[name, row["blend"]].append((row["step"], value))
    if not series:
        raise ValueError(f"{log} holds no steps")
    figure, axes = plt.subplots(1, len(CURVES), figsize=(16, 4.6), layout="constrained")
    for axis, (title, names) in zip(axes, CURVES.items(), strict=True):
        for (name, blend), points in sorted(series.items()):
            if name in names:
                axis.plot(*zip(*_smooth(points), strict=True), label=f"{names[name]}, {blend}", linewidth=1.3)
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.savefig(out, dpi=110)
    plt.close(figure)


def _smooth(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    smoothed, mean = [], points[0][1]
    for step, value in points:
        mean = SMOOTHING * mean + (1 - SMOOTHING) * value
        smoothed.append((step, mean))
    return smoothed
