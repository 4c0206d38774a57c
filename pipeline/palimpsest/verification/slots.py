"""A key-value cache in which every page writes at its own positions.

A ragged batch keeps a different number of tokens of every page after every pass. Position p of a page is column p of its row, and
the next token at a position overwrites a rejected one: nothing is copied, cut or tracked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

GROWTH = 128  # least number of columns by which the cache grows


@dataclass
class Slots:
    """The positions that the next forward pass writes, for all layers.

    Attributes:
        rows: number of pages.
        columns: positions per row; the last one takes values that nobody reads.
        filling: the rows that a first pass fills from position 0 on, as (start, stop); None in later passes.
        flat: `row * columns + position` of every token of a later pass.
        width: number of positions that a later pass sees.
    """

    rows: int
    columns: int
    filling: tuple[int, int] | None = None
    flat: Tensor | None = None
    width: int = 0
    layers: list[SlotLayer] = field(default_factory=list)

    def cache(self) -> Cache:
        """The cache in the form that transformers' models need."""
        return Cache(layer_class_to_replicate=self._layer)  # type: ignore[arg-type]

    def _layer(self) -> SlotLayer:
        self.layers.append(SlotLayer(self))
        return self.layers[-1]

    def grow(self, positions: int) -> None:
        """Make room for this number of positions."""
        if positions < self.columns:
            return
        columns = positions + max(GROWTH, positions // 8)
        for layer in self.layers:
            layer.keys, layer.values = (_wider(part, columns) for part in layer.both)
        self.columns = columns

    def keep(self, rows: Tensor) -> None:
        """Drop all other rows."""
        for layer in self.layers:
            layer.keys, layer.values = (part.index_select(0, rows) for part in layer.both)
        self.rows = len(rows)


class SlotLayer(DynamicLayer):
    """Keys and values of one layer, `[rows, columns, heads, width]`."""

    is_initialized: bool

    def __init__(self, slots: Slots) -> None:
        super().__init__()
        self.slots = slots

    @property
    def both(self) -> tuple[Tensor, Tensor]:
        """The stored keys and values."""
        assert self.keys is not None and self.values is not None
        return self.keys, self.values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write `[rows, heads, n, width]` at the positions in `slots`; returns all that the pass may see, with the same axes."""
        slots = self.slots
        fresh = [part.transpose(1, 2) for part in (key_states, value_states)]
        if not self.is_initialized:
            self.dtype, self.device = key_states.dtype, key_states.device
            self.keys, self.values = (part.new_zeros(slots.rows, slots.columns, *part.shape[2:]) for part in fresh)
            self.is_initialized = True
        if slots.filling is not None:
            for cached, part in zip(self.both, fresh, strict=True):
                cached[slice(*slots.filling), : part.shape[1]] = part
            return key_states, value_states
        assert slots.flat is not None
        for cached, part in zip(self.both, fresh, strict=True):
            cached.flatten(0, 1).index_copy_(0, slots.flat, part.flatten(0, 1))
        keys, values = (cached[:, : slots.width].transpose(1, 2) for cached in self.both)
        return keys, values

    def get_seq_length(self) -> int:
        """The number of positions that the next pass may see."""
        return 0 if self.slots.filling is not None or not self.is_initialized else self.slots.width


def _wider(part: Any, columns: int) -> Tensor:
    wider: Tensor = part.new_zeros(part.shape[0], columns, *part.shape[2:])
    wider[:, : part.shape[1]] = part
    return wider
