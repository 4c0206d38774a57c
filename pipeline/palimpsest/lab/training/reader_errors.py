"""Errors of a cell reader by character and by word, on held-out pages; and which weights are refused for them.

A character that one page in a hundred has can be wrong every time without moving a mean over characters; it moves a class.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein

from palimpsest.codecs.embedded.cell_reader import CellReader
from palimpsest.codecs.embedded.vocabulary import cell_text
from palimpsest.lab.training.frozen_pages import FrozenPages
from palimpsest.pages.layouts.grid import read_back
from palimpsest.verification.fidelity import words_of

CHARACTERS, WORDS = 0.0002, 0.001  # shares by which new weights may read a class worse: 0.02 and 0.1 points


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Errors of one reader on the pages of one class, grid and mode.

    Attributes:
        characters, words: of the reference texts.
        wrong_characters: Levenshtein distance, summed over pages.
        wrong_words: words of the reference that an edit touches.
        confused: the most frequent replacements, as `"!(": 12`.
        misread, misread_words: (page, character) and (page, word) of the reference texts that an edit touches.
    """

    grid: str
    mode: str
    text_class: str
    characters: int
    wrong_characters: int
    words: int
    wrong_words: int
    confused: dict[str, int]
    misread: frozenset[tuple[int, int]] = frozenset()
    misread_words: frozenset[tuple[int, int]] = frozenset()

    @property
    def by_character(self) -> float:
        return self.wrong_characters / max(1, self.characters)

    @property
    def by_word(self) -> float:
        return self.wrong_words / max(1, self.words)

    def row(self) -> dict[str, Any]:
        shown = {name: value for name, value in asdict(self).items() if not name.startswith("misread")}
        return shown | {"by_character": round(self.by_character, 6), "by_word": round(self.by_word, 6)}


def measure(reader: CellReader, pools: Iterable[FrozenPages], batch: int = 4) -> Iterator[Errors]:
    """Errors by class of page of each pool."""
    for pool in pools:
        for name in dict.fromkeys(pool.classes):
            pages = [page for page, found in enumerate(pool.classes) if found == name]
            read: list[str] = []
            for at in range(0, len(pages), batch):
                ids = reader.read(pool.tokens(pages[at : at + batch]), pool.grid.columns, pool.grid.rows)
                read += [read_back(cell_text(np.array(page))) for page in ids]
            yield compare(pool, name, [pool.texts[page] for page in pages], read)


def compare(pool: FrozenPages, name: str, references: Sequence[str], read: Sequence[str]) -> Errors:
    """Errors of texts that were read, against what the pages say."""
    wrong_characters = words = 0
    confused: dict[str, int] = {}
    misread: set[tuple[int, int]] = set()
    misread_words: set[tuple[int, int]] = set()
    for page, (reference, text) in enumerate(zip(references, read, strict=True)):
        edits = Levenshtein.editops(reference, text)
        wrong_characters += len(edits)
        spans = words_of(reference)
        words += len(spans)
        touched = {edit.src_pos for edit in edits}
        misread.update((page, index) for index in touched)
        misread_words.update(
            (page, word) for word, (start, end) in enumerate(spans) if any(index in touched for index in range(start, end))
        )
        for edit in edits:
            if edit.tag == "replace":
                pair = reference[edit.src_pos] + text[edit.dest_pos]
                confused[pair] = confused.get(pair, 0) + 1
    most = dict(sorted(confused.items(), key=lambda item: (-item[1], item[0]))[:8])
    return Errors(
        grid=str(pool.grid),
        mode=pool.mode.name,
        text_class=name,
        characters=sum(map(len, references)),
        wrong_characters=wrong_characters,
        words=words,
        wrong_words=len(misread_words),
        confused=most,
        misread=frozenset(misread),
        misread_words=frozenset(misread_words),
    )


def worse(before: Sequence[Errors], after: Sequence[Errors], offered: Collection[tuple[str, str]] | None = None) -> list[str]:
    """One line for each class, grid and mode that `after` reads worse than `before`, on the same pages.

    Worse is a share that is higher by more than CHARACTERS or WORDS, where that is no chance: by the sign test on what one of the
    two misreads and the other does not. Else a single word of a few pages would refuse weights that are better everywhere.

    Args:
        offered: (grid, mode) that count; None takes all.
    """
    lines = []
    for old, new in zip(before, after, strict=True):
        assert (old.grid, old.mode, old.text_class) == (new.grid, new.mode, new.text_class)
        if offered is not None and (old.grid, old.mode) not in offered:
            continue
        for unit, a, b, slack, was, now in (
            ("characters", old.by_character, new.by_character, CHARACTERS, old.misread, new.misread),
            ("words", old.by_word, new.by_word, WORDS, old.misread_words, new.misread_words),
        ):
            if b > a + slack and not _may_be_chance(len(was - now), len(now - was)):
                lines.append(f"{new.grid} {new.mode} {new.text_class}: {b:.3%} of the {unit} wrong, was {a:.3%}")
    return lines


def _may_be_chance(lost: int, gained: int) -> bool:
    """Whether `gained` errors against `lost` ones are within two standard deviations of a fair coin (sign test, McNemar 1947)."""
    return gained - lost <= 2 * math.sqrt(gained + lost)


@torch.no_grad()
def temperature(reader: CellReader, pools: Iterable[FrozenPages], cells: int = 2000) -> tuple[float, float, float]:
    """The temperature at which the reader's confidence in a cell equals how often it is right.

    Returns:
        the temperature with the lowest negative log likelihood (Guo et al. 2017, arXiv 1706.04599), and the expected calibration
        error (15 bins of equal width) at 1 and at that temperature.
    """
    generator = torch.Generator().manual_seed(0)
    logits, targets = [], []
    for pool in pools:
        for page in range(len(pool.classes)):
            chosen = torch.randperm(pool.grid.cells, generator=generator)[: max(1, cells // len(pool.classes))]
            index, waves = pool.places
            logits.append(reader(pool.tokens([page]), index[chosen], waves[chosen])[0].float())
            targets.append(pool.symbols([page])[0, chosen])
    every, right = torch.cat(logits), torch.cat(targets)
    candidates = torch.logspace(-1, 1, 81).tolist()
    losses = [float(torch.nn.functional.cross_entropy(every / t, right)) for t in candidates]
    best = candidates[int(np.argmin(losses))]
    return best, calibration_error(every, right), calibration_error(every / best, right)


def calibration_error(logits: torch.Tensor, targets: torch.Tensor, bins: int = 15) -> float:
    """Expected calibration error of `[n, symbols]` logits: mean distance of confidence and accuracy, weighted by bin."""
    confidence, chosen = logits.softmax(-1).max(-1)
    right = (chosen == targets).float()
    which = (confidence * bins).long().clamp(max=bins - 1)
    gaps = [(confidence[which == b].sum() - right[which == b].sum()).abs() for b in range(bins)]
    return float(sum(gaps, torch.zeros(())) / len(targets))
