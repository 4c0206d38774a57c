"""Killed ranks, resumed by others: nothing lost, nothing twice, every stream in order. python -m tests.loader_kills does 200."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.loader_comparison import compare, in_turn
from tests.loader_kills import Trial, run_trial

TRIALS = [
    Trial("plain", 11, ((2, 1), (4, 0), (1, 2)), 0),
    Trial("packed", 12, ((4, 0), (1, 4), (2, 0)), None),
    Trial("mixed", 13, ((1, 2), (2, 0), (4, 0)), 0),
    Trial("packed", 14, ((1, 0), (8, 0), (2, 1)), 1),
    Trial("plain", 15, ((8, 0), (1, 1), (2, 2)), None),
    Trial("mixed", 16, ((4, 0), (1, 1), (1, 0)), 1),
]


@pytest.mark.slow
@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: f"{trial.kind}-{trial.seed}")
def test_nothing_is_lost_or_repeated_by_kills(trial: Trial, tmp_path: Path) -> None:
    result = run_trial(trial, tmp_path)
    assert (result["lost"], result["repeated"], result["out_of_order"]) == (0, 0, 0) and result["samples"] > 100
    assert result.get("killed", 0) or result["lives_run"] == 1


@pytest.mark.parametrize(
    ("kind", "found", "differs"),
    [
        ("plain", ["a", "b", "c", "d"], (0, 0, 0)),
        ("plain", ["a", "b", "c"], (1, 0, 1)),
        ("plain", ["a", "b", "c", "d", "d"], (0, 1, 1)),
        ("packed", ["b", "a", "c", "d"], (0, 0, 1)),
        ("mixed", ["a", "c", "d"], (0, 0, 0)),
        ("mixed", ["a", "b", "c"], (1, 1, 0)),
    ],
)
def test_the_comparison_sees_what_is_wrong(kind: str, found: list[str], differs: tuple[int, int, int]) -> None:
    seen = compare(kind, [["a", "b"], ["c", "d"]], found, [1, 2])
    assert (seen["lost"], seen["repeated"], seen["out_of_order"]) == differs


def test_streams_take_turns_from_where_they_were() -> None:
    assert list(in_turn([["a", "b", "c"], ["x"], ["d", "e"]], [1, 0, 0], 0, 2)) == ["d", "b", "e", "c"]
