"""The codec that ships, for tests that need a mode in which a page can be read and one in which no codec could read it.

How well a mode is read is the checkpoint's business and changes with every training; that half of a page is lost is not.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from palimpsest.codecs.adapter import Codec
from palimpsest.codecs.modes import Mode
from palimpsest.pages.atlas import PAPER

GRID = "80x40"  # which the shipped codec reads in tiny and in small
BLURRY, SHARP = "tiny", "small"


def near_sighted(monkeypatch: pytest.MonkeyPatch, blurry: str = BLURRY) -> None:
    """From here on, in mode `blurry`, codecs see white paper where every other row of visual tokens lies."""
    encode = Codec.encode

    def encode_what_is_left(self: Codec, images: np.ndarray, mode: Mode) -> torch.Tensor:
        if mode.name == blurry:
            images = images.copy()
            images.reshape(len(images), mode.grid, -1, mode.px)[:, ::2] = PAPER
        return encode(self, images, mode)

    monkeypatch.setattr(Codec, "encode", encode_what_is_left)
