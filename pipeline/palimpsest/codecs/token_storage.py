"""Visual tokens as bytes.

Tokens live in bfloat16. `bf16` keeps their bits; `int8` keeps one float32 scale per token (its largest magnitude / 127) and
rounds to the nearest step, half to even: no value moves by more than half a step (and bfloat16's own rounding on the way back).

Arithmetic is numpy on raw bits: bfloat16 is the upper half of a float32. torch is needed only where tensors go in and out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from palimpsest.codecs.adapter import Codec

INT8_STEPS = 127


class NonFiniteTokens(ValueError):
    """Pages whose tokens hold inf or nan; `pages` are their places in the batch."""

    def __init__(self, pages: list[int]) -> None:
        super().__init__(f"non-finite visual tokens on pages {pages} of the batch")
        self.pages = pages


class DamagedTokens(ValueError):
    """Stored bytes that cannot be the tokens they claim to be."""


class CodecMismatch(ValueError):
    """Tokens of one codec were about to be read with another."""


@dataclass(frozen=True, slots=True)
class PackedTokens:
    """One page's tokens as stored.

    Attributes:
        payload: little-endian, `num_vision_tokens x token_dim`, the column `tokens`.
        scales: float32 `[num_vision_tokens]`, little-endian, or None; the column `token_scales`.
    """

    payload: bytes
    scales: bytes | None

    @property
    def sha256(self) -> str:
        """Of the payload, the column `tokens_sha256`."""
        return sha256(self.payload).hexdigest()


class TokenStorage(Protocol):
    """A way to keep tokens; `name` is the column `token_dtype`."""

    name: str

    def bytes_per_token(self, dim: int) -> int:
        """Stored bytes of one token, scales included."""

    def pack_bits(self, bits: np.ndarray) -> list[PackedTokens]:
        """bfloat16 bits `uint16 [n, T, dim]`, finite -> one `PackedTokens` per page."""

    def unpack_bits(self, pages: Sequence[PackedTokens], num_tokens: int, dim: int) -> np.ndarray:
        """The inverse: bfloat16 bits `uint16 [n, num_tokens, dim]`, writable."""


class Bf16:
    """Raw bits."""

    name = "bf16"

    def bytes_per_token(self, dim: int) -> int:
        return 2 * dim

    def pack_bits(self, bits: np.ndarray) -> list[PackedTokens]:
        return [PackedTokens(page.tobytes(), None) for page in bits.astype("<u2", copy=False)]

    def unpack_bits(self, pages: Sequence[PackedTokens], num_tokens: int, dim: int) -> np.ndarray:
        return _stack([page.payload for page in pages], "<u2", (num_tokens, dim)).astype(np.uint16, copy=False)


class Int8:
    """One byte per value, one float32 scale per token."""

    name = "int8"

    def bytes_per_token(self, dim: int) -> int:
        return dim + 4

    def pack_bits(self, bits: np.ndarray) -> list[PackedTokens]:
        values = _float32(bits)
        scales = np.abs(values).max(axis=-1, initial=0.0, keepdims=True) / np.float32(INT8_STEPS)
        steps = np.divide(values, scales, out=np.zeros_like(values), where=scales > 0)
        steps = np.rint(steps, out=steps).clip(-INT8_STEPS, INT8_STEPS).astype(np.int8)
        return [PackedTokens(q.tobytes(), s.astype("<f4").tobytes()) for q, s in zip(steps, scales, strict=True)]

    def unpack_bits(self, pages: Sequence[PackedTokens], num_tokens: int, dim: int) -> np.ndarray:
        if any(page.scales is None for page in pages):
            raise DamagedTokens("int8 tokens without token_scales")
        steps = _stack([page.payload for page in pages], "i1", (num_tokens, dim))
        scales = _stack([page.scales or b"" for page in pages], "<f4", (num_tokens, 1))
        return _bfloat16_bits(steps.astype(np.float32) * scales.astype(np.float32, copy=False))


STORAGES: dict[str, TokenStorage] = {storage.name: storage for storage in (Bf16(), Int8())}


def find_storage(name: str) -> TokenStorage:
    """The token storage called `name`.

    Raises:
        ValueError: for an unknown name, with the choices.
    """
    if name not in STORAGES:
        raise ValueError(f"token_dtype {name!r}: choose one of {', '.join(STORAGES)}")
    return STORAGES[name]


def pack(storage: str, tokens: Tensor) -> list[PackedTokens]:
    """Tokens `bfloat16 [n, T, dim]` as bytes, page by page.

    Raises:
        NonFiniteTokens: naming the pages; nothing is packed.
        ValueError: for an unknown storage, another dtype or shape.
    """
    import torch

    if tokens.dtype != torch.bfloat16 or tokens.ndim != 3:
        raise ValueError(f"tokens are {tokens.dtype} {list(tokens.shape)}, expected torch.bfloat16 [n, T, dim]")
    bits = tokens.detach().contiguous().view(torch.int16).cpu().numpy().view(np.uint16)
    broken = ((bits & 0x7F80) == 0x7F80).any(axis=(1, 2))
    if broken.any():
        raise NonFiniteTokens(np.flatnonzero(broken).tolist())
    return find_storage(storage).pack_bits(bits)


def unpack(storage: str, pages: Sequence[PackedTokens], num_tokens: int, dim: int) -> Tensor:
    """The stored tokens of pages of one mode, `bfloat16 [n, num_tokens, dim]` on the CPU.

    Raises:
        DamagedTokens: when a payload or its scales have another length than `num_tokens` and `dim` say.
        ValueError: for an unknown storage.
    """
    import torch

    bits = find_storage(storage).unpack_bits(pages, num_tokens, dim)
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)


def refuse_other_codec(stored: tuple[str, str], reading: tuple[str, str]) -> None:
    """Let only the codec that wrote tokens read them; both are (codec, codec_revision).

    Raises:
        CodecMismatch: when they differ.
    """
    if stored != reading:
        raise CodecMismatch(
            f"the tokens were written by codec {stored[0]!r} at revision {stored[1]!r} and cannot be read with "
            f"{reading[0]!r} at revision {reading[1]!r}; set codec.name, codec.revision or codec.path to the first"
        )


def _stack(payloads: Sequence[bytes], dtype: str, shape: tuple[int, int]) -> np.ndarray:
    """Payloads of one size as a new array `[n, *shape]`."""
    expected = np.dtype(dtype).itemsize * shape[0] * shape[1]
    for place, payload in enumerate(payloads):
        if len(payload) != expected:
            raise DamagedTokens(
                f"page {place} of the batch has {len(payload)} bytes, {shape[0]} x {shape[1]} {dtype} take {expected}"
            )
    return np.frombuffer(bytearray().join(payloads), dtype).reshape(len(payloads), *shape)


def _float32(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """Finite float32 rounded to bfloat16, half to even, as uint16."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def stored_tokens(table: pa.Table, mode: Any, codec: Codec) -> Any:
    """The visual tokens of rows of one mode and one storage, bfloat16 `[n, num_vision_tokens, token_dim]`.

    Raises:
        CodecMismatch: for tokens of another codec or revision.
        DamagedTokens: for a payload of the wrong length or hash.
    """
    pages = []
    for row in table.select(["page_id", "tokens", "token_scales", "tokens_sha256", "codec", "codec_revision"]).to_pylist():
        refuse_other_codec((row["codec"], row["codec_revision"]), (codec.id, codec.revision))
        page = PackedTokens(payload=row["tokens"], scales=row["token_scales"])
        if page.sha256 != row["tokens_sha256"]:
            said = row["tokens_sha256"]
            raise DamagedTokens(f"page {row['page_id']}: its tokens have sha256 {page.sha256}, the row says {said}")
        pages.append(page)
    return unpack(table["token_dtype"][0].as_py(), pages, mode.num_vision_tokens, codec.token_dim)
