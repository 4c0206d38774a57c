"""Does a language model profit from visual memory? A small one is trained from nothing on chats in which old facts were stated.

Four contexts of the same chats, through `palimpsest conversations` and `palimpsest.Memory`:

    truncated   the last ids of the chat as text
    visual      old pages as visual tokens, the rest as text: as many ids
    control     the same with the visual tokens of another chat: what visual tokens do without what they say
    full text   all of the chat as text, several times as many ids: an upper bound

Each has models of its own, one per seed. The reply repeats the facts; its ids are scored by the age of its fact.
"""

from __future__ import annotations

import json
import os
import random
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from palimpsest import config as configs
from palimpsest.config import JobConfig, parse
from palimpsest.lab.bench.machine import machine
from palimpsest.lab.bench.use_chats import RECENT, Chat, consumer_of, make_chat, make_words, record_of
from palimpsest.lab.bench.use_training import Answer, SmallLM, Training, View, answers, context_of, of_another, train, truncated
from palimpsest.loading.consumer import TextConsumer
from palimpsest.loading.memory import Memory
from palimpsest.operations.conversations.build import build
from palimpsest.operations.conversations.settings import MemoryConfig

TRUNCATED, VISUAL, CONTROL, FULL = ARMS = ("truncated", "visual", "control", "full text")
GRID, MODE = "64x32", "tiny"
AGES = {"visual": ["1min tiny"], "text": ["99999d tiny"]}
DRAWS = 2000
NOTES = (
    "Every word has seven letters, so that each is inside one visual token; see lab/bench/use_chats.py. The models start from "
    "nothing and see the codec's stored tokens through a projector of two layers.",
    "Intervals: 95 %, bootstrap over seeds and chats. Chance: the share of exact answers of a model that knows which words can "
    "be the answer, and not which of them is.",
)


def bench_use(
    config: JobConfig,
    training: Training,
    *,
    chats: int = 512,
    tested: int = 96,
    pages: int = 2,
    recent_words: int = 40,
    kinds: int = 6,
    values: int = 16,
    seeds: int = 3,
) -> dict[str, Any]:
    """Loss and exact answers of each arm, by the age of the fact.

    Args:
        config: its codec and storage make the visual tokens.
        chats, tested: conversations for training and for the test.
        pages: of each conversation that are full, and old.
    """
    began = time.process_time()
    torch.set_num_threads(1)  # the same sums in every process
    draw = random.Random(0)
    words = make_words(kinds, values, 200, draw)
    sets = {
        name: [make_chat(f"{name} {n}", words, pages, recent_words, draw) for n in range(count)]
        for name, count in (("train", chats), ("test", tested))
    }
    reader = consumer_of(words)
    bands = {chat.id: chat.band for some in sets.values() for chat in some}
    with tempfile.TemporaryDirectory() as folder:
        places = _published(Path(folder), config, sets)
        memories = {key: Memory(place, tokenizer=reader, streams=8) for key, place in places.items()}
        made = time.process_time() - began
        budget, whole = (_longest_context(memories["test", kind]) for kind in ("visual", "text"))
        longest = _longest_context(memories["train", "text"]) + 2 * kinds + 8
        bench = _Bench(memories, reader, bands, training, budget, max(longest, whole + 2 * kinds + 8))
        resumed = bench.killed_and_resumed(Path(folder), steps=min(12, training.steps))
        found = {(arm, seed): bench.arm(arm, seed) for seed in range(seeds) for arm in ARMS}
    by_arm = {arm: [(seed, a) for seed in range(seeds) for a in found[arm, seed][1]] for arm in ARMS}
    rows = [_row(arm, by_arm[arm], whole if arm == FULL else budget) for arm in ARMS]
    ages = [*(f"page {number + 1}" for number in range(pages)), RECENT]
    parts = {value: [_by_age(arm, [a for _, a in by_arm[arm]], ages, value) for arm in ARMS] for value in ("exact", "loss")}
    undisturbed = found[VISUAL, 0][0][: len(resumed)]
    return {
        "codec": f"{config.codec.name}, {GRID} {MODE}, stored as {config.storage.tokens}",
        "parameters": sum(p.numel() for p in bench.model(0).parameters()),
        "chats": chats,
        "tested_chats": tested,
        "facts_of_a_chat": kinds,
        "chance": 1 / values,
        "seeds": seeds,
        "steps": training.steps,
        "killed_and_resumed": f"{len(resumed)} losses, the largest difference {_difference(resumed, undisturbed):g}",
        "cpu_seconds_to_make_the_sets": round(made, 1),
        "cpu_seconds": round(time.process_time() - began, 1),
        "rows": rows,
        "exact_by_age": parts["exact"],
        "loss_by_age": parts["loss"],
        "losses": {f"{arm} {seed}": [round(loss, 4) for loss in losses] for (arm, seed), (losses, _) in found.items()},
        "notes": [verdict(rows), *NOTES],
        "config": {**configs.to_json(config), "training": asdict(training)},
        "machine": machine(),
    }


