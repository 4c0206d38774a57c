"""Attention over a square grid as Triton kernels: one tile of keys is one row of the grid.

Then the row term is one number per query and tile, and the column terms are the same for every tile: they are loaded once and
stay in registers. So the positions cost one addition per score. A kernel before it makes both terms out of q where it lies: the
row terms by key row, so that a tile's are read side by side. Rows that are no power of two are padded to one with masked keys
(40 to 64, 80 to 128), which is the price of its simplicity.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from palimpsest.errors import UsageError

LOG2E = 1.4426950408889634
LEAST_TILE = 16  # what the matrix units multiply at least


class Launch(NamedTuple):
    """How the kernel is cut up for a device: queries and warps of a program, tiles that are fetched ahead, registers of a thread.

    Changes its speed, and last bits at most.
    """

    queries: int
    warps: int
    stages: int
    registers: int = 0  # 0: as many as the compiler likes


CHOICES = (  # the first is the fastest on an H200: 342 TFLOP/s at 1024 px, the others 275 to 316
    Launch(64, 4, 3),
    Launch(128, 4, 3),
    Launch(64, 4, 2, 128),
    Launch(128, 8, 3, 128),
    Launch(128, 8, 3),
)
LAUNCHES: dict[int, Launch] = {}  # by side of the grid, where another than the usual one is requested


def launch_of(side: int) -> Launch:
    """The launch for a grid of `side` places."""
    return LAUNCHES.get(side, CHOICES[0])


@triton.jit
def _terms(  # type: ignore[no-untyped-def]
    q_at, table_h_at, table_w_at, rows_at, columns_at, q_n, q_h, q_m, heads,
    SIDE: tl.constexpr, TILE: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    page = (tl.program_id(1) // heads).to(tl.int64)
    head = (tl.program_id(1) % heads).to(tl.int64)
    whole = tl.program_id(1).to(tl.int64)
    count: tl.constexpr = SIDE * SIDE
    line = tl.program_id(0) % SIDE
    feature = tl.arange(0, DIM)
    place = tl.arange(0, TILE)
    valid = place < SIDE
    both = valid[:, None] & valid[None, :]
    at = line * SIDE * DIM + place[None, :] * DIM + feature[:, None]
    if tl.program_id(0) < SIDE:
        query = line * SIDE + place
        q = tl.load(q_at + page * q_n + head * q_h + query[:, None] * q_m + feature[None, :], mask=valid[:, None], other=0.0)
        table = tl.load(table_h_at + at, mask=valid[None, :], other=0.0)
        terms = tl.dot(q, table, input_precision="ieee").to(rows_at.dtype.element_ty)
        tl.store(rows_at + (whole * SIDE + place[None, :]) * count + query[:, None], terms, mask=both)
    else:
        query = place * SIDE + line
        q = tl.load(q_at + page * q_n + head * q_h + query[:, None] * q_m + feature[None, :], mask=valid[:, None], other=0.0)
        table = tl.load(table_w_at + at, mask=valid[None, :], other=0.0)
        terms = tl.dot(q, table, input_precision="ieee").to(columns_at.dtype.element_ty)
        tl.store(columns_at + (whole * count + query[:, None]) * SIDE + place[None, :], terms, mask=both)


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
    by_row_at = rows_at + whole * SIDE * count + query
    coming = tl.load(by_row_at, mask=there, other=0.0)
    for row in range(SIDE):
        by_row = coming.to(tl.float32) * LOG2E
        coming = tl.load(by_row_at + (row + 1) * count, mask=there & (row + 1 < SIDE), other=0.0)  # one tile ahead of its use
        key = row * SIDE + column
        k = tl.load(k_at + page * k_n + head * k_h + key[None, :] * k_m + feature[:, None], mask=valid[None, :], other=0.0)
        score = tl.dot(q, k, input_precision="ieee") * (scale * LOG2E) + by_column
        higher = tl.maximum(best, tl.max(score, 1) + by_row)
        weight = tl.exp2(score - (higher - by_row)[:, None])
        fade = tl.exp2(best - higher)
        total = total * fade + tl.sum(weight, 1)
        v = tl.load(v_at + page * v_n + head * v_h + key[:, None] * v_m + feature[None, :], mask=valid[:, None], other=0.0)
        summed = summed * fade[:, None] + tl.dot(weight.to(v.dtype), v, input_precision="ieee")
        best = higher
    out = out_at + (whole * count + query[:, None]) * DIM + feature[None, :]
    tl.store(out, (summed / total[:, None]).to(out_at.dtype.element_ty), mask=there[:, None])


@torch.library.custom_op("palimpsest::grid_attention", mutates_args=())
def grid_attention(q: Tensor, k: Tensor, v: Tensor, table_h: Tensor, table_w: Tensor) -> Tensor:
    """softmax(q·k/√d + q·h[row of q, row of k] + q·w[column of q, column of k]) · v.

    Args:
        q, k, v: `[n, heads, side², d]`, the last dimension contiguous, d a power of two of at least 16.
        table_h, table_w: `[side, side, d]`.

    Returns:
        `[n, heads, side², d]`.
    """
    pages, heads, count, dim = q.shape
    side = len(table_h)
    if dim < LEAST_TILE or dim & (dim - 1) or side * side != count:
        raise UsageError(
            f"grid_attention takes heads of 16, 32, 64, … features over a square grid, not {dim} over {count} places"
        )
    if any(part.stride(-1) != 1 for part in (q, k, v)):
        raise UsageError("grid_attention takes q, k and v whose features lie side by side")
    tile = max(LEAST_TILE, triton.next_power_of_2(side))
    table_h, table_w = table_h.contiguous(), table_w.contiguous()
    rows, columns = q.new_empty(pages, heads, side, count), q.new_empty(pages, heads, count, side)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    strides = [part.stride(axis) for part in (q, k, v) for axis in (0, 1, 2)]
    _terms[(2 * side, pages * heads)](
        q, table_h, table_w, rows, columns, *strides[:3], heads, SIDE=side, TILE=tile, DIM=dim, num_warps=4
    )
    launch = launch_of(side)
    _attend[(triton.cdiv(count, launch.queries), pages * heads)](
        q, k, v, rows, columns, out, *strides, heads, dim**-0.5,
        SIDE=side, TILE=tile, DIM=dim, QUERIES=launch.queries, LOG2E=LOG2E, num_warps=launch.warps, num_stages=launch.stages,
        **({"maxnreg": launch.registers} if launch.registers else {}),
    )  # fmt: skip
    return out


@grid_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, table_h: Tensor, table_w: Tensor) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)
