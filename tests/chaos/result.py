"""The counts as a result: what was injected, where drivers died, how passes ended, what was found."""

from __future__ import annotations

from typing import Any

from tests.chaos.nights import Tally
from tests.chaos.proxy import KILLS


def as_result(tally: Tally, *, seed: int, seconds: float) -> dict[str, Any]:
    """A result as `palimpsest.lab.bench.machine` writes it."""
    verdicts = tally.verdicts
    steps = sorted({step for step, _ in tally.kills} | set(tally.steps))
    return {
        "command": "make chaos" if seed == 1 else f'make chaos CHAOS="--seed {seed}"',
        "faults": tally.total,
        "kinds": len(tally.faults),
        "seed": seed,
        "seconds": round(seconds, 1),
        "requests": tally.requests,
        "corpora_judged": len(verdicts),
        "pages_judged": sum(verdict.pages for verdict in verdicts),
        "documents_judged": sum(verdict.documents for verdict in verdicts),
        "quarantined_judged": sum(verdict.quarantined for verdict in verdicts),
        **{name: sum(getattr(verdict, name) for verdict in verdicts) for name in ("lost", "doubled", "different", "foreign")},
        "fsck_findings": 0,
        "logs_and_records_searched_for_secrets": tally.searched,
        "secrets_found": 0,
        "injected": [{"fault": kind, "times": times} for kind, times in tally.faults.most_common()],
        "drivers_killed": [
            {"step": step, **{when: tally.kills[step, when] for when in KILLS}} for step in steps if _killed(tally, step)
        ],
        "workers_killed_while_at": [{"stage": stage, "times": times} for stage, times in tally.workers.most_common()],
        "passes": [{"ended": how, "times": times} for how, times in tally.ended.most_common()],
        "rounds": [{"what": what, "times": times} for what, times in tally.rounds.items()],
        "steps_without_a_kill": ", ".join(step for step in steps if not _killed(tally, step)) or "none",
    }


def _killed(tally: Tally, step: str) -> int:
    return sum(tally.kills[step, when] for when in KILLS)
