"""Tokens that say where on the page they are, in directions that the cell reader does not look at.

The decoder finds the visual token that an address names by what the token itself says of its place, and through one linear map:
its first attention's keys. The mixing encoder knows the place (it is given it), but nothing makes it part of the tokens, and a
cell reader that is told where it reads lets it fade. Here the projector is changed to write it, without training: into the few
directions that the cell reader's unpacking of a token passes on least, so that what is read stays the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from palimpsest.codecs.embedded.target import ALPHABET
from palimpsest.codecs.embedded.vocabulary import FIRST_TOKEN, MODE_NAMES
from palimpsest.codecs.modes import MODES
from palimpsest.lab.training.codec_pages import Batch, PageSampler
from palimpsest.lab.training.trainee import Trainee, has_bf16
from palimpsest.pages.layouts.grid import Grid

HARMONICS = (1, 5)  # half turns over the page: the slow one tells far places apart, the quick one near ones
CODE = 4 * len(HARMONICS)
LOUDNESS = 1.4  # of the code, over that of the other channels
RIDGE = 1e-3
FITTING_STEPS = 600
BATCH = 6
GRIDS_TO_FIT = ("64x32", "80x40", "96x48", "112x56", "128x64")
GRIDS_TO_FIT_LARGE = ("64x32", "96x48", "128x64", "160x80", "192x96")
KEYS, QUERIES = 3.0, 4.0  # how loud; the id then looks at its token by some nats, and learns the rest


def place_code(side: int) -> Tensor:
    """Waves of the places of the tokens of a page, each of mean square 1, `[side * side, CODE]`."""
    turns = (torch.arange(side) + 0.5)[:, None] / side * math.pi * torch.tensor(HARMONICS)
    axis = torch.cat([turns.cos(), turns.sin()], 1) * math.sqrt(2.0)
    down, across = axis[:, None].expand(side, side, -1), axis[None].expand(side, side, -1)
    return torch.cat([down, across], -1).flatten(0, 1)


def pages_of_every_mode(text: str, seed: int, pages: int) -> Iterator[Batch]:
    """About `pages` pages in mode tiny, two thirds as many in small and a sixth in the others, of all kinds of text."""
    sampler = PageSampler(text, seed * 1009 + 77)
    count = max(2, pages // BATCH)
    for number in range(count):
        for place, mode in enumerate(MODE_NAMES):
            names = GRIDS_TO_FIT if MODES[mode].grid < 16 else GRIDS_TO_FIT_LARGE
            size = (BATCH, BATCH * 2 // 3, 1, 1)[place]
            yield sampler.batch(Grid.parse(names[number % len(names)], ALPHABET), mode, size, stretch=1)


def unread(trainee: Trainee) -> Tensor:
    """The directions of a token that the cell reader's unpacking passes on least, `[CODE, D]`, orthonormal."""
    return torch.linalg.svd(trainee.reader.spread.weight.detach()).Vh[-CODE:]


@torch.no_grad()
def mark_places(trainee: Trainee, pages: Iterable[Batch], device: str = "cpu") -> dict[str, Any]:
    """Change the projector so that tokens carry `place_code`.

    Args:
        pages: of every mode that the codec has; what the code is fitted on.

    Returns:
        tokens it was fitted on, and how well it places (`_fit`).
    """
    tower, projector = trainee.model.model.vision_tower, trainee.model.model.multi_modal_projector
    taken: list[Tensor] = []
    watching = tower.vision_encoder.register_forward_hook(lambda _, __, out: taken.append(out.last_hidden_state[:, 1:]))
    inputs, targets, sides, loudness = [], [], [], []
    try:
        for batch in pages:
            drawn = torch.from_numpy(batch.drawn).to(device)
            with torch.autocast(device, torch.bfloat16, enabled=has_bf16(device)):
                _, tokens = trainee.encode(trainee.paint(drawn, batch.grid, batch.mode))
            mixed = taken.pop().float()
            inputs.append(mixed.flatten(0, 1))
            sides.append(MODES[batch.mode].grid)
            targets.append(place_code(MODES[batch.mode].grid).to(device).repeat(len(mixed), 1))
            loudness.append(tokens.float().square().mean())
    finally:
        watching.remove()
    loud = LOUDNESS * torch.stack(loudness).mean().sqrt()
    fitted, bias, placed = _fit(inputs, targets, sides)
    directions = unread(trainee)
    width = inputs[0].shape[1]
    projector.weight -= directions.T @ (directions @ projector.weight)
    projector.bias -= directions.T @ (directions @ projector.bias)
    projector.weight[:, :width] += loud * directions.T @ fitted.T
    projector.bias += loud * directions.T @ bias
    return {"tokens": sum(map(len, inputs)), "placed": placed}


