"""Visual tokens as bytes. Each storage is one file here, found by its name: `storage.tokens`, the column `token_dtype`.

    protocol.py  `TokenStorage`: what a storage promises; `PackedTokens`: one page as stored
    bf16.py      raw bits
    int8.py      one byte per value, one scale per token
    int4.py      half a byte per value after a rotation, one scale per token
    pq.py        a quarter of a byte per value on axes fitted to the corpus, with a codebook beside it
    none.py      nothing: the page is encoded again when its tokens are needed
    codebook.py  the codebook of pq: its format, checked when read
    codebook_fit.py  tokens of a corpus -> its codebook
    rows.py      the tokens of rows of a corpus, checked before they are read

A new storage is a new file with an object `STORAGE` of the same name. tests/test_token_storage.py runs its contract over
every file. Tokens live in bfloat16; torch is needed only where tensors go in and out.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

import numpy as np

from palimpsest.codecs.token_storage.pq import PREFIX, fitted
from palimpsest.codecs.token_storage.protocol import DamagedTokens, PackedTokens, TokenStorage
from palimpsest.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "NONE",
    "STORAGES",
    "DamagedTokens",
    "NonFiniteTokens",
    "PackedTokens",
    "TokenStorage",
    "find_storage",
    "pack",
    "unpack",
]

STORAGES: tuple[str, ...] = tuple(
    sorted({module.name for module in iter_modules(__path__)} - {"codebook", "codebook_fit", "protocol", "rows"})
)
"""The names of the storages."""
NONE = "none"
"""The storage that keeps nothing."""


class NonFiniteTokens(ValueError):
    """Pages whose tokens hold inf or nan; `pages` are their indices in the batch."""

    def __init__(self, pages: list[int]) -> None:
        super().__init__(f"non-finite visual tokens on pages {pages} of the batch")
        self.pages = pages


def find_storage(name: str) -> TokenStorage:
    """The token storage called `name`: one of STORAGES, or `pq:<sha256>` of a codebook that is known.

    Raises:
        ValueError: for an unknown name, with the choices.
        UnknownCodebook: for a codebook that this process has not read.
    """
    if name.startswith(PREFIX):
        return fitted(name)
    if name not in STORAGES:
        raise UsageError(f"token_dtype {name!r}: choose one of {', '.join(STORAGES)}")
    storage: TokenStorage = import_module(f"{__name__}.{name}").STORAGE
    return storage


def pack(storage: str, tokens: Tensor) -> list[PackedTokens]:
    """Tokens `bfloat16 [n, T, dim]` as bytes, page by page.

    Raises:
        NonFiniteTokens: naming the pages; nothing is packed.
        ValueError: for an unknown storage, another dtype or shape.
    """
    import torch

    if tokens.dtype != torch.bfloat16 or tokens.ndim != 3:
        raise UsageError(f"tokens are {tokens.dtype} {list(tokens.shape)}, expected torch.bfloat16 [n, T, dim]")
    bits = tokens.detach().contiguous().view(torch.int16).cpu().numpy().view(np.uint16)
    broken = ((bits & 0x7F80) == 0x7F80).any(axis=(1, 2))
    if broken.any():
        raise NonFiniteTokens(np.flatnonzero(broken).tolist())
    return find_storage(storage).pack_bits(bits)


def unpack(storage: str, pages: Sequence[PackedTokens], num_tokens: int, dim: int) -> Tensor:
    """The stored tokens of pages of one mode, `bfloat16 [n, num_tokens, dim]` on the CPU.

    Raises:
        DamagedTokens: when a payload or its scales have another length than `num_tokens` and `dim` imply.
        ValueError: for an unknown storage.
    """
    import torch

    bits = find_storage(storage).unpack_bits(pages, num_tokens, dim)
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)
