"""The weights of the generative decoder that learn in each of its two lessons.

Reading (what a cell says) and writing (where to look, and the ids between the cells) would share the MLPs and the output layer,
and what writing asks of them drives reading out. So each has weights of its own, and what one changes, the other leaves as it is:

reading   the MLPs of the second and third layers without WRITING units, and the norms before them; the second attention's
          output; the embeddings of heights and places, the output rows of symbols
writing   those WRITING units; the queries and keys of all layers; the third attention's values and output; the embeddings of
          symbols, grids and EOS, all other output rows
neither   what carries patches (`guidance.begin_reading`), the first MLP, the embeddings of BOS and of visual tokens

The model that ships is the stock class.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from palimpsest.codecs.embedded.vocabulary import BOS, FIRST_CELL, FIRST_TOKEN, FIRST_Y, SYMBOLS

Lesson = Literal["reading", "writing"]
WRITING = 320  # of the 768 units of an MLP


def taught(model: Any, lesson: Lesson) -> Iterator[tuple[nn.Parameter, Tensor | None]]:
    """The decoder's weights and which of them learn: None for none, else 1 and 0, broadcast over the weights.

    Args:
        model: `UnlimitedOcrForConditionalGeneration`.
    """
    decoder, head = model.model.language_model, model.lm_head
    reading = lesson == "reading"
    ids = torch.arange(len(head.weight), device=head.weight.device)[:, None]
    symbols = (ids >= FIRST_CELL) & (ids < FIRST_CELL + len(SYMBOLS))
    places = (ids >= FIRST_Y) & (ids < FIRST_TOKEN)
    learns: dict[nn.Parameter, Tensor] = {
        head.weight: symbols if reading else ~symbols,
        decoder.embed_tokens.weight: places if reading else ~places & (ids != BOS) & (ids < FIRST_TOKEN),
    }
    everything = torch.ones((), dtype=torch.bool, device=ids.device)
    for layer in decoder.layers[1:]:
        units = torch.arange(layer.mlp.gate_proj.out_features, device=ids.device)
        own = units < len(units) - WRITING if reading else units >= len(units) - WRITING
        learns |= {layer.mlp.gate_proj.weight: own[:, None], layer.mlp.up_proj.weight: own[:, None]}
        learns |= {layer.mlp.down_proj.weight: own[None, :]}
    if reading:
        norms = [decoder.norm, *(layer.post_attention_layernorm for layer in decoder.layers[1:])]
        learns |= {norm.weight: everything for norm in norms}
        learns[decoder.layers[1].self_attn.o_proj.weight] = everything
    else:
        third = decoder.layers[2].self_attn
        learns |= {third.v_proj.weight: everything, third.o_proj.weight: everything}
        for layer in decoder.layers:
            learns |= {layer.self_attn.q_proj.weight: everything, layer.self_attn.k_proj.weight: everything}
    for weights in (*decoder.parameters(), *head.parameters()):
        which = learns.get(weights)
        yield weights, None if which is None else which.to(weights.dtype)


def keep_gradients(lesson: list[tuple[nn.Parameter, Tensor | None]]) -> None:
    """Leave only the gradients of what learns in this lesson."""
    for weights, which in lesson:
        if weights.grad is not None:
            weights.grad = None if which is None else weights.grad * which


@torch.no_grad()
def rest_quietly(model: Any) -> None:
    """Take out of the third attention's values what BOS would add where its heads rest: nothing then changes what is read."""
    decoder = model.model.language_model
    hidden = decoder.embed_tokens(torch.tensor([BOS], device=decoder.embed_tokens.weight.device))
    for layer in decoder.layers[:2]:
        attention = layer.self_attn
        hidden = hidden + attention.o_proj(attention.v_proj(layer.input_layernorm(hidden)))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    third = decoder.layers[2]
    at_bos = torch.nn.functional.normalize(third.input_layernorm(hidden)[0], dim=0)
    values = third.self_attn.v_proj.weight
    values -= torch.outer(values @ at_bos, at_bos)
