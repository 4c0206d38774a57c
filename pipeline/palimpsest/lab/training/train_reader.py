"""Training the cell reader alone, on the tokens of a frozen encoder: published corpora stay readable (decision 0039).

Pages of every kind of writing (`writing.py`) in every blend of grid and mode; their tokens are made once and learned from many
times. The weights are written only where no class is read worse than by those that the run began with (`reader_errors.py`).
"""

from __future__ import annotations

import json
import math
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors.torch import save_file

from palimpsest import config as configs
from palimpsest.codecs.adapter import load_codec
from palimpsest.codecs.embedded.cell_reader import DIRECTIONS, FILE, CellReader, load_reader
from palimpsest.lab.training.codec_pages import BALANCED, PageSampler
from palimpsest.lab.training.frozen_pages import FrozenPages
from palimpsest.lab.training.packed import pack_weights
from palimpsest.lab.training.reader_errors import Errors, measure, temperature, worse
from palimpsest.lab.training.reader_prior import correct, letter_prior
from palimpsest.lab.training.trainee import has_bf16
from palimpsest.settings import Count, Settings


class WorseWeights(ValueError):
    """New weights read some class worse than the old ones."""


class ReaderBlend(Settings):
    """A share of the steps: one grid in one mode."""

    grid: str
    mode: str
    weight: float
    """Relative frequency."""
    pages: Count = 8
    """Pages of a step."""
    kept: Count = 400
    """Pages whose tokens are kept."""
    offered: bool = True
    """Whether policies offer it: weights that read it worse are refused. The others are measured as well."""


class ReaderConfig(Settings):
    """Everything a run depends on."""

    text: str = ""
    """JSON lines, as `jobs/gather_codec_text.py` writes them."""
    out: str = ""
    """Folder of the state and the log."""
    start: str = ""
    """Folder of the checkpoint whose encoder is kept and whose reader learns; "" is the one that ships."""
    reader: str = ""
    """File of the reader's weights to begin with; "" takes those of the checkpoint."""
    seed: int = 0
    steps: Count = 100_000
    seconds: float = 0.0
    """The learning rate falls by steps or by seconds, whichever is further; 0 goes by `steps` alone."""
    learning_rate: float = 5e-4
    warmup: Count = 50
    final_learning_rate: float = 0.02
    """Share of the peak at the end."""
    cells: Count = 1000
    """Cells of each page in a step, in a row."""
    grow: Count = 4
    """Pages encoded at a time."""
    filling: float = 0.3
    """Share of a blend's steps that encode new pages while fewer than `kept` are there."""
    fresh: float = 0.05
    """The same afterwards; new pages replace the oldest."""
    save_every: Count = 100
    log_every: Count = 20
    evaluate_pages: Count = 4
    """Held-out pages of each class and blend on which old and new weights are compared."""
    prior: float = 0.6
    """Share by which the exported reader's prior is moved from the mixture to texts as people write them (`reader_prior.py`)."""
    threads: int = 0
    """0 leaves torch's own number."""
    blends: Annotated[tuple[ReaderBlend, ...], Field(strict=False)] = ()


def load_config(preset: str, overrides: Sequence[str] = ()) -> ReaderConfig:
    """The configuration of a preset.

    Raises:
        ConfigError: for an unknown setting, a wrong type, no text, no `out` or no blend.
    """
    config = configs.load(preset, overrides, ReaderConfig)
    if not (config.blends and config.out and config.text):
        raise configs.ConfigError("a reader's preset needs `text`, `out` and at least one [[blends]] with grid, mode and weight")
    return config


def learning_rate(config: ReaderConfig, step: int, spent: float) -> float:
    """Linear warm-up, then half a cosine down to `final_learning_rate` of the peak."""
    progress = max(step / config.steps, spent / config.seconds if config.seconds else 0.0)
    falling = (1 + math.cos(math.pi * min(1.0, progress))) / 2
    share = config.final_learning_rate + (1 - config.final_learning_rate) * falling
    return config.learning_rate * min(1.0, (step + 1) / config.warmup) * share


