"""How well a codec in training reads pages that it never saw, by grid, mode and class of text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from palimpsest.codecs.embedded.target import ALPHABET
from palimpsest.codecs.embedded.vocabulary import FIRST_CELL, SYMBOLS, cell_text
from palimpsest.codecs.modes import MODES
from palimpsest.codecs.text_tokens import count_tokens
from palimpsest.lab.training.codec_pages import SHARES, PageSampler
from palimpsest.lab.training.trainee import Trainee, has_bf16
from palimpsest.pages.characters import END
from palimpsest.pages.layouts.grid import Grid, read_back

_END = SYMBOLS.index(END)


@torch.no_grad()
def evaluate(
    trainee: Trainee, settings: Iterable[tuple[str, str]], text: str, pages: int = 4, device: str = "cpu"
) -> Iterator[dict[str, Any]]:
    """Read `pages` held-out pages of every class with the cell reader and, given every id before it, with the decoder.

    Args:
        settings: (grid, mode).
        text: the training text; its held-out end is used, and always the same pages.

    Returns:
        for each setting and class: the shares of inked cells that the two read right, and the ratio of text tokens to context
        tokens.
    """
    sampler = PageSampler(text, seed=20, held_out=True)
    for grid_name, mode in settings:
        grid = Grid.parse(grid_name, ALPHABET)
        sampler.reseed(20)
        for name in SHARES:
            batch = sampler.batch(grid, mode, pages, stretch=0, classes=[name] * pages)
            index, waves = trainee.place(grid, mode, device)
            with torch.autocast(device, torch.bfloat16, enabled=has_bf16(device)):
                drawn = torch.from_numpy(batch.drawn).to(device)
                tokens = trainee.stored(trainee.encode(trainee.paint(drawn, grid, mode))[1])
                read = trainee.reader(tokens, index, waves).argmax(-1).cpu().numpy()
                stretch, starts = (torch.from_numpy(a).to(device) for a in (batch.stretches, batch.starts))
                written = [
                    float(trainee.decode(tokens[page], grid, mode, stretch[page], starts[page], guided=False)[2])
                    for page in (slice(n, n + 1) for n in range(pages))
                ]
            targets = batch.symbols
            inked = (targets != 0) & (targets != _END)
            texts = [read_back(cell_text(page[page != _END] + FIRST_CELL)) for page in targets]
            yield {
                "grid": grid_name,
                "mode": mode,
                "text_class": name,
                "cells_read": round(float(((read == targets) & inked).sum() / max(1, inked.sum())), 4),
                "cells_written": round(float(np.mean(written)), 4),
                "ratio": round(float(np.sum(count_tokens(texts))) / (pages * MODES[mode].num_context_tokens), 2),
            }