def _fit(inputs: list[Tensor], targets: list[Tensor], sides: list[int]) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Ridge regression of codes on what the mixing encoder says, every batch weighing the same.

    Returns:
        weights, bias, and for each size of page the share of tokens that a fit on half of the batches places right in the others.
    """
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0)).tolist()

    def solve(chosen: list[int]) -> tuple[Tensor, Tensor]:
        gram = torch.zeros(inputs[0].shape[1] + 1, inputs[0].shape[1] + 1, dtype=torch.float64, device=inputs[0].device)
        cross = torch.zeros(len(gram), CODE, dtype=torch.float64, device=gram.device)
        for number in chosen:
            given = torch.cat([inputs[number], inputs[number].new_ones(len(inputs[number]), 1)], 1).double()
            gram += given.T @ given / len(given)
            cross += given.T @ targets[number].double() / len(given)
        gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), device=gram.device)
        found = torch.linalg.solve(gram, cross).float()
        return _told_apart(found[:-1], found[-1], [(inputs[n], targets[n][: sides[n] ** 2]) for n in chosen])

    weights, bias = solve(order[::2])
    found: dict[str, list[float]] = {}
    for number in order[1::2]:
        codes, _ = targets[number].split((sides[number] ** 2, len(targets[number]) - sides[number] ** 2))
        nearest = ((inputs[number] @ weights + bias) @ codes.T).argmax(-1)
        right = nearest == torch.arange(len(codes), device=nearest.device).repeat(len(nearest) // len(codes))
        found.setdefault(f"{sides[number]}x{sides[number]}", []).append(float(right.float().mean()))
    return *solve(order), {name: sum(shares) / len(shares) for name, shares in found.items()}


@torch.enable_grad()
def _told_apart(weights: Tensor, bias: Tensor, batches: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Go on from a regression until each code is nearest to its own place: few tokens are far off, and those decide."""
    learned = [weights.clone().requires_grad_(), bias.clone().requires_grad_(), torch.tensor(4.0, requires_grad=True)]
    optimiser = torch.optim.Adam(learned, lr=0.003)
    order = torch.Generator().manual_seed(1)
    for step in range(FITTING_STEPS):
        for group in optimiser.param_groups:
            group["lr"] = 0.003 * (1 - step / FITTING_STEPS)
        loss = torch.zeros((), device=weights.device)
        for number in torch.randint(len(batches), (8,), generator=order).tolist():
            given, codes = batches[number]
            scores = learned[2] * (given @ learned[0] + learned[1]) @ codes.T
            own = torch.arange(len(codes), device=given.device).repeat(len(given) // len(codes))
            loss = loss + torch.nn.functional.cross_entropy(scores, own)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    weights, bias = (found.detach() for found in learned[:2])
    loud = torch.cat([given @ weights + bias for given, _ in batches]).square().mean().sqrt()
    return weights / loud, bias / loud


@torch.no_grad()
def look_for_places(trainee: Trainee) -> None:
    """Give the decoder's first attention queries and keys with which the id of a visual token finds the token at its place.

    They lie in the channels that rotary positions turn slowest; what the turn still spoils over a long page is left to learn.
    """
    decoder = trainee.model.model.language_model
    attention = decoder.layers[0].self_attn
    directions = unread(trainee).to(attention.k_proj.weight)
    named = decoder.embed_tokens.weight[FIRST_TOKEN : FIRST_TOKEN + sum(MODES[mode].num_vision_tokens for mode in MODE_NAMES)]
    codes = torch.cat([place_code(MODES[mode].grid) for mode in MODE_NAMES]).to(named)
    asking = codes.T @ torch.linalg.pinv(torch.nn.functional.rms_norm(named, named.shape[-1:])).T
    slow = attention.head_dim // 2 - 1 - torch.arange(CODE)
    for head in range(attention.q_proj.out_features // attention.head_dim):
        attention.k_proj.weight[head * attention.head_dim + slow] += KEYS * directions
        attention.q_proj.weight[head * attention.head_dim + slow] += QUERIES * asking
