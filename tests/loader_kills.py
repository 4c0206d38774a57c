"""Ranks that are killed at random and resumed: python -m tests.loader_kills --kills 200 --write docs/results

Each trial is one epoch (or, of a mix, a fixed number of samples) by gloo ranks on this machine. Ranks save the state every few
steps and are killed with SIGKILL; other numbers of ranks and workers continue from the last state. A sample counts as delivered
when a saved state covers its step, as a training job rolls back to its checkpoint. In some trials the corpus is re-tiered, and
old snapshots are collected, between kill and resume.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from palimpsest.corpus.gc import gc
from palimpsest.loading.mix import Mix
from palimpsest.loading.pages import Pages
from palimpsest.loading.source import Reading, Source
from palimpsest.storage.local_store import LocalStore
from tests.loader_comparison import compare, delivered_by, in_turn
from tests.loader_corpora import publish_corpus, retier_corpus

STREAMS, SAVE_EVERY, MIXED_SAMPLES, LENGTH = 8, 3, 700, 700
WORLDS, WORKERS, KINDS = (1, 2, 4, 8), (0, 1, 2, 4), ("plain", "packed", "mixed")
STEPS = {"plain": 75, "packed": 24, "mixed": 175}  # of one rank, about
DEADLINE = 120.0  # seconds for one life of the ranks


@dataclass(frozen=True)
class Trial:
    """One epoch with its kills: a (world, workers) for each life of the ranks."""

    kind: str
    seed: int
    lives: tuple[tuple[int, int], ...]
    retier_after: int | None


def tokenizer() -> Any:
    """A word tokenizer that is made, not loaded."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<unk>": 0, "</s>": 1, "<pad>": 2, "<image>": 3, "word": 4, "page": 5, "of": 6, "document": 7}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


def source_of(kind: str, root: Path, seed: int) -> Source:
    """The source of a trial, over the newest snapshots."""
    pages = Pages(root / "a", seed=seed, streams=STREAMS, window_bytes=120_000)
    if kind == "packed":
        return pages.packed(LENGTH, tokenizer())
    if kind == "mixed":
        return Mix({pages: 2, Pages(root / "b", where="tier != 'text'"): 1}, seed, STREAMS, 150_000)
    return pages


def names(sample: dict[str, Any]) -> list[str]:
    return list(sample["ids"]) if "ids" in sample else [sample["page_id"]]


def ids_of_epoch(trial: Trial, root: Path) -> list[list[str]]:
    """What the trial must deliver, by stream."""
    return undisturbed(source_of(trial.kind, root, trial.seed), MIXED_SAMPLES if trial.kind == "mixed" else None)


def undisturbed(source: Source, samples: int | None) -> list[list[str]]:
    """The ids of each stream in order, of one epoch or, of an endless source, at least the first `samples` of all streams."""
    found = []
    for number in range(source.streams):
        ids: list[str] = []
        for item, _ in source.stream(number, source.start(0), Reading()):
            ids += names(source.finish(item))
            if samples is not None and len(ids) >= samples:
                break
        found.append(ids)
    return found


def rank_main(kind: str, root: Path, seed: int, life: Path, rank: int, world: int, workers: int, done: int) -> None:
    """One rank: read, log, save, until the epoch (or the mix's samples) ends."""
    import torch
    import torch.distributed as dist

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{life}/meet", rank=rank, world_size=world, timeout=timedelta(seconds=DEADLINE)
    )
    began = time.monotonic()
    loader = source_of(kind, root, seed).loader(4 if kind != "packed" else 2, num_workers=workers, rank=rank, world=world)
    if (root / "state.json").exists():
        loader.load_state_dict(json.loads((root / "state.json").read_text())["loader"])
    batches, step = iter(loader if loader.epoch == 0 else ()), 0  # the last state may be that of the whole epoch
    with (life / f"log-{rank}").open("w") as log:
        while True:
            batch = next(batches, None)
            if step == 0:
                (life / f"first-{rank}").write_text(str(time.monotonic() - began))
            ids = [] if batch is None else batch.get("page_id") or [i for some in batch["ids"] for i in some]
            log.write(json.dumps([step, ids]) + "\n")
            log.flush()
            step += 1
            totals = torch.tensor([float(batch is not None), float(len(ids))])
            dist.all_reduce(totals)
            done += int(totals[1])
            over = totals[0] == 0 or (kind == "mixed" and done >= MIXED_SAMPLES)
            if step % SAVE_EVERY == 0 or over:
                state = loader.state_dict()
                everyone: list[Any] = [None] * world
                dist.all_gather_object(everyone, json.dumps(state))
                assert len(set(everyone)) == 1, "states differ between ranks"
                if rank == 0:
                    beside = root / "state.tmp"
                    record = {"loader": state, "life": life.name, "step": step, "done": done, "over": bool(over)}
                    beside.write_text(json.dumps(record))
                    beside.replace(root / "state.json")
            if over:
                return


