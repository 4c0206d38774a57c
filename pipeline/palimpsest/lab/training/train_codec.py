"""Training the embedded codec: text -> pages -> encoder -> tokens -> what can be read out of them.

The dense heads of `cell_reader.py` teach the encoder. The generative decoder learns from next-id cross-entropy over a stretch of
each page's target and from guided attentions; with `copy_cells` in two lessons, of which the first needs no sequences
(`ideal_reading.py`, `lessons.py`). All from tokens rounded as int8 storage rounds them. bf16 autocast, `torch.compile`,
resumable from `state.pt` at any step.
"""

from __future__ import annotations

import json
import math
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from palimpsest import config as configs
from palimpsest.lab.training.batches import Blend, batches
from palimpsest.lab.training.codec_pages import Batch
from palimpsest.lab.training.compress import begin_tokens
from palimpsest.lab.training.curves import plot
from palimpsest.lab.training.evaluation import evaluate
from palimpsest.lab.training.guidance import begin_reading
from palimpsest.lab.training.lessons import keep_gradients, rest_quietly, taught
from palimpsest.lab.training.mark_places import look_for_places, mark_places, pages_of_every_mode
from palimpsest.lab.training.trainee import Trainee, has_bf16
from palimpsest.settings import Settings

KEPT = 400  # encoded batches of a blend
OTHERS = 5  # kept batches whose cells a step copies too: pages resemble each other less than the cells of one
LOOKS = 24  # ids of visual tokens that look for theirs on every page of a step
DECODER = ("model.model.language_model.", "model.lm_head.")


class TrainConfig(Settings):
    """Everything a training run depends on."""

    text: str = ""
    """JSON lines, as `jobs/gather_codec_text.py` writes them, plain or `.xz`."""
    out: str = ""
    """Folder of the training state and the log."""
    start: str = ""
    """Folder of a checkpoint to begin with, instead of a fresh model; a saved state in `out` goes before it."""
    seed: int = 0
    steps: int = 10_000
    seconds: float = 0.0
    """Stop after so much training time, and let the learning rate fall by it; 0 goes by `steps` alone."""
    learning_rate: float = 1e-3
    warmup: int = 100
    hold: int = 0
    """Steps in which the layers before the compressor stay as they are, while what begins afresh behind them settles."""
    final_learning_rate: float = 0.05
    stretch: int = 320
    cells: int = 1280
    decoder_weight: float = 1.0
    decoder_moves_encoder: bool = True
    """Let the decoder's loss reach the encoder; else it reads what the cell reader alone has taught."""
    guidance_weight: float = 0.3
    copy_cells: int = 0
    """Cells a step from which the decoder learns with ideal attentions (`ideal_reading.py`); 0 learns from stretches alone, all
    weights at once."""
    stretches_from: int = 0
    """With `copy_cells`, the step at which what reads is kept as it is and the rest learns from stretches (`lessons.py`);
    the learning rate warms up and falls again from there."""
    replay: float = 0.0
    """Share of the steps with a frozen encoder that learn from pages which an earlier one has encoded."""
    begin_decoder: bool = False
    """Leave the decoder out of `start`; at `decoder_from` give it weights that carry patches to cells (`guidance.py`)."""
    mark_places: int = 0
    """Before that, have the tokens say where on the page they are (`mark_places.py`), fitted on so many pages of the
    smallest mode and fewer of the others; 0 leaves them as they are."""
    guided_length: int = 2048
    """Stretches longer than this are learned without guidance, whose attentions are kept whole in memory."""
    patch_weight: float = 0.5
    """Weight of the loss of the head on the patches after `patch_steps`; 0 leaves it out."""
    patch_steps: int = 0
    """Steps in which only the patches and the head on them learn; then the compressor and the cell reader begin with what
    that head looks at (`compress.py`), and learn too."""
    decoder_from: int = 0
    """The decoder learns from this step on."""
    blends: Annotated[tuple[Blend, ...], Field(strict=False)] = ()
    save_every: int = 200
    log_every: int = 20
    evaluate_every: int = 1000
    evaluate_pages: int = 4
    """Held-out pages of each class, grid and mode that an evaluation reads, also at the end; 0 leaves it out."""
    device: str = "cpu"
    compile: bool = True
    workers: int = 1
    """Processes that make pages ahead."""


