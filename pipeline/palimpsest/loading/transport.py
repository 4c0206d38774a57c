"""Samples between processes: all arrays of a chunk travel in one shared block instead of one file descriptor each."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import torch

ALIGNED = 64  # bytes
SMALL = 512  # bytes; smaller arrays travel inside the pickle


class _Pickler(pickle.Pickler):
    """Puts tensors and arrays aside."""

    def __init__(self, file: Any) -> None:
        super().__init__(file, protocol=5)
        self.parts: list[np.ndarray] = []
        self.size = 0

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            bits = value.detach().contiguous()
            kind = str(bits.dtype).removeprefix("torch.")
            flat = bits.reshape(-1).view(torch.uint8).numpy() if bits.numel() else np.empty(0, np.uint8)
            return self._aside("tensor", kind, tuple(bits.shape), flat)
        if isinstance(value, np.ndarray) and value.nbytes > SMALL and value.dtype != object:
            whole = np.ascontiguousarray(value)
            return self._aside("array", whole.dtype.str, whole.shape, whole.reshape(-1).view(np.uint8))
        return None

    def _aside(self, what: str, kind: str, shape: tuple[int, ...], flat: np.ndarray) -> tuple[Any, ...]:
        offset = self.size
        self.parts.append(flat)
        self.size += -(-len(flat) // ALIGNED) * ALIGNED
        return what, kind, shape, offset, len(flat)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, block: torch.Tensor) -> None:
        super().__init__(file)
        self.block = block

    def persistent_load(self, place: Any) -> Any:
        what, kind, shape, offset, size = place
        flat = self.block[offset : offset + size]
        if what == "tensor":
            dtype = getattr(torch, kind)
            return flat.view(dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)
        return flat.numpy().view(kind).reshape(shape)


def sent(value: Any) -> tuple[bytes, torch.Tensor]:
    """A value as a pickle and one block, uint8, of all its arrays."""
    import io

    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(value)
    block = torch.empty(pickler.size, dtype=torch.uint8)
    if pickler.size:
        block = block.share_memory_()
        into = block.numpy()
        offset = 0
        for part in pickler.parts:
            into[offset : offset + len(part)] = part
            offset += -(-len(part) // ALIGNED) * ALIGNED
    return file.getvalue(), block


def received(value: tuple[bytes, torch.Tensor]) -> Any:
    """The inverse of `sent`; tensors are views of the block."""
    import io

    return _Unpickler(io.BytesIO(value[0]), value[1]).load()
