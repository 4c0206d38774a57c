"""The protocol: what a token storage gets, gives back and promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

import numpy as np


class DamagedTokens(ValueError):
    """Stored bytes that cannot be the tokens they claim to be."""


@dataclass(frozen=True, slots=True)
class PackedTokens:
    """One page's tokens as stored.

    Attributes:
        payload: little-endian, token by token, the column `tokens`.
        scales: one scale per token, little-endian, or None; the column `token_scales`.
    """

    payload: bytes
    scales: bytes | None

    @property
    def sha256(self) -> str:
        """Of the payload, the column `tokens_sha256`."""
        return sha256(self.payload).hexdigest()


class TokenStorage(Protocol):
    """A way to store tokens; `name` is the column `token_dtype` and the name of its file."""

    name: str

    def bytes_per_token(self, dim: int) -> int:
        """Stored bytes of one token, scales included."""

    def pack_bits(self, bits: np.ndarray) -> list[PackedTokens]:
        """bfloat16 bits `uint16 [n, T, dim]`, finite -> one `PackedTokens` per page."""

    def unpack_bits(self, pages: Sequence[PackedTokens], num_tokens: int, dim: int) -> np.ndarray:
        """The inverse: bfloat16 bits `uint16 [n, num_tokens, dim]`, writable.

        Raises:
            DamagedTokens: when a payload or its scales are missing or have another length than `num_tokens` and `dim` imply.
        """


def stacked(payloads: Sequence[bytes], dtype: str, shape: tuple[int, int]) -> np.ndarray:
    """Payloads of one size as a new array `[n, *shape]`.

    Raises:
        DamagedTokens: for a payload of another size, naming its index in the batch.
    """
    expected = np.dtype(dtype).itemsize * shape[0] * shape[1]
    for index, payload in enumerate(payloads):
        if len(payload) != expected:
            raise DamagedTokens(
                f"page {index} of the batch has {len(payload)} bytes, {shape[0]} x {shape[1]} {dtype} take {expected}"
            )
    return np.frombuffer(bytearray().join(payloads), dtype).reshape(len(payloads), *shape)


def bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """Finite float32 rounded to bfloat16, half to even, as uint16."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
