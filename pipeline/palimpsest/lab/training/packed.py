"""Weights as they ship: `codecs.checkpoint.read_weights` is the inverse."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from palimpsest.codecs.checkpoint import COLUMN, ROW, SCALE, ZEROS

COARSE = 0.015  # of a matrix's norm; rounding to int8 costs 0.008 where no number is much larger than the others
PARTING_ROUNDS = 4  # of taking out a product and rounding the rest; they settle in three
ROWS_OF_A_MATRIX = 32  # what has fewer is a position or a constant, and stays as it is


def pack_weights(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights as they ship: matrices as int8 with one float32 scale per row, all else as bfloat16.

    Where a few large numbers make the steps too coarse for the rest of a row, the product of a column and a row is taken out
    first and kept with the integers; where that does not help, a matrix stays bfloat16. One of nothing but zeros is kept as its
    shape.
    """
    packed: dict[str, torch.Tensor] = {}
    for name, value in weights.items():
        if value.ndim < 2 or value.shape[0] < ROWS_OF_A_MATRIX:
            packed[name] = value.to(torch.bfloat16).contiguous()
            continue
        rows = value.float().flatten(1)
        if not rows.any():
            packed[name + ZEROS] = torch.tensor(value.shape)
            continue
        column, row = torch.zeros(len(rows), 1), torch.zeros(1, rows.shape[1])
        steps, scale = _rounded(rows)
        if _missed(rows, steps * scale) > COARSE:
            for _ in range(PARTING_ROUNDS):
                left, size, right = torch.linalg.svd(rows - steps * scale, full_matrices=False)
                column, row = (left[:, :1] * size[0]).bfloat16().float(), right[:1].bfloat16().float()
                steps, scale = _rounded(rows - column @ row)
        if _missed(rows, steps * scale + column @ row) > COARSE:
            packed[name] = value.to(torch.bfloat16).contiguous()
            continue
        packed[name] = steps.to(torch.int8).view(value.shape)
        packed[name + SCALE] = scale.view(-1, *[1] * (value.ndim - 1))
        if column.any():
            packed[name + COLUMN], packed[name + ROW] = column.bfloat16(), row.bfloat16()
    return packed


def _rounded(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = (rows.abs().amax(1, keepdim=True) / 127).clamp(min=1e-12)
    return (rows / scale).round(), scale


def _missed(rows: torch.Tensor, kept: torch.Tensor) -> float:
    return float((rows - kept).norm() / rows.norm())
