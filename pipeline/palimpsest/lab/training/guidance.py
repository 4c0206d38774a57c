"""Where the decoder should look, as an extra loss while it learns to read, and the weights from which it begins.

A decoder that must find the visual token of every character by trial and error needs millions of pages. The addresses say where
each character lies, so the attentions can be taught directly. In the first, the id of a visual token looks at that token, and
two of the heads of a place look at the height. In the second, the place looks back at the id of its token, with only those
heads which carry the patches that the cell lies in. Its other heads, and all in the layers behind, rest on BOS. What arrives is
then the cell's own patches, and the MLPs read them (`ideal_reading.py`).

The ids between cells follow from the ids before them: in the first attention a cell and a height look, a quarter of
the heads each, at the id before them, at their token's id, at its height and at the grid. The id of a token has no head to spare
there; its third attention looks at the id before it, which has gathered all that. The model that ships is the stock class.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palimpsest.codecs.embedded.cell_reader import PATCHES
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
from palimpsest.lab.training.lessons import WRITING, rest_quietly
from palimpsest.pages.characters import END
from palimpsest.pages.layouts.grid import Grid

# N pages, L ids of the stretch, S = prefix + L positions of the sequence, H heads
HEADS = 16  # each carries one patch of a token: (lower half, right half, lower patch of it, right patch of it)
HEIGHT_HEADS = 2  # of the first layer: these look at the height
FREE, REST = -1, 0  # REST is the position of BOS
WORTH = 0.15
BEGINS = 4  # a kind of ids in addition to those of `kinds_of`: the first two of a target


def places_to_look(given: Tensor, starts: Tensor, grid: Grid, mode: str, prefix: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each given id and head, the sequence position that its three attentions should look at, FREE where they may choose.

    Args:
        given: int64 `[N, L]`, padded with -100; each row begins with the id of a token.
        starts: int64 `[N]`, where in the target it begins.
        prefix: positions before the first id.

    Returns:
        int64 `[N, H, L]` each.
    """
    side = MODES[mode].grid
    columns = _token_of(torch.arange(grid.columns), grid.columns, side)
    first_column = torch.searchsorted(columns, torch.arange(side)).to(given.device)
    is_token = given >= FIRST_TOKEN
    at = torch.arange(given.shape[1], device=given.device).expand_as(given)
    leading = torch.where(is_token, at, torch.zeros_like(at)).cummax(1).values
    token = given.gather(1, leading) - first_token_ids()[mode]
    visual = 1 + torch.div(token, side, rounding_mode="floor") * (side + 1) + token % side
    reads = (given >= FIRST_X) & (given < FIRST_X + STEPS)  # a place reads the cell behind it
    height_at = (leading + 1).clamp(max=given.shape[1] - 1)
    height = (given.gather(1, height_at) - FIRST_Y).clamp(0, STEPS - 1)

    token_row = torch.div(token, side, rounding_mode="floor")
    row = ((token_row + (height + 0.5) / STEPS) * grid.rows / side - 0.5).round().long().clamp(0, grid.rows - 1)
    column = first_column[(token % side).clamp(0, side - 1)] + torch.div(
        (at - leading - 2).clamp(min=0), 2, rounding_mode="floor"
    )
    patches = side * PATCHES
    inside = [
        overlap(place.clamp(max=count - 1), count, patches, origin)
        for place, count, origin in (
            (row, grid.rows, token_row * PATCHES),
            (column, grid.columns, token % side * PATCHES),
        )
    ]  # [N, L, 4] each: does the cell lie, to a part worth having, in each patch row and column of its token?
    patch = inside[0][..., :, None] & inside[1][..., None, :]
    carries = by_head(patch)

    first = torch.full((*given.shape, HEADS), FREE, device=given.device)
    first = torch.where(is_token[..., None], visual[..., None], first)
    is_cell = (given >= FIRST_CELL) & (given < FIRST_CELL + len(SYMBOLS))
    gathers = is_cell | (given >= FIRST_Y) & (given < FIRST_Y + STEPS)
    sources = torch.stack([prefix + at - 1, prefix + leading, prefix + height_at, torch.full_like(at, prefix - 1)], -1)
    first = torch.where(gathers[..., None], sources.repeat_interleave(HEADS // 4, -1), first)
    height_heads = torch.arange(HEADS, device=given.device) < HEIGHT_HEADS
    first = torch.where(reads[..., None], torch.where(height_heads, (prefix + height_at)[..., None], REST), first)
    free = torch.full_like(first, FREE)
    known = (given >= 0)[..., None]
    second = torch.where(reads[..., None] & carries, (prefix + leading)[..., None], torch.where(known, REST, free))
    before = torch.where(is_token[..., None], (prefix + at - 1)[..., None], REST)
    before = torch.where((is_token & (at == 0) & (starts[:, None] > 0))[..., None], FREE, before)  # what stood there is not given
    third = torch.where(known, before, free)
    return first.transpose(1, 2), second.transpose(1, 2), third.transpose(1, 2)


def _token_of(place: Tensor, count: int, side: int) -> Tensor:
    """The token row (or column) that holds the centre of text row (or column) `place` of `count`."""
    return torch.div((2 * place + 1) * side, 2 * count, rounding_mode="floor")


def kinds_of(ids: Tensor) -> Tensor:
    """0 to 3 for the id of a token, a place, a height and any other; of the same shape."""
    return 3 - (ids >= FIRST_Y).long() - (ids >= FIRST_X).long() - (ids >= FIRST_TOKEN).long()


def evenly(loss: Tensor, counts: Tensor, kinds: Tensor, number: int = 4) -> Tensor:
    """The mean over `number` kinds of each one's mean loss: rare ids have as much to learn as frequent ones. All `[N, .., L]`."""
    means = []
    for kind in range(number):
        which = counts & (kinds == kind)
        means.append((loss * which).sum() / which.sum().clamp(min=1))
    return torch.stack(means).mean()


def by_head(patch: Tensor) -> Tensor:
    """The known facts of each patch of a token, `[.., 4, 4]`, in the order of the token's channels, `[.., HEADS]`."""
    return patch.unflatten(-1, (2, 2)).unflatten(-3, (2, 2)).transpose(-3, -2).flatten(-4)


def overlap(place: Tensor, count: int, patches: int, origin: Tensor) -> Tensor:
    """Which of the 4 patch rows (or columns) from `origin` on hold at least WORTH of text row (or column) `place`."""
    begin, end = place * patches / count, (place + 1) * patches / count
    low = origin[..., None] + torch.arange(PATCHES, device=place.device)
    shared = torch.minimum(end[..., None], low + 1.0) - torch.maximum(begin[..., None], low.float())
    return shared >= WORTH * patches / count


@torch.no_grad()
def begin_reading(model: Any, spread: Tensor, seed: int = 0) -> None:
    """Give the decoder of `UnlimitedOcrForConditionalGeneration` weights with which looking as above carries patches to cells.

    The first MLP gives out nothing, and neither do yet the units of the others that belong to writing (`lessons.py`).

    Args:
        spread: `[D, D]`, the cell reader's unpacking of a token into patches; the values of the first attention.
    """
    generator = torch.Generator().manual_seed(seed)
    decoder = model.model.language_model
    first, second = (layer.self_attn for layer in decoder.layers[:2])
    dim = spread.shape[0]
    # the layers' norms make them large enough to look with; where the patches are added to them, they should not be in the way
    decoder.embed_tokens.weight[FIRST_TOKEN:] *= 0.04
    # where to look next does not depend on what a cell says, and a rare symbol would not learn that by itself
    symbols = [FIRST_CELL + place for place, code in enumerate(SYMBOLS) if code != END]
    decoder.embed_tokens.weight[symbols] = decoder.embed_tokens.weight[symbols[0]].clone()
    bos = torch.nn.functional.normalize(decoder.embed_tokens.weight[BOS], dim=0)
    nothing_from_bos = torch.eye(dim, device=bos.device) - torch.outer(bos, bos)
    first.v_proj.weight.copy_(spread @ nothing_from_bos)
    first.o_proj.weight.copy_(torch.eye(dim, device=bos.device))
    second.v_proj.weight.copy_(nothing_from_bos)
    # the quarters of a token write to the same places: a cell that lies in 2x2 patches needs no two of the same parities
    narrow = torch.linalg.qr(torch.randn(dim, dim // 4, generator=generator)).Q
    second.o_proj.weight.copy_(2.0 * narrow.repeat(1, 4))
    for layer in decoder.layers:
        for weights in (layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj):
            weights.weight.normal_(std=0.03)
        layer.mlp.down_proj.weight[:, -WRITING:] = 0.0
    decoder.layers[0].mlp.down_proj.weight.zero_()
    rest_quietly(model)


def guided_forward(
    decoder: nn.Module, inputs: Tensor, positions: Tensor, look: tuple[Tensor, ...], kinds: Tensor, prefix: int
) -> tuple[Tensor, Tensor]:
    """The decoder's last hidden states `[N, S, D]` and the guidance loss; the same arithmetic as the stock forward pass.

    Attentions without a place to look at run fused, the others keep their scores.

    Args:
        decoder: the language model of `UnlimitedOcrModel`.
        inputs: embeddings `[N, S, D]`.
        positions: int64 `[N, S]`.
        look: as `places_to_look` returns, for the first layers; empty guides none.
        kinds: int64 `[N, L]`, as `kinds_of` returns.
    """
    from transformers.models.unlimited_ocr.modeling_unlimited_ocr import apply_rotary_pos_emb

    hidden = inputs
    cos, sin = decoder.rotary_emb(hidden, position_ids=positions)  # type: ignore[operator]
    if look:
        future = torch.ones(inputs.shape[1], inputs.shape[1], dtype=torch.bool, device=inputs.device).triu(1)
    loss = inputs.new_zeros((), dtype=torch.float32)
    for number, layer in enumerate(decoder.layers):  # type: ignore[arg-type]
        attention = layer.self_attn
        normed = layer.input_layernorm(hidden)
        shape = (*normed.shape[:-1], -1, attention.head_dim)
        query, key, value = (
            projection(normed).view(shape).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
        if number < len(look):
            scores = (query @ key.transpose(-1, -2)).float() * attention.scaling
            scores = scores.masked_fill(future, -1e4)
            missed = F.cross_entropy(
                scores[:, :, prefix:].flatten(0, 2), look[number].flatten(), ignore_index=FREE, reduction="none"
            )
            loss = loss + evenly(missed.view_as(look[number]), look[number] != FREE, kinds[:, None])
            mixed = scores.softmax(-1).to(value.dtype) @ value
        else:
            query, key = query.to(value.dtype), key.to(value.dtype)
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=attention.scaling)
        hidden = hidden + attention.o_proj(mixed.transpose(1, 2).flatten(2))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return decoder.norm(hidden), loss  # type: ignore[operator]
