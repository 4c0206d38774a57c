"""The language model of `bench use`, its training through the public loader, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palimpsest.loading.adapters import inputs_embeds
from palimpsest.loading.consumer import TextConsumer
from palimpsest.loading.memory import Memory
from palimpsest.loading.packing import IGNORED, Example

View = Callable[[Sequence[Example]], list[Example]]
"""What an arm makes of a batch."""


@dataclass(frozen=True)
class Training:
    """How a model is trained; `width`, `layers`, `heads` are the decoder's."""

    steps: int = 200
    batch: int = 16
    rate: float = 2e-3
    width: int = 128
    layers: int = 2
    heads: int = 4


@dataclass(frozen=True)
class Answer:
    """One predicted id of a reply: nats, whether it was the most likely one, and the band of the fact (None: no fact)."""

    chat: str
    band: str | None
    loss: float
    exact: bool


class SmallLM(nn.Module):
    """A causal transformer that takes embeddings, with a projector for visual tokens of `token_dim`.

    Each position also sees its two neighbours before it (a short convolution), and the head is the embedding: with both,
    answering from a context is learned in a hundred steps instead of thousands.
    """

    def __init__(self, vocabulary: int, token_dim: int, longest: int, settings: Training) -> None:
        super().__init__()
        width = settings.width
        self.embed = nn.Embedding(vocabulary, width)
        self.projector = nn.Sequential(
            nn.LayerNorm(token_dim), nn.Linear(token_dim, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.positions = nn.Embedding(longest, width)
        nn.init.normal_(self.embed.weight, std=width**-0.5)
        nn.init.normal_(self.positions.weight, std=0.02)
        self.neighbours = nn.Parameter(torch.tensor([1.0, 0.7, 0.0])[:, None].repeat(1, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, settings.heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(settings.layers)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)
        self.head.weight = self.embed.weight

    def forward(self, inputs: dict[str, Tensor], replies: int) -> Tensor:
        """Logits `[n, replies, vocabulary]` of the last ids of each row; rows are padded on the left."""
        given = inputs["inputs_embeds"]
        before = [F.pad(given, (0, 0, back, 0))[:, : given.shape[1]] for back in range(len(self.neighbours))]
        x = sum(rows * share for rows, share in zip(before, self.neighbours, strict=True)) + self.positions(
            inputs["position_ids"]
        )
        mask = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1)
        for layer in self.layers:
            x = layer(x, mask, is_causal=True)
        logits: Tensor = self.head(self.norm(x[:, -replies - 1 : -1]))
        return logits


def truncated(budget: int) -> View:
    """The last `budget` ids of each context."""

    def view(examples: Sequence[Example]) -> list[Example]:
        found = []
        for example in examples:
            cut = max(0, context_of(example) - budget)
            found.append(replace(example, ids=example.ids[cut:], labels=example.labels[cut:]))
        return found

    return view


def of_another(examples: Sequence[Example]) -> list[Example]:
    """The visual tokens of the next conversation of the batch."""
    return [replace(one, tokens=other.tokens) for one, other in zip(examples, [*examples[1:], examples[0]], strict=True)]


def context_of(example: Example) -> int:
    """Ids before the reply."""
    return sum(label == IGNORED for label in example.labels)


def batches(memory: Memory, settings: Training, *, repeat: bool) -> Any:
    """The public loader: batches of (source_id, Example)."""

    def collate(samples: Sequence[Any]) -> list[tuple[str, Example]]:
        return [(sample["source_id"], sample["example"]) for sample in samples]

    return memory.loader(settings.batch, repeat=repeat, drop_last=False, collate=collate)


def train(
    model: SmallLM,
    memory: Memory,
    view: View,
    settings: Training,
    *,
    saved: Path | None = None,
    save_every: int = 0,
    stop: int | None = None,
) -> list[float]:
    """Train, from what `saved` has if it exists; the loss of each step.

    Args:
        save_every: steps after which model, optimizer and the loader's state go to `saved`, in one rename.
        stop: the step to stop after, before the last one.
    """
    last = settings.steps if stop is None else stop
    optimizer = torch.optim.AdamW(model.parameters(), settings.rate, (0.9, 0.98), weight_decay=0.01)
    loader, losses = batches(memory, settings, repeat=True), []
    if saved is not None and saved.exists():
        state = torch.load(saved)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        loader.load_state_dict(state["loader"])
        losses = state["losses"]
    for batch in loader if len(losses) < last else ():
        step = len(losses)
        for group in optimizer.param_groups:  # a short warm-up, then down to zero
            group["lr"] = settings.rate * min(1, (step + 1) / 30) * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        logits, labels = _predicted(model, view([example for _, example in batch]))
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if saved is not None and save_every and len(losses) % save_every == 0:
            unfinished = saved.with_suffix(".tmp")
            now = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "loader": loader.state_dict()}
            torch.save({**now, "losses": losses}, unfinished)
            unfinished.replace(saved)
        if len(losses) == last:
            break
    return losses


@torch.no_grad()
def answers(
    model: SmallLM, memory: Memory, view: View, settings: Training, reader: TextConsumer, bands: dict[str, dict[str, str]]
) -> Iterator[Answer]:
    """Every id of the replies of a set, each once.

    Args:
        bands: by chat, the band in which each kind of fact occurs; in a reply a value follows its kind.
    """
    kinds = {chat: {reader.encode(kind)[0]: band for kind, band in told.items()} for chat, told in bands.items()}
    for batch in batches(memory, settings, repeat=False):
        logits, labels = _predicted(model, view([example for _, example in batch]))
        losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=IGNORED)
        best = logits.argmax(-1)
        for (chat, _), reply, loss, said in zip(batch, labels.tolist(), losses.tolist(), best.tolist(), strict=True):
            for place, wanted in enumerate(reply):
                if wanted != IGNORED:
                    band = kinds[chat].get(reply[place - 1]) if place else None
                    yield Answer(chat, band, loss[place], said[place] == wanted)


def _predicted(model: SmallLM, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Logits and labels of the replies, which end all rows: contexts are filled up on the left."""
    width = max(len(example.ids) for example in examples)
    filled = []
    for example in examples:
        gap = width - len(example.ids)
        images = tuple((first + gap, rows) for first, rows in example.images)
        ids, labels = (0,) * gap + example.ids, (IGNORED,) * gap + example.labels
        filled.append(replace(example, ids=ids, labels=labels, images=images))
    inputs = inputs_embeds(model.embed, model.projector, filled)
    replies = max(len(example.ids) - context_of(example) for example in examples)
    return model(inputs, replies), inputs["labels"][:, -replies:]
