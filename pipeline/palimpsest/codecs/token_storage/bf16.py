"""bf16: the bits as they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from palimpsest.codecs.token_storage.protocol import PackedTokens, stacked


class Bf16:
    """Two bytes per value."""

    name = "bf16"

    def bytes_per_token(self, dim: int) -> int:
        return 2 * dim

    def pack_bits(self, bits: np.ndarray) -> list[PackedTokens]:
        return [PackedTokens(page.tobytes(), None) for page in bits.astype("<u2", copy=False)]

    def unpack_bits(self, pages: Sequence[PackedTokens], num_tokens: int, dim: int) -> np.ndarray:
        return stacked([page.payload for page in pages], "<u2", (num_tokens, dim)).astype(np.uint16, copy=False)


STORAGE = Bf16()
