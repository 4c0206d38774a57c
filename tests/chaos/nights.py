"""Episodes: a corpus, and some nights in which passes are killed and starved until what changed is published.

A night: the world changes; a corpus in peace takes it in; the other one does under fire, pass after pass as a scheduler would run
them, sometimes two at once; then one pass without faults, as the next quiet night brings it, and the verdict.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from palimpsest.config import parse, to_toml
from palimpsest.storage.object_store import ObjectStore
from palimpsest.storage.opening import open_store
from tests.chaos.passes import CRASHED, KILLED, TRIES, Pass
from tests.chaos.proxy import KILLS, ChaosProxy, KillPlan
from tests.chaos.verdict import Verdict, judge, swept
from tests.chaos.world import World
from tests.s3_servers import ACCESS_KEY, SECRET_KEY, S3Server

SHARES = (0.04, 0.15, 0.3)  # of the requests of a pass that meet a fault
KILLED_SHARE = 0.65  # of the passes
PAIRED_SHARE = 0.25  # of the passes that have a second one beside them
PLACES = 3  # where a pass may be killed; it does not come to all of them
MOST_PASSES = 8  # of a night under fire
STEPS = ("list in", "read in", "write corpus.json", "write data", "write _units", "write _snapshots")  # more are learnt


class Failed(AssertionError):
    """Chaos found something; the message says what and how to get there again."""


@dataclass
class Tally:
    """What was done to the corpora, and what became of them."""

    faults: Counter[str] = field(default_factory=Counter)
    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    workers: Counter[str] = field(default_factory=Counter)
    rounds: Counter[str] = field(default_factory=Counter)
    verdicts: list[Verdict] = field(default_factory=list)
    planned: Counter[tuple[str, str]] = field(default_factory=Counter)
    requests: int = 0
    searched: int = 0

    @property
    def total(self) -> int:
        return sum(self.faults.values())

    def take(self, proxy: ChaosProxy) -> None:
        """Move a proxy's counts over."""
        self.faults += proxy.faults
        self.kills += proxy.killed
        self.requests += proxy.requests
        for step, number in proxy.steps.items():
            self.steps[step] = max(self.steps[step], number)
        proxy.faults.clear()
        proxy.killed.clear()
        proxy.requests = 0

    def next_kills(self, dice: random.Random) -> list[KillPlan]:
        """Where drivers died, and were sent to die, least often so far; the first of these that a pass comes to ends it."""
        places = [(step, when) for step in sorted({*STEPS, *self.steps}) for when in KILLS]
        dice.shuffle(places)
        places.sort(key=lambda place: 4 * self.kills[place] + self.planned[place])
        self.planned.update(places[:PLACES])
        later = dice.random() < 0.5
        return [KillPlan(step, when, dice.randrange(max(1, self.steps[step])) if later else 0) for step, when in places[:PLACES]]


@dataclass
class Arena:
    """Where it happens.

    Attributes:
        server: the S3 server; this process's AWS settings point to it.
        proxies: one for each of two passes at once.
        codec: folder of the tiny checkpoint.
        folder: for job files and what passes say.
    """

    server: S3Server
    proxies: tuple[ChaosProxy, ChaosProxy]
    codec: Path
    folder: Path
    seed: int

    def environment(self, proxy: ChaosProxy | None) -> dict[str, str]:
        return {**self.server.environment(proxy.url if proxy else None), "AWS_MAX_ATTEMPTS": str(TRIES)}


