"""Later passes without padding: the tokens of all pages in one row, unpacked for attention alone.

After the first pass a batch is ragged: one page drafts four hundred tokens, another twenty. With padding to the longest, more
than half of the work of linear layers and experts would be wasted (64 pages of 480 tokens with 3 % of errors: 112,000 tokens for
51,000). Packed, every token passes them once. Attention still needs one row per page, because each page has its own keys: there
the queries are copied into padded rows and back, which is a small part of a decoder's work.

A packed mask is passed like any other mask. transformers' "sdpa" unpacks it with the function here, and is otherwise unchanged.
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
    """A mask, and the positions of the packed tokens in it.

    Attributes:
        mask: `[rows, 1, longest, columns]`, one row per page; entries after a page's last token are not read.
        indices: `row * longest + number in the row` of every packed token, `[n]`.
    """

    mask: Tensor
    indices: Tensor


def _attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, *args: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    """transformers' attention; with a packed mask, queries `[1, heads, n, d]` see the keys of their row `[rows, heads, m, d]`."""
    if not isinstance(attention_mask, Packed):
        return sdpa_attention_forward(module, query, key, value, attention_mask, *args, **kwargs)
    rows, _, longest, _ = attention_mask.mask.shape
    heads, count, width = query.shape[1:]
    padded = query.new_zeros(rows * longest, heads, width)
    padded[attention_mask.indices] = query[0].transpose(0, 1)
    padded = padded.view(rows, longest, heads, width).transpose(1, 2)
    mixed, _ = sdpa_attention_forward(module, padded, key, value, attention_mask.mask, *args, **kwargs)
    return mixed.reshape(rows * longest, heads, -1)[attention_mask.indices][None], None


def install() -> None:
    """Teach "sdpa" of transformers packed masks; with any other mask it is unchanged."""
    if ALL_ATTENTION_FUNCTIONS["sdpa"] is not _attend:
        ALL_ATTENTION_FUNCTIONS["sdpa"] = _attend
