"""The decoder's output for a cell if its attentions looked exactly where they should.

Where to look and what to make of it are two lessons, and the second hides behind the first: while the attentions wander,
nothing that arrives at a position says which cell is there. Here the attentions are given, so that a cell costs two MLPs instead
of a sequence, and thousands of cells are read in the time of one stretch. The weights are the decoder's own. `guidance.py`
teaches the attentions to look there. One of them, which finds the visual token that an id names, needs as many pages as reading
does, and has a short cut of its own: `looks_at_image`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from palimpsest.codecs.embedded.cell_reader import PATCHES
from palimpsest.codecs.embedded.target import places, template
from palimpsest.codecs.embedded.vocabulary import (
    BOS,
    FIRST_CELL,
    FIRST_TOKEN,
    FIRST_X,
    FIRST_Y,
    STEPS,
    SYMBOLS,
    first_token_ids,
)
from palimpsest.codecs.modes import MODES
from palimpsest.lab.training.guidance import HEADS, HEIGHT_HEADS, by_head, overlap
from palimpsest.pages.layouts.grid import Grid

# N pages, G * G tokens, Q cells, D channels


@lru_cache(maxsize=64)
def _where(columns: int, rows: int, mode: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the cells of a page: token, height id and place id, int64 `[Q]` each, and which heads carry them, bool `[Q, HEADS]`."""
    side = MODES[mode].grid
    inside, tokens, steps = [], [], []
    for count in (rows, columns):
        token, step = (torch.from_numpy(found) for found in places(count, side))
        inside.append(overlap(torch.arange(count), count, side * PATCHES, token * PATCHES))
        tokens.append(token)
        steps.append(step)
    carries = by_head(inside[0][:, None, :, None] & inside[1][None, :, None, :]).flatten(0, 1)
    token = (tokens[0][:, None] * side + tokens[1][None, :]).flatten()
    height = (FIRST_Y + steps[0])[:, None].expand(rows, columns).flatten()
    place = (FIRST_X + steps[1])[None, :].expand(rows, columns).flatten()
    return token, height, place, carries


def read_ideally(decoder: Any, head: Any, features: Tensor, grid: Grid, mode: str, cells: Tensor) -> Tensor:
    """Logits of cells, as `UnlimitedOcr` computes them behind their places with the attentions of `guidance.places_to_look`.

    Args:
        decoder: the language model of `UnlimitedOcrModel`.
        head: its output layer.
        features: visual tokens without newlines, `[N, G * G, D]`.
        cells: int64 `[Q]`, which cells of each page.

    Returns:
        `[N, Q, len(SYMBOLS)]`.
    """
    device = features.device
    token, height, place, carries = (found.to(device)[cells] for found in _where(grid.columns, grid.rows, mode))
    embed, layers = decoder.embed_tokens, decoder.layers

    # Where heads look that have nothing to look for. It is the same for all cells, so all their gradients would agree, and under
    # Adam what it adds would jump at every step by more than a patch says: nothing learns from it here.
    resting = []
    with torch.no_grad():
        rest = embed(torch.tensor([BOS], device=device))
        for layer in layers:
            resting.append(layer.self_attn.v_proj(layer.input_layernorm(rest)))
            rest = rest + layer.self_attn.o_proj(resting[-1])
            rest = rest + layer.mlp(layer.post_attention_layernorm(rest))

    first, second = layers[0], layers[1]
    with torch.no_grad():  # the first attention carries patches as `begin_reading` made it, and the second takes them up so
        ids = first_token_ids()[mode] + torch.arange(features.shape[1], device=device)
        led = embed(ids) + first.self_attn.o_proj(first.self_attn.v_proj(first.input_layernorm(features)))
        led = led + first.mlp(first.post_attention_layernorm(led))
        carried = second.self_attn.v_proj(second.input_layernorm(led))

    pairs, which = torch.unique(place * STEPS + height - FIRST_Y, return_inverse=True)
    looking = embed(torch.div(pairs, STEPS, rounding_mode="floor"))
    with frozen(first):  # heights and places are few: as with BOS, only their embeddings learn
        heights = first.self_attn.v_proj(first.input_layernorm(embed(pairs % STEPS + FIRST_Y)))
        by_height = torch.arange(heights.shape[-1], device=device) < heights.shape[-1] * HEIGHT_HEADS // HEADS
        looking = looking + first.self_attn.o_proj(torch.where(by_height, heights, resting[0]))
        looking = looking + first.mlp(first.post_attention_layernorm(looking))

    seen = torch.where(carries[..., None], carried[:, token].unflatten(-1, (HEADS, -1)), 0.0).flatten(-2)
    with torch.no_grad():  # what the resting heads add
        rests = second.self_attn.o_proj(torch.where(carries[..., None], 0.0, resting[1].unflatten(-1, (HEADS, -1))).flatten(-2))
        behind = [layer.self_attn.o_proj(value) for layer, value in zip(layers[2:], resting[2:], strict=True)]
    hidden = looking[which] + rests + second.self_attn.o_proj(seen)
    hidden = hidden + second.mlp(second.post_attention_layernorm(hidden))
    for layer, added in zip(layers[2:], behind, strict=True):
        hidden = hidden + added
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    symbols = head.weight[FIRST_CELL : FIRST_CELL + len(SYMBOLS)]
    return torch.nn.functional.linear(decoder.norm(hidden), symbols)


