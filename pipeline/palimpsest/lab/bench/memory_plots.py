"""The figures of `palimpsest bench memory`: exact recall over age for each budget, and over the budget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def plot(result: dict[str, Any], beside: Path) -> list[Path]:
    """Draw both figures as PNG, named after the file `beside` which they stand."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ages = [row for row in result["exact_recall_by_age"] if row["budget"] is not None]
    budgets = list(dict.fromkeys(row["budget"] for row in ages))
    ways = list(dict.fromkeys(row["way"] for row in ages))
    bands = [name for name in ages[0] if name not in ("way", "budget")]
    style = _styles(ways)
    title = f"{result['codec'].split()[0]}, {result['grid']}, {result['facts']} facts"

    over_age, axes = plt.subplots(
        1, len(budgets), figsize=(5 * len(budgets), 4.4), layout="constrained", sharey=True, squeeze=False
    )
    for axis, budget in zip(axes[0], budgets, strict=True):
        for row in (row for row in ages if row["budget"] == budget):
            values = [float("nan") if row[band] is None else row[band] for band in bands]
            axis.plot(range(len(bands)), values, label=row["way"], **style[row["way"]])
        axis.set_title(f"{budget:,} context tokens")
        axis.set_xticks(range(len(bands)), bands, rotation=30, ha="right")
    axes[0][0].set_ylabel("facts recalled exactly")
    axes[0][-1].legend(fontsize=8)
    over_age.suptitle(f"Recall over age: {title}")

    over_budget, axis = plt.subplots(figsize=(7, 4.6), layout="constrained")
    for way in ways:
        rows = sorted((row for row in result["rows"] if row["way"] == way and row["budget"]), key=lambda row: row["budget"])
        axis.plot([row["budget"] for row in rows], [row["exact_recall"] for row in rows], label=way, **style[way])
    axis.set_xscale("log")
    axis.set_xticks(budgets, [f"{budget:,}" for budget in budgets])
    axis.minorticks_off()
    axis.set_xlabel(f"context tokens (all of it as text: {result['text_tokens_per_conversation']:,})")
    axis.set_ylabel("facts recalled exactly")
    axis.legend(fontsize=8)
    axis.set_title(f"Recall over budget: {title}")

    found = []
    for figure, name in ((over_age, "age"), (over_budget, "budget")):
        path = beside.with_name(f"{beside.stem}_{name}.png")
        figure.savefig(path, dpi=110, metadata={"Software": None})
        plt.close(figure)
        found.append(path)
    return found


def _styles(ways: Sequence[str]) -> dict[str, dict[str, Any]]:
    marks = "osD^vPX*"
    return {
        way: {"marker": marks[place % len(marks)], "linestyle": "--" if way.startswith("uniform") else "-", "linewidth": 1.6}
        for place, way in enumerate(ways)
    }