def _difference(resumed: Sequence[float], undisturbed: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(resumed, undisturbed, strict=True))


class _Bench:
    """The four arms over the same sets."""

    def __init__(
        self,
        memories: dict[tuple[str, str], Memory],
        reader: TextConsumer,
        bands: dict[str, dict[str, str]],
        training: Training,
        budget: int,
        longest: int,
    ) -> None:
        self.memories, self.reader, self.bands, self.training, self.longest = memories, reader, bands, training, longest
        self.views: dict[str, tuple[str, View]] = {
            TRUNCATED: ("text", truncated(budget)),
            VISUAL: ("visual", list),
            CONTROL: ("visual", of_another),
            FULL: ("text", list),
        }

    def model(self, seed: int) -> SmallLM:
        torch.manual_seed(seed)
        token_dim = next(iter(self.memories["test", "visual"]))["example"].tokens[0].shape[1]
        return SmallLM(self.reader.tokenizer.get_vocab_size(), token_dim, self.longest, self.training)

    def arm(self, name: str, seed: int) -> tuple[list[float], list[Answer]]:
        """The losses of a training, and the answers to the test chats."""
        kind, view = self.views[name]
        model, memory = self.model(seed), self._dealt("train", kind, seed)
        losses = train(model, memory, view, self.training)
        return losses, list(answers(model, self.memories["test", kind], view, self.training, self.reader, self.bands))

    def _dealt(self, name: str, kind: str, seed: int) -> Memory:
        return Memory(self.memories[name, kind].uri, tokenizer=self.reader, seed=seed, streams=8)

    def killed_and_resumed(self, folder: Path, steps: int) -> list[float]:
        """The first losses of arm visual, seed 0, by a process that is killed with SIGKILL and one that continues."""
        saved = folder / "state.pt"
        kind, view = self.views[VISUAL]

        def go(stop: int) -> list[float]:
            return train(self.model(0), self._dealt("train", kind, 0), view, self.training, saved=saved, save_every=3, stop=stop)

        pid = os.fork()
        if not pid:
            try:
                go(self.training.steps)
            finally:
                os._exit(1)
        while not saved.exists():
            if os.waitpid(pid, os.WNOHANG)[0]:
                raise RuntimeError("the training that was to be killed ended by itself")
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return go(max(steps, len(torch.load(saved)["losses"]) + 3))


def _published(folder: Path, config: JobConfig, sets: dict[str, list[Chat]]) -> dict[tuple[str, str], str]:
    """Both forms of each set, as `palimpsest conversations` makes them."""
    places = {}
    for name, chats in sets.items():
        source = folder / f"{name}.jsonl"
        source.write_text("".join(json.dumps(record_of(chat)) + "\n" for chat in chats))
        for kind, ages in AGES.items():
            settings = configs.to_json(config) | {"sources": [str(source)], "out": str(folder / f"{name}-{kind}")}
            settings["layout"] |= {"grid": GRID}
            settings["tiers"] |= {"policy": "age", "ages": ages, "modes": []}
            settings["verification"] |= {"share": 0.0, "control_share": 0.0}
            settings["conversations"] = {"budget": 1_000_000, "targets": "last"}
            places[name, kind] = build(parse(settings, kind=MemoryConfig)).out
    return places