@lru_cache(maxsize=64)
def _named_at(columns: int, rows: int, mode: str) -> tuple[Tensor, Tensor]:
    """Where in a page's target the ids of visual tokens are, int64 `[T]`, and which tokens they name, int64 `[T]`."""
    ids = torch.from_numpy(template(columns, rows, mode)[0]).long()
    at = torch.nonzero(ids >= FIRST_TOKEN)[:, 0]
    return at, ids[at] - first_token_ids()[mode]


def looks_at_image(decoder: Any, features: Tensor, grid: Grid, mode: str, count: int) -> tuple[Tensor, Tensor]:
    """How ids of visual tokens, anywhere in the target, look at the image in the first attention, as if no text stood between.

    Of a stretch one id in 18 to 22 looks at the image, and it has to find its token on pages that it never saw.

    Args:
        features: BOS, visual tokens with newlines, and grid, `[N, S, D]`: the input before the first id.
        count: ids, drawn at random from the whole target, the same for all pages.

    Returns:
        scores `[N, H, count, S]`, and the positions that they should be highest at, int64 `[count]`.
    """
    from transformers.models.unlimited_ocr.modeling_unlimited_ocr import apply_rotary_pos_emb

    device, side, prefix = features.device, MODES[mode].grid, features.shape[1]
    at, token = (found.to(device) for found in _named_at(grid.columns, grid.rows, mode))
    drawn = torch.randint(len(at), (count,), device=device)
    at, token = at[drawn], token[drawn]
    layer = decoder.layers[0]
    attention = layer.self_attn

    def heads(projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)

    named = decoder.embed_tokens(first_token_ids()[mode] + token)[None]
    query = heads(attention.q_proj(layer.input_layernorm(named)))
    key = heads(attention.k_proj(layer.input_layernorm(features)))
    query, _ = apply_rotary_pos_emb(query, query, *decoder.rotary_emb(named, position_ids=(prefix + at)[None]))
    key, _ = apply_rotary_pos_emb(key, key, *decoder.rotary_emb(features, position_ids=torch.arange(prefix, device=device)[None]))
    scores = (query @ key.transpose(-1, -2)).float() * attention.scaling
    return scores, 1 + torch.div(token, side, rounding_mode="floor") * (side + 1) + token % side


@contextmanager
def frozen(layer: Any) -> Iterator[None]:
    """Computation in here trains no weights of `layer`, only its input."""
    weights = [weight for weight in layer.parameters() if weight.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)