def load_config(preset: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """The training configuration of a preset.

    Raises:
        ConfigError: for an unknown setting, a wrong type, or no blend.
    """
    config = configs.load(preset, overrides, TrainConfig)
    if not config.blends or not config.out:
        raise configs.ConfigError("a training preset needs `out` and at least one [[blends]] with grid, mode, weight and pages")
    if config.copy_cells and config.stretches_from <= config.decoder_from:
        raise configs.ConfigError(
            f"copy_cells: the decoder reads from step decoder_from = {config.decoder_from} to stretches_from = "
            f"{config.stretches_from} and writes from there; stretches_from must be larger"
        )
    if config.mark_places and not config.begin_decoder:
        raise configs.ConfigError("mark_places changes what the decoder is given: it needs begin_decoder = true")
    return config


def learning_rate(config: TrainConfig, step: int, spent: float = 0.0) -> float:
    """Linear warm-up, then half a cosine down to `final_learning_rate` of the peak, by steps or seconds, whichever is further.

    With two lessons (`copy_cells`) once for each, by steps.
    """
    steps = config.steps
    if config.copy_cells:
        second = step >= config.stretches_from
        step, steps = (step - config.stretches_from, steps - config.stretches_from) if second else (step, config.stretches_from)
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, steps - config.warmup)
    if config.seconds and not config.copy_cells:
        progress = max(progress, spent / config.seconds)
    falling = (1 + math.cos(math.pi * min(1.0, progress))) / 2
    return config.learning_rate * (config.final_learning_rate + (1 - config.final_learning_rate) * falling)


