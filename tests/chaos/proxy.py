"""Which request of a pass meets which fault.

The fate of the n-th request of a step hangs on the seed, the pass, the step and n, and on nothing else: not on the order in which
threads or other passes get through. Two faults of their own beside those of `FaultProxy`: the driver is killed before the server
sees a request, after the server has acted and before the driver knows, or a moment later, while it computes.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from tests.fault_proxy import Fault, FaultProxy

KILLS = ("kill before", "kill after", "kill between")
_ANY = {"refuse": 3, "busy": 2, "error": 2, "busy burst": 1, "error burst": 1, "delay": 1, "lost": 4, "failed": 3, "hang": 0.3}
WEIGHTS = {
    "GET": {**_ANY, "truncate": 3, "reset": 3, "flip": 4, "expired": 0.2},
    "PUT": {**_ANY, "lost": 8, "failed": 4, "flip_sent": 4, "expired": 0.2},
}
_VERBS = {"GET": "read", "PUT": "write", "HEAD": "look for", "DELETE": "delete", "POST": "post"}
HANG_SECONDS = 2.5  # more than the passes' patience for one byte
BURST = (3, 9)  # requests that a burst answers, whatever they are; four tries of one are all that a pass has


@dataclass(frozen=True)
class KillPlan:
    """Kill the driver at the `number`-th request of `step`; `when` is one of KILLS."""

    step: str
    when: str
    number: int = 0


def step_of(method: str, path: str) -> str:
    """What a request does, e.g. "write _units", "read in" or "list _snapshots": the steps of the protocol."""
    url = urlsplit(path)
    query = parse_qs(url.query)
    verb, key = _VERBS.get(method, method.lower()), unquote(url.path)
    if "list-type" in query or "uploads" in query:
        verb, key = "list", "/" + query.get("prefix", [""])[0]
    for root in ("in", "corpus"):
        _, found, rest = key.partition(f"/{root}/")
        if found:
            return f"{verb} {root}" if root == "in" else f"{verb} {rest.partition('/')[0] or 'everything'}"
    return f"{verb} bucket"


class ChaosProxy(FaultProxy):
    """A proxy for one pass after the other. `faults` counts what was done, `killed` where drivers were killed."""

    def __init__(self, upstream: str, seed: int) -> None:
        super().__init__(upstream)
        self.seed = seed
        self.faults: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()
        self.killed: Counter[tuple[str, str]] = Counter()
        self.requests = 0
        self.arm("", 0.0)

    def arm(self, name: str, share: float, kills: Sequence[KillPlan] = (), end: Callable[[], None] = lambda: None) -> None:
        """Begin with the pass `name`: `share` of its requests meet a fault; the first of `kills` that comes true calls `end`."""
        self._name, self._chance, self._end = name, share, end
        self._plans = {(plan.step, plan.number): plan for plan in kills}
        self.steps = Counter()
        self._burst: tuple[str, int] | None = None

    def spare(self) -> None:
        """No fault from here on."""
        self.arm("", 0.0)

    def _fate(self, method: str, path: str) -> Fault | None:
        with self._lock:
            step = step_of(method, path)
            number = self.steps[step]
            self.steps[step] += 1
            self.requests += 1
            if self._burst:
                kind, left = self._burst
                self._burst = (kind, left - 1) if left > 1 else None
                return Fault(kind)
            plan = self._plans.get((step, number))
            if plan:
                self._plans = {}
                self.faults[plan.when] += 1
                self.killed[step, plan.when] += 1
                return self._kills(plan)
            dice = random.Random(f"{self.seed}/{self._name}/{step}/{number}")
            if dice.random() >= self._chance:
                return None
            weights = WEIGHTS.get(method, _ANY)
            kind = dice.choices(list(weights), list(weights.values()))[0]
            self.faults[kind] += 1
            if kind.endswith(" burst"):
                kind = kind.removesuffix(" burst")
                self._burst = kind, dice.randint(*BURST) - 1
            return Fault(kind, at=dice.randrange(1 << 16), seconds=HANG_SECONDS if kind == "hang" else dice.random() / 2)

    def _kills(self, plan: KillPlan) -> Fault:
        end = self._end
        if plan.when == "kill before":
            return Fault("refuse", harm=end)
        if plan.when == "kill after":
            return Fault("lost", harm=end)
        pause = random.Random(f"{self.seed}/{self._name}/{plan}").random() / 20
        return Fault("delay", seconds=0.0, harm=lambda: threading.Timer(pause, end).start())
