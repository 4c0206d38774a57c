"""The figures of `palimpsest bench memory`: what survives over age for each budget, and over the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def plot(result: Mapping[str, Any], path: Path) -> list[Path]:
    """Draw both figures as PNG next to the result's Markdown file `path`, and name them after it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    planted = "exact_recall_by_age" in result
    by_age, share = ("exact_recall_by_age", "exact_recall") if planted else ("evidence_by_age", "evidence")
    label = "facts recalled exactly" if planted else "evidence turns that read word for word"
    ages = [row for row in result[by_age] if row["budget"] is not None]
    budgets = list(dict.fromkeys(row["budget"] for row in ages))
    ways = list(dict.fromkeys(row["way"] for row in ages))
    bands = [name for name in ages[0] if name not in ("way", "budget")]
    style = _styles(ways)
    units = f"{result['facts']} facts" if planted else f"{result['units']} questions with their evidence"
    title = f"{result['codec'].split()[0]}, {result['grid']}, {units}"

    over_age, axes = plt.subplots(
        1, len(budgets), figsize=(4.6 * len(budgets), 4.8), layout="constrained", sharey=True, squeeze=False
    )
    for axis, budget in zip(axes[0], budgets, strict=True):
        for row in (row for row in ages if row["budget"] == budget):
            values = [float("nan") if row[band] is None else row[band] for band in bands]
            axis.plot(range(len(bands)), values, label=row["way"], **style[row["way"]])
        axis.set_title(_named(budget))
        axis.set_xticks(range(len(bands)), bands, rotation=30, ha="right")
    axes[0][0].set_ylabel(label)
    handles, labels = axes[0][0].get_legend_handles_labels()
    over_age.legend(handles, labels, loc="outside lower center", ncols=min(4, len(ways)), fontsize=8)
    over_age.suptitle(f"Survival over age: {title}")

    over_budget, axis = plt.subplots(figsize=(8, 5.4), layout="constrained")
    for way in ways:
        rows = {row["budget"]: row for row in result["rows"] if row["way"] == way and row["budget"] is not None}
        kept = [rows[budget] for budget in budgets]
        tops = [max(0.0, row.get("high", row.get(f"{share}_high")) - row[share]) for row in kept]
        bottoms = [max(0.0, row[share] - row.get("low", row.get(f"{share}_low"))) for row in kept]
        axis.errorbar(range(len(budgets)), [row[share] for row in kept], (bottoms, tops), label=way, capsize=2, **style[way])
    axis.set_xticks(range(len(budgets)), [f"{budget:,}" if isinstance(budget, int) else budget for budget in budgets])
    whole = f"{result['text_tokens_per_conversation']:,}"
    axis.set_xlabel(f"context tokens, or their share of the text ({whole} tokens a conversation)")
    axis.set_ylabel(label)
    over_budget.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    axis.set_title(f"Survival over budget: {title}", fontsize=10)

    written = []
    for figure, name in ((over_age, "age"), (over_budget, "budget")):
        target = path.with_name(f"{path.stem}_{name}.png")
        figure.savefig(target, dpi=110, metadata={"Software": None})
        plt.close(figure)
        written.append(target)
    return written


def _named(budget: int | str) -> str:
    return f"{budget:,} context tokens" if isinstance(budget, int) else f"{budget} of the text's tokens"


def _styles(ways: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A mark and colour for each way; exact spans share the colour of their way and are filled."""
    import matplotlib

    colours = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
    plain = list(dict.fromkeys(way.partition(", exact")[0] for way in ways))
    styles = {}
    for way in ways:
        name, comma, _ = way.partition(", exact")
        index = plain.index(name)
        styles[way] = {
            "marker": "osD^vPX*"[index % 8],
            "color": colours[index % len(colours)],
            "linestyle": ":" if name.startswith("uniform") and not comma else "--" if not comma else "-",
            "markerfacecolor": colours[index % len(colours)] if comma or index in (0, len(plain) - 1) else "white",
            "linewidth": 1.6,
        }
    return styles
