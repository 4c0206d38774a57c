"""int4: four bits per value and one bfloat16 scale per token, half the bytes of int8.

A token is rotated before it is rounded: signs, then Walsh-Hadamard, in blocks of the largest power of two that divides its
width. That spreads large channels over all of them, and the values become nearly Gaussian. So one scale per token is enough,
and the sixteen levels are those that lose least of a Gaussian (Max 1960, table I). The rotation is orthogonal, so its inverse
magnifies no error. It is made of float32 additions in a fixed order, for the same bytes on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256

import numpy as np

from palimpsest.codecs.token_storage.protocol import DamagedTokens, PackedTokens, bfloat16_bits, stacked

_HALF = (0.1284, 0.3881, 0.6568, 0.9424, 1.2562, 1.6181, 2.0690, 2.7326)
LEVELS = np.array([*(-level for level in reversed(_HALF)), *_HALF], np.float32)
_BORDERS = (LEVELS[1:] + LEVELS[:-1]) / 2
_PAIRS = LEVELS[np.stack([np.arange(256) & 15, np.arange(256) >> 4], 1)]  # the two values of a byte, the first in its low half


class Int4:
    """Half a byte per value, one bfloat16 scale per token."""

    name = "int4"

    def bytes_per_token(self, dim: int) -> int:
        return (dim + 1) // 2 + 2

    def pack_bits(self, bits: np.ndarray) -> list[PackedTokens]:
        values = (bits.astype(np.uint32) << 16).view(np.float32)
        peaks = np.abs(values).max(axis=-1, initial=0.0, keepdims=True)
        rotated = _rotated(np.divide(values, peaks, out=np.zeros_like(values), where=peaks > 0))  # no sum overflows
        sizes = np.sqrt(np.square(rotated).mean(axis=-1, keepdims=True)) if rotated.size else peaks
        codes = np.searchsorted(_BORDERS, np.divide(rotated, sizes, out=np.zeros_like(rotated), where=sizes > 0)).astype(np.uint8)
        scales = bfloat16_bits(_best_scales(rotated, LEVELS[codes]) * peaks)
        if codes.shape[-1] % 2:
            codes = np.concatenate([codes, np.zeros_like(codes[..., :1])], -1)
        packed = codes[..., ::2] | codes[..., 1::2] << 4
        return [PackedTokens(page.tobytes(), s.astype("<u2").tobytes()) for page, s in zip(packed, scales, strict=True)]

    def unpack_bits(self, pages: Sequence[PackedTokens], num_tokens: int, dim: int) -> np.ndarray:
        if any(page.scales is None for page in pages):
            raise DamagedTokens("int4 tokens without token_scales")
        packed = stacked([page.payload for page in pages], "u1", (num_tokens, (dim + 1) // 2))
        scales = stacked([page.scales or b"" for page in pages], "<u2", (num_tokens, 1))
        levels = _PAIRS[packed].reshape(len(pages), num_tokens, 2 * packed.shape[-1])[..., :dim]
        return bfloat16_bits(_rotated(levels, inverse=True) * (scales.astype(np.uint32) << 16).view(np.float32))


def _best_scales(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The scales that bring levels nearest to values, `[n, T, 1]`: least squares."""
    return (values * levels).sum(-1, keepdims=True) / np.square(levels).sum(-1, keepdims=True).clip(min=1e-6)


def _rotated(values: np.ndarray, *, inverse: bool = False) -> np.ndarray:
    """Float32 `[n, T, dim]`, rotated along the last axis."""
    dim = values.shape[-1]
    block = dim & -dim
    signs = _signs(dim)[:, None]
    rows = values.reshape(-1, dim).T * (1 if inverse else signs)  # channels first: each step adds long rows
    step = 1
    while step < block:
        pairs = rows.reshape(dim // (2 * step), 2, step, -1)
        rows = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], 1)
        step *= 2
    rows = rows.reshape(dim, -1) * np.float32(block**-0.5)
    turned: np.ndarray = np.ascontiguousarray((rows * signs if inverse else rows).T).reshape(values.shape)
    return turned


@lru_cache(maxsize=8)
def _signs(dim: int) -> np.ndarray:
    """1 or -1 for each channel, by a hash, so that no pattern of the channels meets one of the rotation's."""
    hashes = b"".join(sha256(f"palimpsest int4 {number}".encode()).digest() for number in range(-(-dim // 256)))
    return np.where(np.unpackbits(np.frombuffer(hashes, np.uint8))[:dim], np.float32(1), np.float32(-1))


STORAGE = Int4()
