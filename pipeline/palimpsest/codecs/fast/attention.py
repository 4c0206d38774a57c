"""Attention over a square grid with SAM's decomposed relative positions.

    score(q, k) = q·k / √d + q·h[row of q, row of k] + q·w[column of q, column of k]

transformers writes the last two terms out as a bias `[heads, n², n²]`: at 1024 px 400 MB per page and layer in bfloat16, written
once and read once. None of the ways here does, except "bias", which is kept to compare with and for small windows on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

ALIGNED = 8  # fused kernels want widths that are multiples of this


def position_terms(q: Tensor, table_h: Tensor, table_w: Tensor) -> tuple[Tensor, Tensor]:
    """The two position terms of every query, for every row and for every column of keys.

    Args:
        q: `[n, heads, side², d]`, rows of the grid one behind the other.
        table_h, table_w: `[side, side, d]`, the vector of (query row, key row) and of (query column, key column).

    Returns:
        Two `[n, heads, side², side]`.
    """
    side = len(table_h)
    grid = q.unflatten(2, (side, side))
    rows = torch.einsum("nabwd,bkd->nabwk", grid, table_h)
    columns = torch.einsum("nabwd,wkd->nabwk", grid, table_w)
    return rows.flatten(2, 3), columns.flatten(2, 3)


def biased(q: Tensor, k: Tensor, v: Tensor, table_h: Tensor, table_w: Tensor) -> Tensor:
    """The terms as a bias that lies in memory, as transformers does it."""
    rows, columns = position_terms(q, table_h, table_w)
    bias = (rows[..., :, None] + columns[..., None, :]).flatten(3)
    return scaled_dot_product_attention(q, k, v, attn_mask=bias)


def augmented(q: Tensor, k: Tensor, v: Tensor, table_h: Tensor, table_w: Tensor, *, pad_values: bool = False) -> Tensor:
    """The terms as more features: q' = (q, √d · rows, √d · columns), k' = (k, one-hot row, one-hot column).

    Then q'·k' / √d is the score. Any attention without a bias will do then, at d + 2 · side features instead of d.

    Args:
        pad_values: widen v to q' with zeros, as FlashAttention wants it; other kernels take it as it is.
    """
    d, side = q.shape[-1], len(table_h)
    rows, columns = position_terms(q, table_h * math.sqrt(d), table_w * math.sqrt(d))
    fill = -(d + 2 * side) % ALIGNED
    wide_q = pad(torch.cat([q, rows, columns], -1), (0, fill))
    wide_k = torch.cat([k, _places(side, fill, k.device, k.dtype).expand(*k.shape[:2], -1, -1)], -1)
    wide_v = pad(v, (0, wide_q.shape[-1] - d)) if pad_values else v
    return scaled_dot_product_attention(wide_q, wide_k, wide_v, scale=d**-0.5)[..., :d]


def augmented_flash(q: Tensor, k: Tensor, v: Tensor, table_h: Tensor, table_w: Tensor) -> Tensor:
    """`augmented` with widened values, for FlashAttention."""
    return augmented(q, k, v, table_h, table_w, pad_values=True)


def flexible(q: Tensor, k: Tensor, v: Tensor, table_h: Tensor, table_w: Tensor) -> Tensor:
    """The terms looked up inside the kernel that FlexAttention generates."""
    side = len(table_h)
    rows, columns = position_terms(q, table_h, table_w)

    def score(value: Tensor, page: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return value + rows[page, head, query, key // side] + columns[page, head, query, key % side]

    return _flex()(q, k, v, score_mod=score)


def tiled(q: Tensor, k: Tensor, v: Tensor, table_h: Tensor, table_w: Tensor) -> Tensor:
    """The terms added inside a kernel whose tiles are rows of the grid: `grid_kernel`."""
    from palimpsest.codecs.fast.grid_kernel import grid_attention

    return grid_attention(q, k, v, table_h, table_w)


Attention = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
WAYS: dict[str, Attention] = {
    "tiled": tiled,
    "augmented": augmented,
    "augmented-flash": augmented_flash,
    "flex": flexible,
    "bias": biased,
}


def _places(side: int, fill: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """One-hot row and column of every key, and zeros: `[side², 2 · side + fill]`."""
    eye = torch.eye(side, device=device, dtype=dtype)
    rows, columns = eye.repeat_interleave(side, 0), eye.repeat(side, 1)
    return pad(torch.cat([rows, columns], 1), (0, fill))


@cache
def _flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)