def train_reader(config: ReaderConfig, watch: Callable[[dict[str, Any]], None] = lambda row: None) -> None:
    """Train until `steps` or `seconds`, or until SIGTERM or SIGINT; a later call resumes.

    `out` gets state.pt and log.jsonl.
    """
    stopping = threading.Event()
    before = {name: signal.signal(name, lambda *_: stopping.set()) for name in (signal.SIGTERM, signal.SIGINT)}
    try:
        _loop(config, stopping, watch)
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _loop(config: ReaderConfig, stopping: threading.Event, watch: Callable[[dict[str, Any]], None]) -> None:
    if config.threads:
        torch.set_num_threads(config.threads)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    codec = load_codec("embedded", config.start or None, parts="encoder")
    reader = load_reader(Path(config.reader or codec.checkpoint.directory), torch.float32, "cpu").requires_grad_(True)
    optimiser = torch.optim.AdamW(reader.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    step, spent = 0, 0.0
    if (out / "state.pt").is_file():
        saved = torch.load(out / "state.pt", weights_only=True)
        reader.load_state_dict(saved["reader"])
        optimiser.load_state_dict(saved["optimiser"])
        step, spent = saved["step"], saved["spent"]
    sampler = PageSampler(config.text, config.seed * 1009 + step, shares=BALANCED)
    choice = random.Random(config.seed * 2003 + step)
    torch.manual_seed(config.seed + step)
    pools = [FrozenPages(codec, blend.grid, blend.mode, blend.kept) for blend in config.blends]
    weights = [blend.weight for blend in config.blends]
    while step < config.steps and not (config.seconds and spent >= config.seconds) and not stopping.is_set():
        begun = time.monotonic()
        at = choice.choices(range(len(pools)), weights)[0]
        pool, blend = pools[at], config.blends[at]
        full = len(pool) >= blend.kept
        if len(pool) < blend.pages or choice.random() < (config.fresh if full else config.filling):
            pool.grow(sampler, sampler.classes(max(config.grow, blend.pages - len(pool))))
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(config, step, spent)
        loss, right = _step(reader, pool, choice.sample(range(len(pool)), blend.pages), config.cells)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimiser.step()
        step, spent = step + 1, spent + time.monotonic() - begun
        done = step >= config.steps or bool(config.seconds) and spent >= config.seconds
        if step % config.log_every == 0:
            row = {"step": step, "steps": config.steps, "seconds": round(spent, 1), "blend": f"{blend.grid}/{blend.mode}"}
            row |= {"token": round(float(right), 4), "token_loss": round(float(loss.detach()), 4), "kept": len(pool)}
            with open(out / "log.jsonl", "a") as file:
                file.write(json.dumps(row) + "\n")
            watch(row)
        if step % config.save_every == 0 or done or stopping.is_set():
            state = {"reader": reader.state_dict(), "optimiser": optimiser.state_dict(), "step": step, "spent": spent}
            torch.save(state, out / "state.tmp")
            (out / "state.tmp").replace(out / "state.pt")


def _step(reader: CellReader, pool: FrozenPages, pages: list[int], cells: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and accuracy on a stretch of `cells` cells of some pages: cells in a row share patches, so most are left out."""
    index, waves = pool.places
    start = int(torch.randint(max(1, len(index) - cells + 1), ()))
    stretch = slice(start, start + cells)
    targets = pool.symbols(pages)[:, stretch].flatten()
    patches, places = torch.unique(index[stretch] // len(DIRECTIONS), return_inverse=True)
    among = places * len(DIRECTIONS) + index[stretch] % len(DIRECTIONS)
    with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16("cpu")):
        features = reader.unpacked(pool.tokens(pages))[:, patches]
        logits = reader.head(features, among, waves[stretch]).flatten(0, 1)
    return F.cross_entropy(logits.float(), targets), (logits.detach().argmax(-1) == targets).float().mean()


def export_reader(
    config: ReaderConfig, folder: str | Path, *, classes: Sequence[str] = tuple(BALANCED), force: bool = False
) -> dict[str, Any]:
    """Measure the weights that the run began with and those that it has, and write the new ones to `folder`.

    Args:
        classes: of pages that are measured.

    Returns:
        {"temperature", "calibration_error": before and after, "rows": errors of old and new weights by class, grid and mode}

    Raises:
        WorseWeights: where a class is read worse; nothing is written then, unless `force`.
    """
    codec = load_codec("embedded", config.start or None, parts="encoder")
    saved = torch.load(Path(config.out) / "state.pt", weights_only=True)
    trained = CellReader(codec.token_dim)
    trained.load_state_dict(saved["reader"])
    sampler = PageSampler(config.text, seed=20, held_out=True, shares=BALANCED)
    pools = []
    for blend in config.blends:
        sampler.reseed(20)
        pool = FrozenPages(codec, blend.grid, blend.mode, config.evaluate_pages * len(classes), keep_texts=True)
        for name in classes:
            pool.grow(sampler, [name] * config.evaluate_pages)
        pools.append(pool)
    correct(trained, letter_prior(PageSampler(config.text, seed=99, shares=BALANCED)), config.prior)
    value, raw, calibrated = temperature(trained, pools)
    trained.temperature.fill_(value)
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    candidate = path / f"{FILE}.new"
    save_file(pack_weights(trained.state_dict()), candidate)
    try:
        before = list(measure(load_reader(codec.checkpoint.directory, torch.bfloat16, "cpu"), pools))
        after = list(measure(load_reader(candidate, torch.bfloat16, "cpu"), pools))
        offered = {(blend.grid, blend.mode) for blend in config.blends if blend.offered}
        found = worse(before, after, offered)
        if found and not force:
            raise WorseWeights("the new weights read worse, nothing is written:\n" + "\n".join(found))
        candidate.replace(path / FILE)
    finally:
        candidate.unlink(missing_ok=True)
    (path / FILE).chmod(0o644)
    return {
        "step": saved["step"],
        "temperature": round(value, 3),
        "calibration_error": {"raw": round(raw, 5), "calibrated": round(calibrated, 5)},
        "worse": found,
        "rows": [_both(old, new) for old, new in zip(before, after, strict=True)],
    }


def _both(old: Errors, new: Errors) -> dict[str, Any]:
    was = {f"{name}_before": round(getattr(old, name), 6) for name in ("by_character", "by_word")}
    return new.row() | was
