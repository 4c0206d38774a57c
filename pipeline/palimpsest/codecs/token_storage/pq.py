"""pq: a product quantiser that is fitted to a corpus. The name of the codebook is part of the name of the storage.

`storage.tokens = "pq"` asks for it; the column `token_dtype` says `pq:<sha256 of the codebook>`, so no other codebook can read a
row in error. A token is rotated onto axes that were learned from tokens of the corpus (codebook_fit.py), each axis is rounded to
its own levels, and axes that vary more get more bits. A codebook must be `known` to a process before its tokens are packed or
unpacked; readers of a corpus see to that (corpus/codebooks.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from palimpsest.codecs.token_storage.codebook import INPUT, LEVEL, Codebook, hash_of, parse
from palimpsest.codecs.token_storage.protocol import DamagedTokens, PackedTokens, bfloat16_bits, stacked

PREFIX = "pq:"
BITS = 3.0  # of a channel, where nothing else is said
_HEX = 64
_known: dict[str, Pq] = {}  # by content hash, so one name is one codebook in all corpora


class UnknownCodebook(DamagedTokens):
    """Tokens of a codebook that was not read yet."""


class Pq:
    """Tokens as codes of one codebook."""

    def __init__(self, codebook: Codebook, sha256: str) -> None:
        self.codebook, self.name = codebook, PREFIX + sha256

    def bytes_per_token(self, dim: int) -> int:
        return self.codebook.bytes_per_token

    def pack_bits(self, bits: np.ndarray) -> list[PackedTokens]:
        book = self.codebook
        pages, tokens, dim = bits.shape
        if dim != book.dim:
            raise DamagedTokens(f"tokens of {dim} channels and a codebook of {book.dim}")
        values = (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64).reshape(-1, dim)
        rounded = np.rint((values - book.mean) * float(book.scale[0])).clip(-INPUT, INPUT)
        z = np.ascontiguousarray((rounded @ book.matrices[0]).T)
        codes = np.stack([np.searchsorted(border, row) for border, row in zip(book.borders, z, strict=True)], -1)
        pieces = [
            (codes[:, first:last, None] >> np.arange(width - 1, -1, -1)).reshape(len(codes), width * (last - first)) & 1
            for width, first, last in book.runs
        ]
        packed = np.packbits(np.concatenate(pieces, -1).astype(np.uint8), axis=-1).reshape(pages, tokens, book.bytes_per_token)
        return [PackedTokens(page.tobytes(), None) for page in packed]

    def unpack_bits(self, pages: Sequence[PackedTokens], num_tokens: int, dim: int) -> np.ndarray:
        book = self.codebook
        if dim != book.dim:
            raise DamagedTokens(f"tokens of {dim} channels, and their codebook {self.name} has {book.dim}")
        packed = stacked([page.payload for page in pages], "u1", (num_tokens, book.bytes_per_token))
        found = np.unpackbits(packed.reshape(-1, book.bytes_per_token), axis=-1)
        levels = np.empty((len(found), len(book.bits)), np.float64)
        start = 0
        for (width, first, last), table in zip(book.runs, book.tables, strict=True):
            end = start + width * (last - first)
            codes = found[:, start:end].reshape(len(found), last - first, width) @ (1 << np.arange(width - 1, -1, -1))
            levels[:, first:last] = table[np.arange(last - first), codes]
            start = end
        values = book.mean + (levels @ book.matrices[1]) * (float(book.step[0]) / LEVEL)
        largest = np.finfo(np.float32).max / 2  # a codebook from anyone must not make infinities
        return bfloat16_bits(values.clip(-largest, largest).astype(np.float32)).reshape(len(pages), num_tokens, dim)


class Unfitted:
    """`pq` before a codebook is named: its size is known, and nothing can be packed."""

    name = "pq"

    def bytes_per_token(self, dim: int) -> int:
        return bytes_for(dim, BITS)

    def pack_bits(self, bits: np.ndarray) -> list[PackedTokens]:
        raise UnknownCodebook("storage.tokens = 'pq' needs a codebook: `palimpsest run` fits one to its corpus")

    def unpack_bits(self, pages: Sequence[PackedTokens], num_tokens: int, dim: int) -> np.ndarray:
        raise UnknownCodebook("token_dtype 'pq' names no codebook: it should be pq:<sha256>")


def bytes_for(dim: int, bits: float) -> int:
    """Bytes of a token of `dim` channels at `bits` each."""
    return max(1, round(dim * bits / 8))


def add_codebook(body: bytes) -> str:
    """Make a codebook known to this process; returns the name of its storage, `pq:<sha256>`.

    Raises:
        DamagedCodebook: these bytes are none.
    """
    name = PREFIX + hash_of(body)
    if name not in _known:
        _known[name] = Pq(parse(body), name.removeprefix(PREFIX))
    return name


def is_known(name: str) -> bool:
    return name in _known


def is_name(name: str) -> bool:
    """Whether this is `pq:` and a sha256."""
    digest = name.removeprefix(PREFIX)
    return name.startswith(PREFIX) and len(digest) == _HEX and set(digest) <= set("0123456789abcdef")


def fitted(name: str) -> Pq:
    """The storage of a known codebook.

    Raises:
        UnknownCodebook: it was not read yet.
    """
    if name not in _known:
        raise UnknownCodebook(f"codebook {name.removeprefix(PREFIX)[:80]} was not read: open the corpus with palimpsest.Corpus")
    return _known[name]


STORAGE = Unfitted()
