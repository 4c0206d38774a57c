"""The findings of `palimpsest bench memory` in sentences: the best way at each budget, and where truncation wins."""

from __future__ import annotations

from typing import Any

from palimpsest.lab.bench.kept import CONTROLLED, FADING, TRUNCATION

BANDS = ("under 1 h", "1 h to 1 d", "1 d to 1 w", "1 w to 1 mo", "1 mo to 1 y", "over 1 y")
RULES = (
    "Exact: the fact reads as it was written. Approximate: 1 − edit distance / length of the longer, 0 where it is "
    "dropped. Intervals: Wilson, 95 %, over facts.",
    "Truncation keeps the newest text to the token. The others keep whole pages, and the tail that fills none as text; what a "
    "uniform mode cannot hold is dropped, the oldest first.",
    "Fading: DeepSeek-OCR's figure by age (or tiers.ages), blurred further from the oldest page on where the budget asks for it. "
    "With rate control no page is kept in a mode in which it was read below the target.",
    "Recall is what the codec's decoder reads from the stored tokens; no language model answers questions here.",
)


def findings(rows: list[dict[str, Any]], ages: list[dict[str, Any]]) -> list[str]:
    """The tables in sentences: the best way at each budget, and where truncation is better."""
    notes = []
    for budget in dict.fromkeys(row["budget"] for row in rows if row["budget"] is not None):
        at = {row["way"]: row for row in rows if row["budget"] == budget}
        cut = at[TRUNCATION]
        best = max((row for row in at.values() if row["way"] != TRUNCATION), key=lambda row: row["exact_recall"])
        than = "more than" if best["exact_recall"] > cut["exact_recall"] else "no more than"
        notes.append(
            f"{budget:,} tokens: {best['way']} recalls {best['exact_recall']:.1%} exactly, {than} truncation "
            f"({cut['exact_recall']:.1%})."
        )
        for fades in (FADING, CONTROLLED):
            mine = at[fades]["exact_recall"]
            above = [f"{name} {row['exact_recall']:.1%}" for name, row in at.items() if row["exact_recall"] > mine]
            if above:
                notes.append(f"{budget:,} tokens: {fades} ({mine:.1%}) is beaten by {', '.join(above)}.")
        beaten = [name for name, row in at.items() if row["exact_recall"] < cut["exact_recall"]]
        if beaten:
            notes.append(f"{budget:,} tokens: truncation wins overall against {', '.join(beaten)}.")
        by_age = {row["way"]: row for row in ages if row["budget"] == budget}
        for band in BANDS:
            mine = by_age[TRUNCATION][band]
            losers = [
                f"{name} {row[band]:.0%}"
                for name, row in by_age.items()
                if mine is not None and row[band] is not None and row[band] < mine
            ]
            if losers:
                notes.append(f"{budget:,} tokens, {band}: truncation wins ({mine:.0%}) against {', '.join(losers)}.")
    return notes