def _longest_context(memory: Memory) -> int:
    return max(context_of(sample["example"]) for sample in memory)


def _row(arm: str, found: Sequence[tuple[int, Answer]], context: int) -> dict[str, Any]:
    old = [(seed, a) for seed, a in found if a.band not in (None, RECENT)]
    low, high = _interval(old)
    return {
        "arm": arm,
        "context_ids": context,
        "exact_old_facts": _mean([a.exact for _, a in old]),
        "low": low,
        "high": high,
        "exact_recent_facts": _mean([a.exact for _, a in found if a.band == RECENT]),
        "loss_old_facts": _mean([a.loss for _, a in old]),
        "loss_recent_facts": _mean([a.loss for _, a in found if a.band == RECENT]),
        "loss_others": _mean([a.loss for _, a in found if a.band is None]),
    }


def _by_age(arm: str, found: Sequence[Answer], bands: Sequence[str], value: str) -> dict[str, Any]:
    return {"arm": arm, **{band: _mean([getattr(a, value) for a in found if a.band == band]) for band in bands}}


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _interval(found: Sequence[tuple[int, Answer]]) -> tuple[float, float]:
    """Of the exact share: seeds are drawn, then chats."""
    seeds, chats = sorted({seed for seed, _ in found}), sorted({a.chat for _, a in found})
    table = np.zeros((len(seeds), len(chats), 2))
    for seed, a in found:
        table[seeds.index(seed), chats.index(a.chat)] += (a.exact, 1)
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(DRAWS):
        some = table[rng.integers(0, len(seeds), len(seeds))][:, rng.integers(0, len(chats), len(chats))].sum((0, 1))
        shares.append(some[0] / some[1])
    return float(np.quantile(shares, 0.025)), float(np.quantile(shares, 0.975))


def verdict(rows: Sequence[dict[str, Any]]) -> str:
    """Better than both others means: the intervals do not meet."""
    by_arm = {row["arm"]: row for row in rows}
    visual = by_arm[VISUAL]
    beats = [visual["low"] > by_arm[other]["high"] for other in (TRUNCATED, CONTROL)]
    said = (
        f"Of facts outside the recent text, visual memory answers {visual['exact_old_facts']:.1%} exactly, truncation "
        f"{by_arm[TRUNCATED]['exact_old_facts']:.1%}, visual tokens of another chat {by_arm[CONTROL]['exact_old_facts']:.1%}, "
        f"the full text {by_arm[FULL]['exact_old_facts']:.1%}: "
    )
    if all(beats):
        return said + "visual memory is better than truncation at equal context, because of what its tokens say."
    return said + "no proof that visual memory is better than both truncation and the control."


def plot(result: dict[str, Any], path: Path) -> Sequence[Path]:
    """Exact answers by age with their chance level, and the loss of training, as PNG next to the file of the result."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (ages, curves) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for row, mark in zip(result["exact_by_age"], "osD^", strict=True):
        bands = [name for name in row if name != "arm"]
        ages.plot(range(len(bands)), [row[band] for band in bands], marker=mark, label=row["arm"])
    ages.axhline(result["chance"], color="gray", linestyle=":", label="chance")
    ages.set_xticks(range(len(bands)), [f"{band} (oldest)" if at == 0 else band for at, band in enumerate(bands)])
    ages.set_ylabel("facts answered exactly")
    ages.legend(fontsize=8)
    for row, color in zip(result["rows"], plt.rcParams["axes.prop_cycle"].by_key()["color"], strict=False):
        for seed in range(result["seeds"]):
            losses = np.array(result["losses"][f"{row['arm']} {seed}"])
            smooth = losses[: len(losses) // 10 * 10].reshape(-1, 10).mean(1) if len(losses) >= 20 else losses
            curves.plot(smooth, color=color, linewidth=1, label=row["arm"] if seed == 0 else None)
    curves.set_xlabel("steps" if len(losses) < 20 else "steps / 10")
    curves.set_ylabel("training loss")
    curves.legend(fontsize=8)
    target = path.with_name(f"{path.stem}_age.png")
    figure.savefig(target, dpi=110, metadata={"Software": None})
    plt.close(figure)
    return (target,)
