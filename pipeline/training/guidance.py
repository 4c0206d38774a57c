"""Where the decoder should look, as an extra loss while it learns to read.

A decoder that must find the visual token of every character by trial and error needs millions of pages. The addresses say where
each character lies, so two attentions can be taught directly: in the first layer the id of a visual token looks at that token, in
the second a cell looks at the id of the token that it lies in. The model that ships is the stock class.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.codecs.embedded.vocabulary import FIRST_TOKEN, first_token_ids
from pipeline.codecs.modes import MODES

# N pages, L ids of the stretch, S = prefix + L positions of the sequence, H heads
LOOKING_HEADS = (8, 6)  # of the first two layers; the rest are free


def places_to_look(given: Tensor, mode: str, prefix: int) -> tuple[Tensor, Tensor]:
    """For each given id, the sequence position that its first two attentions should look at, -1 where they are free.

    Args:
        given: int64 `[N, L]`, padded with -100; each row begins with the id of a token.
        prefix: positions before the first id.

    Returns:
        for the first layer the visual token of its id, for the second the id of a cell's token; int64 `[N, L]` each.
    """
    side = MODES[mode].grid
    is_token = given >= FIRST_TOKEN
    token = given - first_token_ids()[mode]
    visual = 1 + torch.div(token, side, rounding_mode="floor") * (side + 1) + token % side
    at = torch.arange(given.shape[1], device=given.device).expand_as(given)
    leading = torch.where(is_token, at, torch.zeros_like(at)).cummax(1).values
    reads = (given >= 0) & ~is_token  # the row id reads the first cell, a cell the next one
    free = torch.full_like(given, -1)
    return torch.where(is_token, visual, free), torch.where(reads, prefix + leading, free)


def guided_forward(
    decoder: Any, inputs: Tensor, positions: Tensor, look: tuple[Tensor, Tensor], prefix: int
) -> tuple[Tensor, Tensor]:
    """The decoder's last hidden states `[N, S, D]` and the guidance loss; the same arithmetic as the stock forward pass.

    Args:
        decoder: the language model of `UnlimitedOcrModel`.
        inputs: embeddings `[N, S, D]`.
        positions: int64 `[N, S]`.
        look: as `places_to_look` returns.
    """
    from transformers.models.unlimited_ocr.modeling_unlimited_ocr import apply_rotary_pos_emb

    hidden = inputs
    cos, sin = decoder.rotary_emb(hidden, position_ids=positions)
    length = inputs.shape[1]
    future = torch.ones(length, length, dtype=torch.bool, device=inputs.device).triu(1)
    loss = inputs.new_zeros((), dtype=torch.float32)
    for number, layer in enumerate(decoder.layers):
        attention = layer.self_attn
        normed = layer.input_layernorm(hidden)
        shape = (*normed.shape[:-1], -1, attention.head_dim)
        query, key, value = (
            projection(normed).view(shape).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
        scores = (query @ key.transpose(-1, -2)).float() * attention.scaling
        scores = scores.masked_fill(future, -1e4)
        if number < len(LOOKING_HEADS):
            wanted = look[number]
            rows = scores[:, : LOOKING_HEADS[number], prefix:]
            targets = wanted[:, None].expand(-1, rows.shape[1], -1)
            loss = loss + F.cross_entropy(rows.flatten(0, 2), targets.flatten(), ignore_index=-1)
        mixed = scores.softmax(-1).to(value.dtype) @ value
        hidden = hidden + attention.o_proj(mixed.transpose(1, 2).flatten(2))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return decoder.norm(hidden), loss
