"""How well a codec in training reads pages that it never saw, by grid, mode and class of text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from pipeline.codecs.embedded.target import ALPHABET
from pipeline.codecs.embedded.vocabulary import FIRST_CELL, SYMBOLS, cell_text
from pipeline.codecs.modes import MODES
from pipeline.codecs.text_tokens import count_tokens
from pipeline.pages.characters import END
from pipeline.pages.grid import Grid, read_back
from pipeline.training.codec_pages import SHARES, PageSampler

_END = SYMBOLS.index(END)


@torch.no_grad()
def evaluate(trainee: Any, settings: Iterable[tuple[str, str]], text: str, pages: int = 4, device: str = "cpu") -> list[dict[str, Any]]:
    """Read `pages` held-out pages of every class with the cell reader.

    Args:
        trainee: `train_codec.Trainee`.
        settings: (grid, mode).
        text: the training text; its held-out end is used, and always the same pages.

    Returns:
        for each setting and class: the share of inked cells read right, and the ratio of text tokens to context tokens.
    """
    rows = []
    for grid_name, mode in settings:
        grid = Grid.parse(grid_name, ALPHABET)
        sampler = PageSampler(text, seed=20, held_out=True)
        for name in SHARES:
            batch = sampler.batch(grid, mode, pages, stretch=8, classes=[name] * pages)
            index, waves = trainee.place(grid, mode, device)
            with torch.autocast(device, torch.bfloat16):
                _, tokens = trainee.encode(torch.from_numpy(batch.images).to(device))
                read = trainee.reader(tokens, index, waves).argmax(-1).cpu().numpy()
            wanted = batch.cells - FIRST_CELL
            inked = (wanted != 0) & (wanted != _END)
            texts = [read_back(cell_text(page[page != FIRST_CELL + _END])) for page in batch.cells]
            rows.append(
                {
                    "grid": grid_name,
                    "mode": mode,
                    "text_class": name,
                    "cells_read": round(float(((read == wanted) & inked).sum() / max(1, inked.sum())), 4),
                    "ratio": round(float(np.sum(count_tokens(texts))) / (pages * MODES[mode].num_context_tokens), 2),
                }
            )
    return rows
