"""Later passes without padding: the tokens of all pages behind each other, unpacked for attention alone.

After the first pass a batch is ragged: one page drafts four hundred tokens, its neighbour twenty. Padded to the longest, more
than half of what linear layers and experts compute would be thrown away (64 pages of 480 tokens with 3 % of errors: 112,000
tokens for 51,000). Packed, every token goes through them once. Attention still wants one row per page, because each sees keys of
its own: there the queries are put into padded rows and taken out again, which is a small part of a decoder's work.

A packed mask goes where a mask goes. transformers' "sdpa" is asked to unpack it here, and computes everything else as before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


@dataclass(frozen=True)
class Packed:
    """A mask, and where the packed tokens stand in it.

    Attributes:
        mask: `[rows, 1, longest, columns]`, of one row per page; what stands behind a page's last token is not read.
        places: `row * longest + number in the row` of every packed token, `[n]`.
    """

    mask: Tensor
    places: Tensor


def _attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, *args: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    """transformers' attention; with a packed mask, queries `[1, heads, n, d]` see the keys of their row `[rows, heads, m, d]`."""
    if not isinstance(attention_mask, Packed):
        return sdpa_attention_forward(module, query, key, value, attention_mask, *args, **kwargs)
    rows, _, longest, _ = attention_mask.mask.shape
    heads, count, width = query.shape[1:]
    padded = query.new_zeros(rows * longest, heads, width)
    padded[attention_mask.places] = query[0].transpose(0, 1)
    padded = padded.view(rows, longest, heads, width).transpose(1, 2)
    mixed, _ = sdpa_attention_forward(module, padded, key, value, attention_mask.mask, *args, **kwargs)
    return mixed.reshape(rows * longest, heads, -1)[attention_mask.places][None], None


def install() -> None:
    """Let "sdpa" of transformers know packed masks; with any other mask it is what it was."""
    if ALL_ATTENTION_FUNCTIONS["sdpa"] is not _attend:
        ALL_ATTENTION_FUNCTIONS["sdpa"] = _attend
