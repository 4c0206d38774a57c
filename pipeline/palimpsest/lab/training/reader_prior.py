"""The prior of a reader that was tuned on a balanced mixture, put right for texts as people write them.

The mixture shows every letter of the alphabet, so that each is learned; texts do not. A reader that learned from it takes a `J`
for a `Ĵ` too easily. The last layer's bias is moved by the logarithm of the two frequencies of each letter beyond ASCII (logit
adjustment, Menon et al. 2021, arXiv 2007.07314).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import torch

from palimpsest.codecs.embedded.cell_reader import CellReader
from palimpsest.codecs.embedded.vocabulary import SYMBOLS
from palimpsest.lab.training.codec_pages import BALANCED, PageSampler
from palimpsest.pages.normalise import normalise

AS_WRITTEN = {"prose": 0.4, "code": 0.2, "latin": 0.25, "tables": 0.15}
_SAMPLE, _PIECES = 4000, 100  # characters of a piece of text, and pieces of each class
_UNSEEN = 2e-5  # added to every frequency: a letter that a sample lacks is rare, not impossible


def letter_prior(sampler: PageSampler) -> torch.Tensor:
    """Log of the frequency of each symbol in AS_WRITTEN over that in BALANCED, float32 `[len(SYMBOLS)]`; 0 but for letters beyond
    ASCII."""
    mixture, written = _frequencies(sampler, BALANCED), _frequencies(sampler, AS_WRITTEN)
    prior = torch.zeros(len(SYMBOLS))
    for number, symbol in enumerate(SYMBOLS):
        letter = chr(symbol)
        if letter.isalpha() and not letter.isascii():
            prior[number] = math.log((written[letter] + _UNSEEN) / (mixture[letter] + _UNSEEN))
    return prior


@torch.no_grad()
def correct(reader: CellReader, prior: torch.Tensor, share: float) -> None:
    """Move the bias of the last layer by a share of the prior."""
    last = reader.head.layers[-1]
    assert isinstance(last, torch.nn.Linear)
    last.bias += share * prior


def _frequencies(sampler: PageSampler, classes: Mapping[str, float]) -> Counter[str]:
    """Frequency of each character, classes weighed by their shares."""
    frequencies: Counter[str] = Counter()
    for name, share in classes.items():
        counts: Counter[str] = Counter()
        for _ in range(_PIECES):
            counts.update(normalise(sampler.text(name, _SAMPLE)))
        for character, count in counts.items():
            frequencies[character] += share * count / counts.total()  # type: ignore[assignment]
    return frequencies