class Episode:
    """One corpus under fire beside one in peace; `changes` times as much happens in a night."""

    kind = "light"
    changes = 1

    def __init__(self, arena: Arena, number: int, tally: Tally, *settings: str) -> None:
        self.arena, self.number, self.tally = arena, number, tally
        self.dice = random.Random(f"{arena.seed}/episode {number}")
        self.place = arena.server.new_place()
        self.prefix = f"{self.place}/in/"
        source = open_store(self.prefix)
        self.world = World(self.dice.randrange(1 << 30), source.put, source.delete)
        self.jobs = {name: self._job(name, *settings) for name in ("corpus", "peace")}
        self.passes = 0

    def _job(self, name: str, *settings: str) -> Path:
        values: dict[str, Any] = {
            "sources": [self.prefix],
            "out": f"{self.place}/{name}",
            "codec": {"path": str(self.arena.codec)},
            "verification": {"share": 0.1, "control_share": 0.0},
            "ingest": {"vanished": "drop", "drop_share": 1.0, "batch_units": 3},
            "limits": {"quarantine_share": 0.9},
            "placement": {"threads_per_worker": 1},
        }
        path = self.arena.folder / f"{self.kind}-{self.number}-{name}.toml"
        path.write_text(to_toml(parse(values, settings)))
        return path

    def store(self, name: str) -> ObjectStore:
        return open_store(f"{self.place}/{name}")

    def run(self, nights: int, enough: Callable[[], bool]) -> None:
        """Go through the nights, or as many as it takes. Raises Failed."""
        for night in range(nights):
            for _ in range(self.changes if night else 0):
                self.world.night()
            self._in_peace("peace", "light")
            self._under_fire(night)
            self._in_peace("corpus", "light")
            self._judge(night)
            if enough():
                break
        for found in [*swept(self.store("corpus")), *self._secrets()]:
            raise self._failed(found)
        self._judge(nights)  # nothing that is needed went with gc
        self.tally.rounds[f"{self.kind} episodes"] += 1

    def _judge(self, night: int) -> None:
        verdict = judge(self.store("corpus"), self.store("peace"), self.world.documents(), self.prefix)
        self.tally.verdicts.append(verdict)
        if not verdict.clean:
            raise self._failed(f"after night {night}: {verdict.to_json()}")

    def _secrets(self) -> list[str]:
        """Where the keys of the S3 server stand: in nothing that a pass said, and in nothing that it stored."""
        store = self.store("corpus")
        said = [(path.name, path.read_bytes()) for path in self.arena.folder.glob(f"{self.kind}-{self.number}-*")]
        stored = [(info.key, store.read(info.key)) for info in store.list() if not info.key.endswith(".parquet")]
        self.tally.searched += len(said) + len(stored)
        secrets = (ACCESS_KEY.encode(), SECRET_KEY.encode())
        return [f"{name} holds a secret" for name, body in (*said, *stored) if any(secret in body for secret in secrets)]

    def _failed(self, what: str) -> Failed:
        arena = self.arena
        return Failed(f"seed {arena.seed}, {self.kind} episode {self.number}: {what}\nwhat the passes said: {arena.folder}")

    def _in_peace(self, name: str, kind: str) -> None:
        """One pass without faults, through no proxy."""
        one = self._start(kind, name, None)
        if (code := one.wait()) not in (0, 3):
            raise self._failed(f"a pass without faults ended with {code}: {one.complaint()}")

    def _start(self, kind: str, name: str, proxy: ChaosProxy | None) -> Pass:
        self.passes += 1
        said = self.arena.folder / f"{self.kind}-{self.number}-{self.passes:03d}-{name}"
        return Pass(kind, self.jobs[name], said, self.arena.environment(proxy))

    def _under_fire(self, night: int) -> None:
        self.tally.rounds[f"{self.kind} nights"] += 1
        for attempt in range(MOST_PASSES):
            pair = self.dice.random() < PAIRED_SHARE
            fought = [self._armed(proxy, f"{self.number}/{night}/{attempt}/{n}") for n, proxy in enumerate(self._proxies(pair))]
            codes = [one.wait() for one in fought]
            for proxy in self._proxies(pair):
                self.tally.take(proxy)
                proxy.spare()
            self.tally.rounds["two passes at once"] += pair
            for one, code in zip(fought, codes, strict=True):
                self._note(one, code)
            if 0 in codes and attempt >= self.dice.randrange(3):
                return

    def _proxies(self, pair: bool) -> tuple[ChaosProxy, ...]:
        return self.arena.proxies if pair else self.arena.proxies[:1]

    def _armed(self, proxy: ChaosProxy, name: str) -> Pass:
        kills = self.tally.next_kills(self.dice) if self.dice.random() < KILLED_SHARE else []
        victim: list[Pass] = []
        proxy.arm(name, self.dice.choice(SHARES), kills, lambda: victim[0].kill())
        victim.append(self._start(self.kind, "corpus", proxy))
        return victim[0]

    def _note(self, one: Pass, code: int) -> None:
        named = {0: "done", 1: "failed, to be run again", 3: "done, with findings", KILLED: "killed"}
        self.tally.rounds[f"{self.kind} passes under fire"] += 1
        if code == CRASHED or code not in named:
            raise self._failed(f"pass {one.said.name} ended with {code}: {one.complaint()}")
        self.tally.ended[named[code]] += 1