def run_life(trial: Trial, root: Path, number: int, rng: random.Random, *, kill: bool) -> Counter[str]:
    """One life of the ranks; with `kill`, some are killed after a random number of steps, and then the others."""
    world, workers = trial.lives[number]
    life = root / f"life-{number}"
    life.mkdir()
    if (root / "state.json").exists():
        shutil.copy(root / "state.json", life / "begun.json")
    saved = json.loads((root / "state.json").read_text()) if (root / "state.json").exists() else {"done": 0}
    pids = []
    for rank in range(world):
        pid = os.fork()
        if not pid:
            code = 1
            try:
                os.dup2(os.open(life / f"stderr-{rank}", os.O_WRONLY | os.O_CREAT), 2)
                rank_main(trial.kind, root, trial.seed, life, rank, world, workers, saved["done"])
                code = 0
            except BaseException as error:
                (life / f"error-{rank}").write_text(f"{type(error).__name__}: {error}")
            finally:
                os._exit(code)
        pids.append(pid)
    facts: Counter[str] = Counter()
    until, began = DEADLINE, time.monotonic()
    target = rng.randrange(0, max(1, min(14, STEPS[trial.kind] // world)))
    victims = rng.sample(range(world), rng.randint(1, world)) if kill else []
    alive = dict(zip(pids, range(world), strict=True))
    while alive:
        for pid in list(alive):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                rank = alive.pop(pid)
                if status and not facts["killed"]:
                    for other in alive:
                        os.kill(other, signal.SIGKILL)
                    raise AssertionError(f"rank {rank} of {trial} failed: {(life / f'error-{rank}').read_text()}")
        if victims and steps_of(life / f"log-{victims[0]}") >= target:
            time.sleep(rng.random() * 0.03)
            for rank in victims:
                if pids[rank] in alive:
                    os.kill(pids[rank], signal.SIGKILL)
                    facts["killed"] += 1
            for pid, rank in alive.items():
                if rank not in victims:
                    os.kill(pid, signal.SIGKILL)  # what a launcher does with the ranks that are left
            victims = []
        if time.monotonic() - began > until:
            raise AssertionError(f"the ranks of {trial}, life {number}, did not end in {DEADLINE} s")
        time.sleep(0.005)
    return facts


def steps_of(log: Path) -> int:
    return log.read_bytes().count(b"\n") if log.exists() else 0


def delivered(root: Path, lives: int) -> list[str]:
    """All ids that a saved state covers, in order of lives, ranks and steps."""
    covered: dict[str, int] = json.loads((root / "covered.json").read_text())
    found: list[str] = []
    for number in range(lives):
        life = root / f"life-{number}"
        for log in sorted(life.glob("log-*")):
            found += delivered_by(log, covered.get(life.name, 0))
    return found


def out_of_order(expected: list[list[str]], trial: Trial, root: Path, lives: int) -> int:
    """Ranks whose covered samples are others, or in another order, than an undisturbed loader gives from the same state on."""
    covered: dict[str, int] = json.loads((root / "covered.json").read_text())
    wrong = 0
    for number in range(lives):
        life, world = root / f"life-{number}", trial.lives[number][0]
        start = life / "begun.json"
        begun = json.loads(start.read_text())["loader"]["delivered"] if start.exists() else [0] * len(expected)
        for rank in range(world):
            found = delivered_by(life / f"log-{rank}", covered.get(life.name, 0))
            wrong += found != list(islice(in_turn(expected, begun, rank, world), len(found)))
    return wrong


def run_trial(trial: Trial, root: Path) -> dict[str, Any]:
    """Run a trial and compare it with an undisturbed epoch; `lost`, `repeated` and `out_of_order` count what differs."""
    rng = random.Random(trial.seed)
    for name in ("a", "b"):
        publish_corpus(root / name, units=5 if name == "a" else 3, documents=20)
    expected = ids_of_epoch(trial, root)
    facts: Counter[str] = Counter()
    covered: dict[str, int] = {}
    lives = 0
    for number in range(len(trial.lives)):
        facts += run_life(trial, root, number, rng, kill=number + 1 < len(trial.lives))
        lives += 1
        state = json.loads((root / "state.json").read_text()) if (root / "state.json").exists() else None
        if state is not None:
            covered[state["life"]] = state["step"]
            if state["over"]:
                break
        if trial.retier_after == number:
            retier_corpus(root / "a", {1, 3}, units=5, documents=20)
            removed = gc(
                LocalStore(root / "a"), unused_for=timedelta(0), now=datetime.now(UTC) + timedelta(seconds=1), delete=True
            )
            facts["retier"] += 1
            facts["objects removed"] += len(removed)
            if state is None:  # nothing to continue: the epoch begins on the new snapshot, dealt by its own sizes
                expected = ids_of_epoch(trial, root)
    (root / "covered.json").write_text(json.dumps(covered))
    found = delivered(root, lives)
    final = json.loads((root / "state.json").read_text())["loader"]["delivered"]
    differs = compare(trial.kind, expected, found, final)
    if trial.kind != "packed":  # sequences are packed anew where a re-tiering changed the length of samples
        differs["out_of_order"] += out_of_order(expected, trial, root, lives)
    firsts = {path: float(path.read_text()) for path in root.glob("life-*/first-*") if path.read_text()}
    resumed: dict[int, list[float]] = {}  # by world; a life may be killed before its first batch
    for number in range(1, lives):
        of_life = [seconds for path, seconds in firsts.items() if path.parent.name == f"life-{number}"]
        resumed.setdefault(trial.lives[number][0], []).extend([max(of_life)] if of_life else [])
    named = {"kind": trial.kind, "seed": trial.seed, "ranks x workers": ", ".join(f"{w} x {n}" for w, n in trial.lives[:lives])}
    counts = {"killed": facts["killed"], "retier": facts["retier"], "lives_run": lives, "samples": len(found)}
    return {**named, **counts, **differs, "resume_seconds": resumed}


def trials(kills: int, seed: int) -> list[Trial]:
    """Trials with about so many kills, every kind, world and number of workers among them."""
    rng = random.Random(seed)
    made: list[Trial] = []
    while sum(len(trial.lives) - 1 for trial in made) < kills:
        lives = tuple((rng.choice(WORLDS), rng.choice(WORKERS)) for _ in range(rng.randint(2, 4)))
        lives = tuple((world, workers if world < 8 else min(workers, 1)) for world, workers in lives)
        retier = rng.randrange(len(lives) - 1) if rng.random() < 0.4 else None
        made.append(Trial(KINDS[len(made) % 3], rng.randrange(1 << 30), lives, retier))
    return made


def listed(counts: Counter[Any]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))


def resumes(results: list[dict[str, Any]], worlds: tuple[int, ...]) -> dict[str, Any]:
    """Seconds from opening the corpus to the first batch of the slowest rank, in lives that continue a killed one."""
    seconds = [x for r in results for world, some in r["resume_seconds"].items() if world in worlds for x in some]
    slow = sum(x > 2 for x in seconds)
    median, at_most = (round(of(seconds), 3) if seconds else None for of in (statistics.median, max))
    return {
        "ranks": str(worlds[0]) if len(worlds) == 1 else "all",
        "resumes": len(seconds),
        "median seconds": median,
        "seconds at most": at_most,
        "over two seconds": slow,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    results: list[dict[str, Any]] = []
    killed = 0
    while killed < options.kills:
        for trial in trials(options.kills - killed, options.seed + len(results)):
            root = Path(tempfile.mkdtemp())
            try:
                results.append(run_trial(trial, root))
            finally:
                shutil.rmtree(root)
            killed += results[-1].get("killed", 0)
            print(f"{killed} kills: {trial} {results[-1]['samples']} samples", flush=True)
            if killed >= options.kills:
                break
    lives = [tuple(map(int, life.split(" x "))) for r in results for life in r["ranks x workers"].split(", ")]
    summary = {
        "epochs compared": len(results),
        "epochs without a kill": sum(not r["killed"] for r in results),
        "kills": killed,
        "lives by ranks": listed(Counter(ranks for ranks, _ in lives)),
        "lives by workers": listed(Counter(workers for _, workers in lives)),
        "epochs by kind": listed(Counter(r["kind"] for r in results)),
        "retiers with gc between kill and resume": sum(r["retier"] for r in results),
        "samples": sum(r["samples"] for r in results),
        "lost": sum(r["lost"] for r in results),
        "repeated": sum(r["repeated"] for r in results),
        "streams and ranks out of order": sum(r["out_of_order"] for r in results),
        "resumes": [
            found for worlds in (*((world,) for world in WORLDS), WORLDS) if (found := resumes(results, worlds))["resumes"]
        ],
    }
    print(json.dumps(summary, indent=1))
    if options.write:
        from palimpsest.lab.bench.machine import write_results

        command = f"python -m tests.loader_kills --kills {options.kills} --seed {options.seed}"
        print(write_results("loader-kills", {**summary, "results": results}, options.write, command=command))
    if summary["lost"] or summary["repeated"] or summary["streams and ranks out of order"]:
        sys.exit("the loader lost, repeated or reordered samples")


if __name__ == "__main__":
    main()
