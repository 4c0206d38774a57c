"""Training the embedded codec: text -> pages -> encoder -> tokens -> what can be read out of them.

Two losses on the same pages: the dense heads of `cell_reader.py`, which teach the encoder, and next-id cross-entropy of the
generative decoder over a stretch of each page's target. bf16 autocast, `torch.compile`, resumable from `state.pt` at any step.
"""

from __future__ import annotations

import json
import queue
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline import config as configs
from pipeline.codecs.embedded.architecture import PATCH_DIM, TOKEN_DIM, fresh_model
from pipeline.codecs.embedded.cell_reader import CellHead, CellReader, cell_places
from pipeline.codecs.embedded.target import ALPHABET
from pipeline.codecs.embedded.vocabulary import BOS, FIRST_CELL, FIRST_GRID, FIRST_ROW, GRIDS, SYMBOLS
from pipeline.codecs.modes import MODES
from pipeline.pages.characters import END
from pipeline.pages.grid import Grid
from pipeline.training.codec_pages import Batch, PageSampler
from pipeline.training.compress import begin_tokens
from pipeline.training.curves import plot
from pipeline.training.evaluation import evaluate
from pipeline.training.guidance import begin_reading, guided_forward, places_to_look


@dataclass(frozen=True, kw_only=True)
class Blend:
    """A share of the training steps: one grid in one mode.

    Attributes:
        weight: relative frequency.
        pages: per step.
        encoder, decoder: which half learns in these steps; a frozen encoder makes a step twice as fast.
    """

    grid: str
    mode: str
    weight: float
    pages: int
    encoder: bool = True
    decoder: bool = True


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything a training run depends on.

    Attributes:
        text: JSON lines, as `jobs/gather_codec_text.py` writes them.
        out: folder of the training state and the log.
        start: folder of a checkpoint to begin with, instead of a fresh model; a saved state in `out` goes before it.
        patch_steps: for so many steps only the patches and the head on them learn; then the compressor and the cell reader begin with
            what that head looks at (`compress.py`), and learn too.
        decoder_from: the decoder learns from this step on, and begins then with weights that carry patches to cells (`guidance.py`).
        patch_weight: of that head's loss afterwards; 0 leaves it out.
        hold: for so many steps the layers before the compressor stay as they are, while what begins afresh behind them settles.
    """

    text: str = ""
    out: str = ""
    start: str = ""
    seed: int = 0
    steps: int = 10_000
    learning_rate: float = 1e-3
    warmup: int = 100
    hold: int = 0
    final_learning_rate: float = 0.05
    stretch: int = 320
    cells: int = 1280
    decoder_weight: float = 1.0
    guidance_weight: float = 0.3
    patch_weight: float = 0.5
    patch_steps: int = 0
    decoder_from: int = 0
    blends: tuple[Blend, ...] = field(default_factory=tuple)
    save_every: int = 200
    log_every: int = 20
    evaluate_every: int = 1000
    device: str = "cpu"
    compile: bool = True


def load_config(preset: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """The training configuration of a preset.

    Raises:
        ConfigError: for an unknown setting, a wrong type, or no blend.
    """
    config = configs.load(preset, overrides, TrainConfig)
    if not config.blends or not config.out:
        raise configs.ConfigError("a training preset needs `out` and at least one [[blends]] with grid, mode, weight and pages")
    return config


class Trainee(torch.nn.Module):
    """The model, its cell reader and a head on its patches, and the losses of one batch."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.model = fresh_model(seed)
        self.patch_head = CellHead(PATCH_DIM, 384)
        self.reader = CellReader(TOKEN_DIM)
        self.places: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}

    def hold(self, still: bool) -> None:
        """Freeze the layers before the compressor, or let them learn."""
        sam = self.model.model.vision_tower.sam_encoder
        for part in (sam.patch_embed, sam.layers):
            part.requires_grad_(not still)
        sam.pos_embed.requires_grad_(not still)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 `[N, px, px]` -> patch features `[N, P, P, C]` and visual tokens `[N, G * G, D]`."""
        pixels = (images.float() / 127.5 - 1.0)[:, None].expand(-1, 3, -1, -1)
        tower = self.model.model.vision_tower
        sam = tower.sam_encoder
        hidden = sam.patch_embed(pixels)
        hidden = hidden + sam.interpolate_pos_encoding(hidden.shape[1], hidden.shape[2])
        for layer in sam.layers:
            hidden = layer(hidden)
        compressed = sam.proj(sam.neck(hidden))
        mixed = tower.vision_encoder(compressed).last_hidden_state[:, 1:]
        both = torch.cat([mixed, compressed.flatten(2).transpose(1, 2)], -1)
        return hidden, self.model.model.multi_modal_projector(both)

    @staticmethod
    def read(
        head: torch.nn.Module, features: Tensor, index: Tensor, waves: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Loss of a dense head, and the share of inked cells that it gets right."""
        logits = head(features, index, waves)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        seen = (targets != 0) & (targets != SYMBOLS.index(END))
        return loss, ((logits.argmax(-1) == targets) & seen).sum() / seen.sum()

    def decode(self, tokens: Tensor, grid: Grid, mode: str, stretch: Tensor, starts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, guidance loss and cell accuracy of the decoder on `stretch`, int64 `[N, L]`, from `starts` of the target on."""
        model = self.model.model
        features = self.features(tokens)
        embed = model.language_model.embed_tokens
        count = len(tokens)
        bos = embed(torch.full((count, 1), BOS, device=tokens.device))
        grid_id = FIRST_GRID + GRIDS.index(f"{grid.columns}x{grid.rows}")
        named = embed(torch.full((count, 1), grid_id, device=tokens.device))
        given = embed(stretch[:, :-1].clamp(min=0))
        dtype = features.dtype
        inputs = torch.cat([bos.to(dtype), features, named.to(dtype), given.to(dtype)], 1)
        prefix = features.shape[1] + 2
        ahead = torch.arange(prefix, device=tokens.device).expand(count, -1)
        positions = torch.cat([ahead, prefix + starts[:, None] + torch.arange(given.shape[1], device=tokens.device)], 1)
        look = places_to_look(stretch[:, :-1], grid, mode, prefix)
        hidden, guidance = guided_forward(model.language_model, inputs, positions, look, prefix)
        logits = self.model.lm_head(hidden[:, prefix:]).float()
        expected = stretch[:, 1:]
        loss = F.cross_entropy(logits.flatten(0, 1), expected.flatten(), ignore_index=-100)
        inked = (expected > FIRST_CELL) & (expected < FIRST_ROW)  # FIRST_CELL is the space
        return loss, guidance, ((logits.argmax(-1) == expected) & inked).sum() / inked.sum().clamp(min=1)

    def features(self, tokens: Tensor) -> Tensor:
        """Visual tokens `[N, G * G, D]` with the newline and separator rows, `[N, G * (G + 1) + 1, D]`."""
        model = self.model.model
        count, side = len(tokens), int(tokens.shape[1] ** 0.5)
        newline = model.image_newline.to(tokens.dtype).expand(count, side, 1, -1)
        rows = torch.cat([tokens.view(count, side, side, -1), newline], 2).flatten(1, 2)
        return torch.cat([rows, model.view_separator.to(tokens.dtype).expand(count, 1, -1)], 1)

    def place(self, grid: Grid, mode: str, device: str) -> tuple[Tensor, Tensor]:
        key = str(grid), mode
        if key not in self.places:
            index, waves = cell_places(grid, MODES[mode].grid)
            self.places[key] = index.to(device), waves.to(device)
        return self.places[key]


class Supply(threading.Thread):
    """Makes batches ahead of the training loop."""

    def __init__(self, config: TrainConfig, first_step: int) -> None:
        super().__init__(daemon=True)
        self.config, self.first_step = config, first_step
        self.batches: queue.Queue[tuple[Blend, Batch]] = queue.Queue(3)
        self.start()

    def run(self) -> None:
        sampler = PageSampler(self.config.text, self.config.seed * 1_000_003 + self.first_step)
        choice = random.Random(self.config.seed + self.first_step)
        weights = [blend.weight for blend in self.config.blends]
        while True:
            blend = choice.choices(self.config.blends, weights)[0]
            grid = Grid.parse(blend.grid, ALPHABET)
            self.batches.put((blend, sampler.batch(grid, blend.mode, blend.pages, self.config.stretch)))


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then linear decay to `final_learning_rate` of the peak."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    progress = min(1.0, (step - config.warmup) / max(1, config.steps - config.warmup))
    return config.learning_rate * (1 - (1 - config.final_learning_rate) * progress)


def train(config: TrainConfig, watch: Callable[[dict[str, Any]], None] = lambda row: None) -> None:
    """Train until `steps`, or until told to stop (SIGTERM, SIGINT: the state is saved first).

    `out` gets state.pt, log.jsonl, evaluation.jsonl and curves.png.

    Args:
        watch: called with every row of the log, and with every row of the evaluation (these have a `text_class`).
    """
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    trainee = Trainee(config.seed).to(config.device)
    decay = [p for p in trainee.parameters() if p.ndim >= 2]
    rest = [p for p in trainee.parameters() if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": 0.02}, {"params": rest, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)
    step = 0
    if config.start and not (out / "state.pt").exists():
        watch({"step": 0, "begins_afresh": _begin_with(trainee, Path(config.start))})
    if (out / "state.pt").exists():
        state = torch.load(out / "state.pt", map_location=config.device, weights_only=True)
        trainee.load_state_dict(state["trainee"])
        optimiser.load_state_dict(state["optimiser"])
        step = state["step"]
    encode: Any = trainee.encode
    read: Any = trainee.read
    decode: Any = trainee.decode
    if config.compile:
        encode, read, decode = (torch.compile(f, dynamic=False) for f in (encode, read, decode))
    stopping = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stopping.set())
    supply = Supply(config, step)
    begun = time.time()
    while step < config.steps and not stopping.is_set():
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(config, step)
        trainee.hold(step < config.hold)
        blend, batch = supply.batches.get()
        device = config.device
        index, waves = trainee.place(batch.grid, batch.mode, device)
        images = torch.from_numpy(batch.images).to(device)
        targets = torch.from_numpy(batch.cells - FIRST_CELL).to(device)
        if config.cells < targets.shape[1]:
            chosen = torch.randperm(targets.shape[1], device=device)[: config.cells].sort().values
            index, waves, targets = index[chosen], waves[chosen], targets[:, chosen]
        with torch.autocast(device, torch.bfloat16):
            with torch.set_grad_enabled(blend.encoder):
                patches, tokens = encode(images)
            record: dict[str, Tensor] = {}
            loss = torch.zeros((), device=device)
            if blend.encoder:
                if step >= config.patch_steps:
                    token_loss, token_right = read(trainee.reader, tokens, index, waves, targets)
                    loss = token_loss
                    record = {"token": token_right, "token_loss": token_loss}
                if step < config.patch_steps or config.patch_weight:
                    patch_loss, patch_right = read(trainee.patch_head, patches.flatten(1, 2), index, waves, targets)
                    loss = loss + (config.patch_weight if step >= config.patch_steps else 1.0) * patch_loss
                    record["patch"] = patch_right
            if blend.decoder and step >= config.decoder_from:
                stretch, starts = (torch.from_numpy(a).to(device) for a in (batch.targets, batch.starts))
                written_loss, guidance, written_right = decode(tokens, batch.grid, batch.mode, stretch, starts)
                loss = loss + config.decoder_weight * written_loss + config.guidance_weight * guidance
                record |= {"written": written_right, "written_loss": written_loss, "guidance": guidance}
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
        optimiser.step()
        step += 1
        if step == config.patch_steps:
            begin_tokens(trainee, patches.detach().float().flatten(0, 2))
            optimiser.state.clear()
        if step == config.decoder_from:
            begin_reading(trainee.model, trainee.reader.spread.weight)
        if step % config.log_every == 0:
            row = {"step": step, "seconds": round(time.time() - begun, 1), "blend": f"{blend.grid}/{blend.mode}"}
            row |= {name: round(float(value.detach()), 4) for name, value in record.items()}
            _append(out / "log.jsonl", row)
            watch({**row, "steps": config.steps})
        if step % config.save_every == 0 or stopping.is_set() or step == config.steps:
            _save(out, trainee, optimiser, step)
            plot(out / "log.jsonl", out / "curves.png")
        if step % config.evaluate_every == 0 or step == config.steps:
            settings = dict.fromkeys((blend.grid, blend.mode) for blend in config.blends)
            for found in evaluate(trainee, settings, config.text, device=config.device):
                _append(out / "evaluation.jsonl", {"step": step, **found})
                watch({"step": step, **found})


def _append(path: Path, row: dict[str, Any]) -> None:
    with open(path, "a") as file:
        file.write(json.dumps(row) + "\n")


def _begin_with(trainee: Trainee, folder: Path) -> list[str]:
    """Take over what fits of a checkpoint that `export` wrote, or of another run's state; returns the names of what begins afresh.

    The head on the patches is not part of a checkpoint. A model of other widths keeps the layers that have the same shape.
    """
    from pipeline.codecs.adapter import load_codec
    from pipeline.codecs.checkpoint import read_weights
    from pipeline.codecs.embedded.cell_reader import FILE

    own = trainee.state_dict()
    if folder.is_file():
        fitting = torch.load(folder, map_location="cpu", weights_only=True)["trainee"]
        fitting = {name: value for name, value in fitting.items() if name in own and own[name].shape == value.shape}
        trainee.load_state_dict(fitting, strict=False)
        return sorted(own.keys() - fitting.keys())
    reader = {f"reader.{name}": value for name, value in read_weights(folder / FILE).items()}
    loaded = load_codec("embedded", folder, dtype=torch.float32).model.state_dict()
    model = {f"model.{name}": value for name, value in loaded.items()}
    fitting = {name: value.float() for name, value in (model | reader).items() if name in own and own[name].shape == value.shape}
    trainee.load_state_dict(fitting, strict=False)
    return sorted(own.keys() - fitting.keys())


def _save(out: Path, trainee: Trainee, optimiser: torch.optim.Optimizer, step: int) -> None:
    state = {"trainee": trainee.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
    torch.save(state, out / "state.tmp")
    (out / "state.tmp").replace(out / "state.pt")
