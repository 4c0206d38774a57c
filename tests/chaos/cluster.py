"""Nights through Ray on two nodes: workers are killed while they work, the second node is killed with all it runs, drivers die.

The requests of the drivers and of all workers go through one proxy, so storage faults meet both.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.chaos.nights import Arena, Episode, Tally
from tests.chaos.passes import Pass
from tests.paths import PYTHONPATH
from tests.test_cluster import NODE, TwoNodes, descendants, end, processes, raylet

SHARES = (0.0, 0.01, 0.03)  # workers wait in earnest between tries, and Ray asks often
MOST_PASSES = 5
PLANS = (  # whom a pass loses, one after the other, as long as it runs
    ("worker", "worker", "node", "worker"),
    ("worker", "node", "driver"),
    ("worker", "worker", "worker", "worker"),
    ("node", "worker", "driver"),
)
START_TRIES = 5
POLL_SECONDS = 0.05


@contextmanager
def two_nodes(arena: Arena) -> Iterator[TwoNodes]:
    """A head and a second node, whose processes talk to the S3 server through the first proxy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", PYTHONPATH)
        patch.setenv("RAY_worker_niceness", "0")  # 15 by default: beside other work they would hardly run
        patch.delenv("RAY_ADDRESS", raising=False)
        for name, value in arena.environment(arena.proxies[0]).items():
            patch.setenv(name, value)
        before = set(descendants(os.getpid()))
        nodes = TwoNodes()
        try:
            with pytest.MonkeyPatch.context() as direct:
                for name, value in arena.environment(None).items():
                    direct.setenv(name, value)
                yield nodes
        finally:
            nodes.close()
            end([pid for pid in descendants(os.getpid()) if pid not in before and _of_ray(pid)])


class ClusterEpisode(Episode):
    """A corpus whose passes run through Ray."""

    kind = "ray"
    changes = 4

    def __init__(self, arena: Arena, number: int, tally: Tally, nodes: TwoNodes) -> None:
        self.nodes = nodes
        spread = ("placement.cpus_per_worker=0.25", "placement.render_batch=2", "placement.shard_batch=4")
        super().__init__(
            arena,
            number,
            tally,
            f"placement.address={nodes.cluster.address}",
            *spread,
            "ingest.batch_units=100",
            "verification.share=1.0",
        )
        for _ in range(self.changes):  # enough to do for a worker to be met at it
            self.world.night()

    def _under_fire(self, night: int) -> None:
        self.tally.rounds["ray nights"] += 1
        proxy = self.arena.proxies[0]
        for attempt in range(MOST_PASSES):
            plan = list(PLANS[self.tally.rounds["ray passes under fire"] % len(PLANS)])
            proxy.arm(f"ray {self.number}/{night}/{attempt}", self.dice.choice(SHARES))
            one = self._start("ray", "corpus", proxy)
            self._harass(one, plan)
            code = one.wait()
            self.tally.take(proxy)
            proxy.spare()
            self._mend()
            self._note(one, code)
            if code == 0:
                return

    def _harass(self, one: Pass, plan: list[str]) -> None:
        """Kill what the plan names, each a while after work was seen and, once one was killed, seen again."""
        dice = random.Random(f"{self.arena.seed}/{one.said.name}")
        while plan and one.running:
            busy = self._busy()
            if busy:
                time.sleep(dice.random() / 2)
                self._kill(plan.pop(0), one, dice)
            time.sleep(POLL_SECONDS)

    def _kill(self, what: str, one: Pass, dice: random.Random) -> None:
        busy = self._busy()
        if not one.running or not busy:
            return
        if what == "worker":
            pid = dice.choice(sorted(busy))
            end([pid])
            self.tally.workers[busy[pid]] += 1
        elif what == "node":
            if not self.nodes.second:
                return
            self.nodes.kill_second()
            self.nodes.second = None
        else:
            one.kill()
        self.tally.faults[f"kill {what}"] += 1

    def _busy(self) -> dict[int, str]:
        """The workers of both nodes that hold a stage or run a task of ours: process and what."""
        every = processes()
        nodes = [node for node in (self.nodes.cluster.head_node, self.nodes.second) if node]
        found = {}
        for pid in (pid for node in nodes for pid in descendants(raylet(node))):
            name = re.match(r"ray::.*?(document_ids|EncodeWorker|VerifyWorker|MapBatches\(\w+\))", every.get(pid, (0, ""))[1])
            if name:
                found[pid] = name[1]
        return found

    def _mend(self) -> None:
        """A second node in place of one that was killed; again where it does not come up in the half minute that Ray gives it."""
        for tries_left in reversed(range(START_TRIES)):
            if self.nodes.second:
                return
            try:
                self.nodes.second = self.nodes.cluster.add_node(**NODE)
            except Exception as error:  # Ray raises nothing more special
                if not tries_left or "timed out during startup" not in str(error):
                    raise


def _of_ray(pid: int) -> bool:
    return "ray" in processes().get(pid, (0, ""))[1]
