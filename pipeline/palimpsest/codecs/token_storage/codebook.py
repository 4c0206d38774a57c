"""The codebook of token storage pq: how a token becomes codes, and codes a token. Its bytes are a safetensors file.

    z     = round((token - mean) * scale) @ forward        integers, one per axis
    code  = number of borders of the axis below z          `bits` of the axis, borders halfway between its levels
    token = mean + (level of each code) @ backward * step

`forward` and `backward` hold 16-bit integers, and every sum of products stays below 2^53, so float64 adds them without rounding
in any order: one codebook gives the same codes and the same tokens on every machine and with any number of threads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from palimpsest.codecs.token_storage.protocol import DamagedTokens

FORMAT = "palimpsest pq 1"
MAX_BITS = 6
MAX_DIM = 1 << 14
MAX_BYTES = 1 << 28  # of a codebook; one of 1,024 channels takes 3 MB
INPUT = 1 << 21  # largest rounded channel: 2^21 x 2^15 x 2^14 channels < 2^53
LEVEL = 4096  # a level's unit is 1/4096 of the axis's spread


class DamagedCodebook(DamagedTokens):
    """Bytes that are no codebook."""


@dataclass(frozen=True, eq=False)
class Codebook:
    """A fitted product quantiser with one axis of a learned rotation per sub-quantiser.

    Attributes:
        mean, scale: float32 `[dim]` and float32 `[1]`, of the rounding of a channel.
        forward: int16 `[dim, axes]`. backward: int16 `[axes, dim]`, in units of `step`, float32 `[1]`.
        bits: uint8 `[axes]`, 1 to 6 of each axis, falling; their sum is a multiple of 8.
        spread: float32 `[axes]`, of z along the axis.
        levels: int16 `[sum of 2^bits]`, rising within an axis, in units of spread / 4096.
    """

    mean: np.ndarray
    scale: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    step: np.ndarray
    bits: np.ndarray
    spread: np.ndarray
    levels: np.ndarray

    def __post_init__(self) -> None:
        dim, axes = self.forward.shape if self.forward.ndim == 2 else (0, 0)
        shapes = {"mean": ("<f4", (dim,)), "scale": ("<f4", (1,)), "forward": ("<i2", (dim, axes)), "step": ("<f4", (1,))}
        shapes |= {"backward": ("<i2", (axes, dim)), "bits": ("|u1", (axes,)), "spread": ("<f4", (axes,))}
        if not 0 < dim <= MAX_DIM or not 0 < axes <= MAX_DIM:
            raise DamagedCodebook(f"a codebook of {dim} channels and {axes} axes")
        for name, (dtype, shape) in shapes.items():
            value = getattr(self, name)
            if value.dtype != np.dtype(dtype) or value.shape != shape:
                raise DamagedCodebook(f"{name} is {value.dtype} {list(value.shape)}, expected {dtype} {list(shape)}")
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise DamagedCodebook(f"{name} is not finite")
        if not ((self.bits >= 1) & (self.bits <= MAX_BITS)).all() or (np.diff(self.bits.astype(int)) > 0).any():
            raise DamagedCodebook(f"bits must fall from at most {MAX_BITS} to at least 1")
        if self.bits.sum(dtype=np.int64) % 8:
            raise DamagedCodebook("the bits of a token are no whole bytes")
        count = int((1 << self.bits.astype(np.int64)).sum())
        if self.levels.dtype != np.dtype("<i2") or self.levels.shape != (count,):
            raise DamagedCodebook(f"levels is {self.levels.dtype} {list(self.levels.shape)}, expected <i2 [{count}]")
        if not self.scale[0] > 0 or not (self.spread > 0).all():
            raise DamagedCodebook("scale and spread must be positive")
        if any((np.diff(of_axis.astype(int)) < 0).any() for of_axis in self._of_axes()):
            raise DamagedCodebook("the levels of an axis must rise")

    @property
    def dim(self) -> int:
        return int(self.forward.shape[0])

    @property
    def bytes_per_token(self) -> int:
        return int(self.bits.sum(dtype=np.int64)) // 8

    @cached_property
    def runs(self) -> list[tuple[int, int, int]]:
        """Axes of equal bits: (bits, first axis, past the last)."""
        edges = [0, *(np.flatnonzero(np.diff(self.bits)) + 1).tolist(), len(self.bits)]
        return [(int(self.bits[a]), a, b) for a, b in zip(edges, edges[1:], strict=False)]

    @cached_property
    def borders(self) -> list[np.ndarray]:
        """Of each axis in units of z, float64 `[2^bits - 1]`."""
        halves = [(of_axis[1:].astype(np.float64) + of_axis[:-1]) * (0.5 / LEVEL) for of_axis in self._of_axes()]
        return [half * float(spread) for half, spread in zip(halves, self.spread, strict=True)]

    @cached_property
    def tables(self) -> list[np.ndarray]:
        """The levels of each run of `runs`, int16 `[axes, 2^bits]`."""
        found, start = [], 0
        for bits, first, last in self.runs:
            found.append(self.levels[start : start + ((last - first) << bits)].reshape(last - first, 1 << bits))
            start += (last - first) << bits
        return found

    def _of_axes(self) -> list[np.ndarray]:
        return [row for table in self.tables for row in table]

    @cached_property
    def matrices(self) -> tuple[np.ndarray, np.ndarray]:
        """`forward` and `backward` as float64."""
        return self.forward.astype(np.float64), self.backward.astype(np.float64)

    def to_bytes(self, about: Mapping[str, str]) -> bytes:
        """As a safetensors file. Args: about: what it was fitted on and for, kept in its header."""
        from safetensors.numpy import save

        what = json.dumps({"format": FORMAT, **about}, sort_keys=True)
        parts = {name: np.ascontiguousarray(getattr(self, name)) for name in self.__dataclass_fields__}
        return save(parts, {"about": what})  # one key: safetensors writes several in any order


def parse(body: bytes) -> Codebook:
    """The codebook of a safetensors file, which may come from anyone.

    Raises:
        DamagedCodebook: it is none; nothing larger than `body` is allocated for what its header claims.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if len(body) > MAX_BYTES:
        raise DamagedCodebook(f"{len(body):,} bytes; a codebook has at most {MAX_BYTES:,}")
    try:
        length = int.from_bytes(body[:8], "little")
        header = json.loads(body[8 : 8 + length])
        about = json.loads(header["__metadata__"]["about"])
        if about["format"] != FORMAT:
            raise DamagedCodebook(f"no codebook of format {FORMAT!r}")
        tensors = load(body)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        if isinstance(error, DamagedCodebook):
            raise
        raise DamagedCodebook(f"no safetensors file: {error}") from error
    if tensors.keys() != Codebook.__dataclass_fields__.keys():
        raise DamagedCodebook(f"holds {sorted(tensors)[:12]}, a codebook has {sorted(Codebook.__dataclass_fields__)}")
    return Codebook(**tensors)


def hash_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
