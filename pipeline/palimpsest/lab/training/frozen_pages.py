"""Pages with the tokens of a frozen encoder, kept as int8 storage keeps them: what a cell reader is tuned and measured on."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from palimpsest.codecs.embedded.cell_reader import cell_places
from palimpsest.codecs.embedded.target import ALPHABET
from palimpsest.codecs.embedded.vocabulary import FIRST_CELL, SYMBOLS, cell_ids
from palimpsest.codecs.modes import MODES
from palimpsest.codecs.token_storage import PackedTokens, pack, unpack
from palimpsest.lab.training.codec_pages import PageSampler
from palimpsest.pages.atlas import atlas
from palimpsest.pages.characters import BLANK, END
from palimpsest.pages.layouts.grid import Grid, read_back

if TYPE_CHECKING:
    from palimpsest.codecs.adapter import Codec

STORAGE = "int8"
_END = SYMBOLS.index(END)


class FrozenPages:
    """Pages of one grid in one mode, with their tokens.

    Args:
        codec: its encoder makes the tokens, by the path that jobs take.
        grid, mode: names.
        capacity: pages that are kept; a new one replaces the oldest.
        texts: keep the pages' texts too, for measuring.

    Attributes:
        classes: of each page.
        texts: of each page; empty unless they are kept.
    """

    def __init__(self, codec: Codec, grid: str, mode: str, capacity: int, keep_texts: bool = False) -> None:
        self.codec, self.grid, self.mode = codec, Grid.parse(grid, ALPHABET), MODES[mode]
        self.capacity, self._keep_texts = capacity, keep_texts
        self._packed: list[PackedTokens] = []
        self._symbols: list[np.ndarray] = []
        self.classes: list[str] = []
        self.texts: list[str] = []

    def __len__(self) -> int:
        return len(self._packed)

    def grow(self, sampler: PageSampler, classes: list[str]) -> None:
        """Draw, encode and keep a page of each of `classes`."""
        cells = sampler.cells(self.grid, classes)
        images = np.empty((len(cells), self.mode.px, self.mode.px), np.uint8)
        atlas(self.grid, self.mode.px).render(cells, images)
        self._packed += pack(STORAGE, self.codec.encode(images, self.mode))
        blank = cells == BLANK
        self._symbols += list(np.where(blank, _END, cell_ids(np.where(blank, END, cells)) - FIRST_CELL).astype(np.int16))
        self.classes += classes
        if self._keep_texts:
            self.texts += [read_back(page) for page in cells]
        for kept in (self._packed, self._symbols, self.classes, self.texts):
            del kept[: -self.capacity]

    def tokens(self, pages: list[int]) -> Tensor:
        """Tokens as stored, float32 `[n, num_vision_tokens, token_dim]`."""
        packed = [self._packed[page] for page in pages]
        return unpack(STORAGE, packed, self.mode.num_vision_tokens, self.codec.token_dim).float()

    def symbols(self, pages: list[int]) -> Tensor:
        """Index in SYMBOLS of every cell, END behind a page's end, int64 `[n, rows * columns]`."""
        return torch.from_numpy(np.stack([self._symbols[page] for page in pages]).astype(np.int64))

    @cached_property
    def places(self) -> tuple[Tensor, Tensor]:
        """See `cell_places`."""
        index, waves = cell_places(self.grid, self.mode.grid)
        return index, waves.float()
