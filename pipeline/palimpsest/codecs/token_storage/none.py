"""none: no bytes. A row keeps its text and layout, and who needs its tokens draws the page and encodes it again.

The row still says which codec at which revision made them, how many they were, and the sha256 of their bfloat16 bytes: on a
machine of the same kind the codec gives those again. Between the stages of a job they travel as bf16.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from palimpsest.codecs.token_storage.protocol import DamagedTokens, PackedTokens


class Nothing:
    """No bytes at all."""

    name = "none"

    def bytes_per_token(self, dim: int) -> int:
        return 0

    def pack_bits(self, bits: np.ndarray) -> list[PackedTokens]:
        return [PackedTokens(b"", None)] * len(bits)

    def unpack_bits(self, pages: Sequence[PackedTokens], num_tokens: int, dim: int) -> np.ndarray:
        """Raises DamagedTokens for any page: nothing is stored that could be unpacked."""
        if pages:
            raise DamagedTokens("token_dtype 'none' stores no tokens: encode the page again with its codec")
        return np.empty((0, num_tokens, dim), np.uint16)


STORAGE = Nothing()
