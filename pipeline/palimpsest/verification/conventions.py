"""The conventions in which a page's text may be written: lines kept or joined, hyphens at line ends, ligatures.

A decoder that joins lines disagrees at every line end with a draft that keeps them, and it is right every time. So a page may
have its text in several conventions. If the model disagrees with the draft and another convention has the model's token, the
draft takes that convention's tokens there. A convention that was right twice more often than the draft becomes the draft.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import Levenshtein

SWITCH = 2  # disagreements that another convention must explain, less those tokens where it was wrong and the draft right


@dataclass(frozen=True)
class Block:
    """A difference between two conventions: `reference[start:stop]` is `tokens` in the other, and it continues with `first`.

    Attributes:
        first: the token with which the other convention continues at `start`; −1 at its end.
    """

    start: int
    stop: int
    tokens: np.ndarray
    first: int


class Conventions:
    """The texts of one page, as token ids; `reference` is the one that is drafted."""

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        distinct = dict.fromkeys(tuple(text) for text in texts)
        self._texts = [np.asarray(text, np.int64) for text in distinct]
        self._votes = [0] * len(self._texts)
        self.current = 0
        self._blocks: dict[int, dict[int, Block]] | None = None

    @property
    def reference(self) -> np.ndarray:
        """The tokens of the current convention."""
        return self._texts[self.current]

    def explain(self, origin: np.ndarray, draft: np.ndarray, chosen: np.ndarray, asked: np.ndarray) -> dict[int, Block]:
        """Count for every convention how often it has the model's choice, less how often the draft has it instead.

        Args:
            origin: for each drafted token its index in `reference`, `[n]`.
            draft: the tokens `[n]`.
            chosen: the model's choice for each `[n]`.
            asked: whether the model saw only tokens that it wrote or agreed with just before, `[n]`.

        Returns:
            the block that explains the model's choice, by index in the draft.
        """
        explained: dict[int, Block] = {}
        if len(self._texts) == 1:
            return explained
        order = sorted(self.blocks, key=lambda other: -self._votes[other])
        for index in np.flatnonzero(asked & np.isin(origin, self._starts)).tolist():
            at, choice = int(origin[index]), int(chosen[index])
            if index and origin[index - 1] == at:
                continue  # the second token of a correction
            for other in order:
                block = self.blocks[other].get(at)
                if block is not None and choice == draft[index]:
                    self._votes[other] -= 1
                elif block is not None and block.first == choice:
                    self._votes[other] += 1
                    explained.setdefault(index, block)
        return explained

    def better(self) -> int | None:
        """The convention to switch to, or None."""
        best = max(range(len(self._votes)), key=self._votes.__getitem__)
        return best if self._votes[best] >= SWITCH else None

    def switch(self, other: int) -> np.ndarray:
        """Make another convention the current one.

        Returns:
            for each index of the old reference, its length included, the index in the new one, `[n + 1]`.
        """
        moved = np.arange(len(self.reference) + 1)
        for block in self.blocks[other].values():
            moved[block.stop :] += len(block.tokens) - (block.stop - block.start)
        self.current, self._blocks = other, None
        self._votes = [0] * len(self._texts)
        return np.clip(moved, 0, len(self.reference))

    @property
    def blocks(self) -> dict[int, dict[int, Block]]:
        """For each other convention its differences from the current one, by where they start."""
        if self._blocks is None:
            others = [number for number in range(len(self._texts)) if number != self.current]
            self._blocks = {number: _differences(self.reference, self._texts[number]) for number in others}
            self._starts = np.array(sorted({start for blocks in self._blocks.values() for start in blocks}), np.int64)
        return self._blocks


def _differences(reference: np.ndarray, other: np.ndarray) -> dict[int, Block]:
    blocks: dict[int, Block] = {}
    start: tuple[int, int] | None = None
    for code in Levenshtein.opcodes(reference.tolist(), other.tolist()):
        if code.tag != "equal":
            start = start or (code.src_start, code.dest_start)
            continue
        if start:
            blocks[start[0]] = _block(start, (code.src_start, code.dest_start), other)
        start = None
    if start:
        blocks[start[0]] = _block(start, (len(reference), len(other)), other)
    return blocks


def _block(start: tuple[int, int], stop: tuple[int, int], other: np.ndarray) -> Block:
    first = int(other[start[1]]) if start[1] < len(other) else -1
    return Block(start[0], stop[0], other[start[1] : stop[1]], first)
