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
from collections.abc import Sequence
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
from pipeline.training.guidance import guided_forward, places_to_look


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
    """

    text: str = ""
    out: str = ""
    start: str = ""
    seed: int = 0
    steps: int = 10_000
    learning_rate: float = 1e-3
    warmup: int = 100
    final_learning_rate: float = 0.05
    stretch: int = 320
    cells: int = 1280
    decoder_weight: float = 1.0
    guidance_weight: float = 0.3
    blends: tuple[Blend, ...] = field(default_factory=tuple)
    save_every: int = 200
    log_every: int = 20
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
        self.patch_head = CellHead(PATCH_DIM)
        self.reader = CellReader(TOKEN_DIM)
        self.places: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}

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

    def read(self, patches: Tensor, tokens: Tensor, index: Tensor, waves: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        by_patch, by_token = self.patch_head(patches.flatten(1, 2), index, waves), self.reader(tokens, index, waves)
        flat = targets.flatten()
        losses = [F.cross_entropy(logits.flatten(0, 1).float(), flat) for logits in (by_patch, by_token)]
        seen = (targets != 0) & (targets != SYMBOLS.index(END))
        right = [((logits.argmax(-1) == targets) & seen).sum() / seen.sum() for logits in (by_patch, by_token)]
        return (*losses, *right)

    def decode(self, tokens: Tensor, grid_id: int, mode: str, stretch: Tensor, starts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, guidance loss and cell accuracy of the decoder on `stretch`, int64 `[N, L]`, from `starts` of the target on."""
        model = self.model.model
        features = self.features(tokens)
        embed = model.language_model.embed_tokens
        count = len(tokens)
        bos = embed(torch.full((count, 1), BOS, device=tokens.device))
        grid = embed(torch.full((count, 1), grid_id, device=tokens.device))
        given = embed(stretch[:, :-1].clamp(min=0))
        dtype = features.dtype
        inputs = torch.cat([bos.to(dtype), features, grid.to(dtype), given.to(dtype)], 1)
        prefix = features.shape[1] + 2
        ahead = torch.arange(prefix, device=tokens.device).expand(count, -1)
        positions = torch.cat([ahead, prefix + starts[:, None] + torch.arange(given.shape[1], device=tokens.device)], 1)
        look = places_to_look(stretch[:, :-1], mode, prefix)
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


def train(config: TrainConfig) -> None:
    """Train until `steps`, or until told to stop (SIGTERM, SIGINT: the state is saved first)."""
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    trainee = Trainee(config.seed).to(config.device)
    decay = [p for p in trainee.parameters() if p.ndim >= 2]
    rest = [p for p in trainee.parameters() if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": 0.02}, {"params": rest, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)
    step = 0
    if config.start and not (out / "state.pt").exists():
        _begin_with(trainee, Path(config.start))
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
                patch_loss, token_loss, patch_right, token_right = read(patches, tokens, index, waves, targets)
                loss = 0.5 * patch_loss + token_loss
                record = {"patch": patch_right, "token": token_right, "token_loss": token_loss}
            if blend.decoder:
                stretch, starts = (torch.from_numpy(a).to(device) for a in (batch.targets, batch.starts))
                grid_id = FIRST_GRID + GRIDS.index(blend.grid)
                written_loss, guidance, written_right = decode(tokens, grid_id, batch.mode, stretch, starts)
                loss = loss + config.decoder_weight * written_loss + config.guidance_weight * guidance
                record |= {"written": written_right, "written_loss": written_loss, "guidance": guidance}
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
        optimiser.step()
        step += 1
        if step % config.log_every == 0:
            row = {"step": step, "seconds": round(time.time() - begun, 1), "blend": f"{blend.grid}/{blend.mode}"}
            row |= {name: round(float(value.detach()), 4) for name, value in record.items()}
            with open(out / "log.jsonl", "a") as log:
                log.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
        if step % config.save_every == 0 or stopping.is_set() or step == config.steps:
            _save(out, trainee, optimiser, step)


def _begin_with(trainee: Trainee, folder: Path) -> None:
    """Take over a checkpoint that `export` wrote; only the head on the patches begins afresh."""
    from pipeline.codecs.adapter import load_codec
    from pipeline.codecs.embedded.cell_reader import load_reader

    trainee.model.load_state_dict(load_codec("embedded", folder, dtype=torch.float32).model.state_dict())
    trainee.reader.load_state_dict(load_reader(folder, torch.float32, "cpu").state_dict())


def _save(out: Path, trainee: Trainee, optimiser: torch.optim.Optimizer, step: int) -> None:
    state = {"trainee": trainee.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
    torch.save(state, out / "state.tmp")
    (out / "state.tmp").replace(out / "state.pt")
