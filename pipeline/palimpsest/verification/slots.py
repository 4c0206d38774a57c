"""A key-value cache in which every page writes at places of its own.

A ragged batch keeps another number of tokens of every page after every pass. Here a rejected token is simply overwritten by the
next one at its place, and place p of a page is column p of its row: nothing is copied, cut off or kept track of.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

GROWTH = 128  # columns by which the cache grows at least


@dataclass
class Slots:
    """Which places the next forward pass writes, for all layers.

    Attributes:
        rows: pages.
        columns: places that a row has, the last one for what nobody reads.
        filling: the rows that a first pass fills from place 0 on, as (start, stop); None in later passes.
        flat: `row * columns + place` of every token of a later pass.
        width: places that a later pass sees.
    """

    rows: int
    columns: int
    filling: tuple[int, int] | None = None
    flat: Tensor | None = None
    width: int = 0
    layers: list[SlotLayer] = field(default_factory=list)

    def cache(self) -> Cache:
        """The cache as transformers' models want it."""
        return Cache(layer_class_to_replicate=self._layer)  # type: ignore[arg-type]

    def _layer(self) -> SlotLayer:
        self.layers.append(SlotLayer(self))
        return self.layers[-1]

    def grow(self, places: int) -> None:
        """Make room for `places` places."""
        if places < self.columns:
            return
        columns = places + max(GROWTH, places // 8)
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
        """What is held."""
        assert self.keys is not None and self.values is not None
        return self.keys, self.values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write `[rows, heads, n, width]` where `slots` says; returns all that the pass may see, in the same order of axes."""
        slots = self.slots
        fresh = [part.transpose(1, 2) for part in (key_states, value_states)]
        if not self.is_initialized:
            self.dtype, self.device = key_states.dtype, key_states.device
            self.keys, self.values = (part.new_zeros(slots.rows, slots.columns, *part.shape[2:]) for part in fresh)
            self.is_initialized = True
        if slots.filling is not None:
            for held, part in zip(self.both, fresh, strict=True):
                held[slice(*slots.filling), : part.shape[1]] = part
            return key_states, value_states
        assert slots.flat is not None
        for held, part in zip(self.both, fresh, strict=True):
            held.flatten(0, 1).index_copy_(0, slots.flat, part.flatten(0, 1))
        keys, values = (held[:, : slots.width].transpose(1, 2) for held in self.both)
        return keys, values

    def get_seq_length(self) -> int:
        """Places that the next pass may see."""
        return 0 if self.slots.filling is not None or not self.is_initialized else self.slots.width


def _wider(part: Any, columns: int) -> Tensor:
    wider: Tensor = part.new_zeros(part.shape[0], columns, *part.shape[2:])
    wider[:, : part.shape[1]] = part
    return wider
