"""Attention over a square grid as a Triton kernel: one tile of keys is one row of the grid.

Then the row term is one number per query and tile, and the column terms are the same for every tile: they are loaded once and
stay in registers. So the positions cost two additions per score and no memory. Rows that are no power of two are padded to one
with masked keys (40 to 64, 80 to 128), which is the price of its simplicity.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2E = 1.4426950408889634
LEAST_TILE = 16  # what the matrix units multiply at least


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    q_at, k_at, v_at, rows_at, columns_at, out_at,
    q_n, q_h, q_m, k_n, k_h, k_m, v_n, v_h, v_m,
    heads, scale,
    SIDE: tl.constexpr, TILE: tl.constexpr, DIM: tl.constexpr, QUERIES: tl.constexpr, LOG2E: tl.constexpr,
):  # fmt: skip
    page = (tl.program_id(1) // heads).to(tl.int64)
    head = (tl.program_id(1) % heads).to(tl.int64)
    whole = tl.program_id(1).to(tl.int64)
    count: tl.constexpr = SIDE * SIDE
    query = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    there = query < count
    feature = tl.arange(0, DIM)
    column = tl.arange(0, TILE)
    valid = column < SIDE
    q = tl.load(q_at + page * q_n + head * q_h + query[:, None] * q_m + feature[None, :], mask=there[:, None], other=0.0)
    terms = (whole * count + query) * SIDE
    by_column = tl.load(columns_at + terms[:, None] + column[None, :], mask=there[:, None] & valid[None, :], other=0.0)
    by_column = tl.where(valid[None, :], by_column.to(tl.float32) * LOG2E, float("-inf"))
    best = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    summed = tl.zeros([QUERIES, DIM], tl.float32)
    for row in range(SIDE):
        key = row * SIDE + column
        k = tl.load(k_at + page * k_n + head * k_h + key[None, :] * k_m + feature[:, None], mask=valid[None, :], other=0.0)
        by_row = tl.load(rows_at + terms + row, mask=there, other=0.0).to(tl.float32) * LOG2E
        score = tl.dot(q, k, input_precision="ieee") * (scale * LOG2E) + by_column + by_row[:, None]
        higher = tl.maximum(best, tl.max(score, 1))
        weight = tl.exp2(score - higher[:, None])
        fade = tl.exp2(best - higher)
        total = total * fade + tl.sum(weight, 1)
        v = tl.load(v_at + page * v_n + head * v_h + key[:, None] * v_m + feature[None, :], mask=valid[:, None], other=0.0)
        summed = summed * fade[:, None] + tl.dot(weight.to(v.dtype), v, input_precision="ieee")
        best = higher
    out = out_at + (whole * count + query[:, None]) * DIM + feature[None, :]
    tl.store(out, (summed / total[:, None]).to(out_at.dtype.element_ty), mask=there[:, None])


@torch.library.custom_op("palimpsest::grid_attention", mutates_args=())
def grid_attention(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """softmax(q·k/√d + rows[query, row of key] + columns[query, column of key]) · v.

    Args:
        q, k, v: `[n, heads, side², d]`, the last dimension contiguous, d a power of two of at least 16.
        rows, columns: `[n, heads, side², side]`.

    Returns:
        `[n, heads, side², d]`.
    """
    pages, heads, count, dim = q.shape
    side = rows.shape[-1]
    if dim < LEAST_TILE or dim & (dim - 1) or side * side != count:
        raise ValueError(
            f"grid_attention takes heads of 16, 32, 64, … features over a square grid, not {dim} over {count} places"
        )
    if any(part.stride(-1) != 1 for part in (q, k, v)):
        raise ValueError("grid_attention takes q, k and v whose features lie side by side")
    tile = max(LEAST_TILE, triton.next_power_of_2(side))
    queries = 64 if tile > 64 or count <= 256 else 128
    rows, columns, out = rows.contiguous(), columns.contiguous(), torch.empty_like(q, memory_format=torch.contiguous_format)
    strides = [part.stride(axis) for part in (q, k, v) for axis in (0, 1, 2)]
    grid = (triton.cdiv(count, queries), pages * heads)
    _attend[grid](
        q, k, v, rows, columns, out, *strides, heads, dim**-0.5,
        SIDE=side, TILE=tile, DIM=dim, QUERIES=queries, LOG2E=LOG2E, num_warps=4 if queries == 64 else 8, num_stages=3,
    )  # fmt: skip
    return out


@grid_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)
