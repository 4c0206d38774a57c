"""Killed ranks, resumed by others: nothing lost, nothing twice, every stream in order. python -m tests.loader_kills does 200."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.loader_kills import Trial, check, run_trial

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
    assert result.get("killed", 0) or result["lives_run"] == 1


@pytest.mark.parametrize(
    ("found", "complaint"),
    [
        (["a", "b", "c"], "lost"),
        (["a", "b", "c", "d", "d"], "repeated"),
        (["b", "a", "c", "d"], "out of order"),
    ],
)
def test_the_comparison_sees_what_is_wrong(found: list[str], complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check(Trial("plain", 0, (), None), [["a", "b"], ["c", "d"]], found)
