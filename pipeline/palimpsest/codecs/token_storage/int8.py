"""int8: one byte per value and one float32 scale per token (its largest magnitude / 127), rounded half to even.

No value moves by more than half a step, and by bfloat16's own rounding on the way back. Arithmetic is numpy on raw bits: a
bfloat16 is the upper half of a float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from palimpsest.codecs.token_storage.protocol import DamagedTokens, PackedTokens, bfloat16_bits, stacked

INT8_STEPS = 127


class Int8:
    """One byte per value, one float32 scale per token."""

    name = "int8"

    def bytes_per_token(self, dim: int) -> int:
        return dim + 4

    def pack_bits(self, bits: np.ndarray) -> list[PackedTokens]:
        values = (bits.astype(np.uint32) << 16).view(np.float32)
        scales = np.abs(values).max(axis=-1, initial=0.0, keepdims=True) / np.float32(INT8_STEPS)
        steps = np.divide(values, scales, out=np.zeros_like(values), where=scales > 0)
        steps = np.rint(steps, out=steps).clip(-INT8_STEPS, INT8_STEPS).astype(np.int8)
        return [PackedTokens(q.tobytes(), s.astype("<f4").tobytes()) for q, s in zip(steps, scales, strict=True)]

    def unpack_bits(self, pages: Sequence[PackedTokens], num_tokens: int, dim: int) -> np.ndarray:
        if any(page.scales is None for page in pages):
            raise DamagedTokens("int8 tokens without token_scales")
        steps = stacked([page.payload for page in pages], "i1", (num_tokens, dim))
        scales = stacked([page.scales or b"" for page in pages], "<f4", (num_tokens, 1))
        return bfloat16_bits(steps.astype(np.float32) * scales.astype(np.float32, copy=False))


STORAGE = Int8()