class Training:
    """One run: the trainee, its optimiser, and how far it is.

    Attributes:
        step: steps done.
        spent: seconds of training done, over all starts of the run.
    """

    def __init__(self, config: TrainConfig, watch: Callable[[dict[str, Any]], None]) -> None:
        self.config, self.out = config, Path(config.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.watch = watch
        self.trainee = Trainee(config.seed).to(config.device)
        decay = [p for p in self.trainee.parameters() if p.ndim >= 2]
        rest = [p for p in self.trainee.parameters() if p.ndim < 2]
        # what one lesson of the decoder keeps as it is must not decay in it
        groups = [{"params": decay, "weight_decay": 0.0 if config.copy_cells else 0.02}, {"params": rest, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)
        self.step, self.spent = 0, 0.0
        saved = self.out / "state.pt"
        if saved.exists():
            state = torch.load(saved, map_location=config.device, weights_only=True)
            self.trainee.load_state_dict(state["trainee"])
            self.optimiser.load_state_dict(state["optimiser"])
            for group, own in zip(self.optimiser.param_groups, groups, strict=True):
                group["weight_decay"] = own["weight_decay"]
            self.step, self.spent = state["step"], state.get("spent", 0.0)
        elif config.start:
            watch({"step": 0, "begins_afresh": begin_with(self.trainee, Path(config.start), config.begin_decoder)})
        encode: Any = self.trainee.encode
        read: Any = self.trainee.read
        decode: Any = self.trainee.decode
        if config.compile:
            encode, read, decode = (torch.compile(f, dynamic=False) for f in (encode, read, decode))
        self.encode, self.read, self.decode, self.copy = encode, read, decode, self.trainee.copy
        self.lessons = [list(taught(self.trainee.model, lesson)) for lesson in ("reading", "writing")]
        self.kept: dict[Blend, list[tuple[Batch, Tensor, Tensor]]] = {}
        self.random = random.Random(config.seed + self.step)

    @property
    def done(self) -> bool:
        return self.step >= self.config.steps or bool(self.config.seconds) and self.spent >= self.config.seconds

    def take(self, blend: Blend, batch: Batch) -> dict[str, Tensor]:
        """One step; returns what is worth logging."""
        config, step = self.config, self.step
        if step == config.decoder_from and config.begin_decoder:
            if config.mark_places:
                pages = pages_of_every_mode(config.text, config.seed, config.mark_places)
                marked = {"step": step, "marked": mark_places(self.trainee, pages, config.device)}
                _append(self.out / "log.jsonl", marked)
                self.watch(marked)
            begin_reading(self.trainee.model, self.trainee.reader.spread.weight)
            if config.mark_places:
                look_for_places(self.trainee)
        writing = step >= config.stretches_from
        if config.copy_cells and step == config.stretches_from:
            self.optimiser.state.clear()
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(config, step, self.spent)
        self.trainee.hold(step < config.hold)
        # without a cache: torch before 2.11 takes a weight's copy that it made under no_grad for one that learns
        with torch.autocast(config.device, torch.bfloat16, enabled=has_bf16(config.device), cache_enabled=False):
            batch, patches, tokens = self._encoded(blend, batch)
            loss = torch.zeros((), device=config.device)
            record: dict[str, Tensor] = {}
            if blend.encoder:
                loss, record = self._reading(batch, patches, tokens)
            if blend.decoder and step >= config.decoder_from:
                seen = tokens if config.decoder_moves_encoder else tokens.detach()
                if config.copy_cells:
                    symbols, pool = self._with_others(blend, batch, seen)
                    copied, right = self._copying(batch, symbols, pool)
                    loss = loss + copied
                    record |= {"copied": right, "copied_loss": copied}
                    if writing:
                        looked, found = self.trainee.look(pool, batch.grid, batch.mode, LOOKS)
                        loss = loss + looked
                        record["looked"] = found
                if not config.copy_cells or writing:
                    stretch, starts = self._moved(batch.stretches), self._moved(batch.starts)
                    guided = stretch.shape[1] <= config.guided_length
                    written_loss, guidance, right, led = self.decode(seen, batch.grid, batch.mode, stretch, starts, guided)
                    loss = loss + config.decoder_weight * written_loss + config.guidance_weight * guidance
                    record |= {"written": right, "addresses": led, "written_loss": written_loss, "guidance": guidance}
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if config.copy_cells:
            keep_gradients(self.lessons[writing])
        torch.nn.utils.clip_grad_norm_(self.trainee.parameters(), 1.0)
        self.optimiser.step()
        if config.copy_cells:
            rest_quietly(self.trainee.model)
        self.step += 1
        if self.step == config.patch_steps:
            begin_tokens(self.trainee, patches.detach().float().flatten(0, 2))
            self.optimiser.state.clear()
        return record

    def _encoded(self, blend: Blend, batch: Batch) -> tuple[Batch, Tensor, Tensor]:
        """A batch with its patch features and its tokens as stored: this one, or one that was kept."""
        kept = self.kept.setdefault(blend, [])
        if len(kept) > OTHERS and self.random.random() < self.config.replay:
            return self.random.choice(kept)
        with torch.set_grad_enabled(blend.encoder):
            patches, tokens = self.encode(self.trainee.paint(self._moved(batch.drawn), batch.grid, batch.mode))
            found = batch, patches, self.trainee.stored(tokens)
        if self.config.replay and not blend.encoder:
            kept.append((batch, patches[:0], found[2]))
            del kept[:-KEPT]
        return found

    def _with_others(self, blend: Blend, batch: Batch, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Symbols and tokens of this batch and of some that were kept."""
        kept = self.kept.get(blend, [])
        pool = self.random.sample(kept, min(OTHERS, len(kept)))
        symbols = self._moved(np.concatenate([batch.symbols, *(other.symbols for other, _, _ in pool)]))
        return symbols, torch.cat([tokens, *(others for _, _, others in pool)])

    def _copying(self, batch: Batch, symbols: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and accuracy of the decoder's ideal reading, on `copy_cells` cells of some pages."""
        number = max(1, self.config.copy_cells // len(tokens))
        cells = torch.randperm(symbols.shape[1], device=symbols.device)[:number].sort().values
        return self.copy(tokens, batch.grid, batch.mode, cells, symbols[:, cells])

    def _reading(self, batch: Batch, patches: Tensor, tokens: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and record of the dense heads, on at most `config.cells` cells of each page."""
        config, trainee = self.config, self.trainee
        index, waves = trainee.place(batch.grid, batch.mode, config.device)
        targets = self._moved(batch.symbols)
        if config.cells < targets.shape[1]:
            chosen = torch.randperm(targets.shape[1], device=config.device)[: config.cells].sort().values
            index, waves, targets = index[chosen], waves[chosen], targets[:, chosen]
        record: dict[str, Tensor] = {}
        loss = torch.zeros((), device=config.device)
        if self.step >= config.patch_steps:
            loss, right = self.read(trainee.reader, tokens, index, waves, targets)
            record = {"token": right, "token_loss": loss}
        if self.step < config.patch_steps or config.patch_weight:
            patch_loss, right = self.read(trainee.patch_head, patches.flatten(1, 2), index, waves, targets)
            loss = loss + (config.patch_weight if self.step >= config.patch_steps else 1.0) * patch_loss
            record["patch"] = right
        return loss, record

    def _moved(self, array: Any) -> Tensor:
        return torch.from_numpy(array).to(self.config.device, non_blocking=True)

    def save(self) -> None:
        """Write state.pt, which a later start goes on from, and the curves."""
        state = {
            "trainee": self.trainee.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "spent": self.spent,
        }
        torch.save(state, self.out / "state.tmp")
        (self.out / "state.tmp").replace(self.out / "state.pt")
        if (self.out / "log.jsonl").exists():
            plot(self.out / "log.jsonl", self.out / "curves.png")


def train(config: TrainConfig, watch: Callable[[dict[str, Any]], None] = lambda row: None) -> None:
    """Train until `steps` or `seconds`, or until stopped (SIGTERM, SIGINT: the state is saved first).

    `out` gets state.pt, log.jsonl, evaluation.jsonl and curves.png.

    Args:
        watch: called with every row of the log, with every row of the evaluation (these have a `text_class`), and with what
            begins afresh.
    """
    run = Training(config, watch)
    stopping = threading.Event()
    before = {name: signal.signal(name, lambda *_: stopping.set()) for name in (signal.SIGTERM, signal.SIGINT)}
    try:
        with closing(batches(config.text, config.seed + run.step, config.blends, config.stretch, config.workers)) as supply:
            _loop(run, supply, stopping, watch)
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _loop(
    run: Training, supply: Iterator[tuple[Blend, Batch]], stopping: threading.Event, watch: Callable[[dict[str, Any]], None]
) -> None:
    config = run.config
    while not run.done and not stopping.is_set():
        blend, batch = next(supply)
        begun = time.perf_counter()
        record = run.take(blend, batch)
        logged = run.step % config.log_every == 0
        row = {"step": run.step, "blend": f"{blend.grid}/{blend.mode}"} if logged else {}
        row |= {name: round(float(value.detach()), 4) for name, value in record.items()} if logged else {}
        run.spent += time.perf_counter() - begun
        if logged:
            row["seconds"] = round(run.spent, 1)
            _append(run.out / "log.jsonl", row)
            watch({**row, "steps": config.steps})
        if run.step % config.save_every == 0 or stopping.is_set() or run.done:
            run.save()
        if config.evaluate_pages and (run.step % config.evaluate_every == 0 or run.done) and not stopping.is_set():
            settings = dict.fromkeys((blend.grid, blend.mode) for blend in config.blends)
            for found in evaluate(run.trainee, settings, config.text, config.evaluate_pages, config.device):
                _append(run.out / "evaluation.jsonl", {"step": run.step, **found})
                watch({"step": run.step, **found})


def _append(path: Path, row: dict[str, Any]) -> None:
    with open(path, "a") as file:
        file.write(json.dumps(row) + "\n")


def begin_with(trainee: Trainee, folder: Path, without_decoder: bool = False) -> list[str]:
    """Take over what fits of a checkpoint that `export` wrote, or of another run's state; returns what begins afresh.

    The head on the patches is not part of a checkpoint. A model of other widths keeps the layers that have the same shape.
    """
    from palimpsest.codecs.adapter import load_codec
    from palimpsest.codecs.checkpoint import read_weights
    from palimpsest.codecs.embedded.cell_reader import FILE

    own = trainee.state_dict()
    if folder.is_file():
        found = torch.load(folder, map_location="cpu", weights_only=True)["trainee"]
    else:
        reader = {f"reader.{name}": value.float() for name, value in read_weights(folder / FILE).items()}
        loaded = load_codec("embedded", folder, dtype=torch.float32).model.state_dict()
        found = reader | {f"model.{name}": value for name, value in loaded.items()}
    left = DECODER if without_decoder else ()
    fitting = {
        name: value
        for name, value in found.items()
        if name in own and own[name].shape == value.shape and not name.startswith(left)
    }
    trainee.load_state_dict(fitting, strict=False)
    return sorted(own.keys() - fitting.keys())
