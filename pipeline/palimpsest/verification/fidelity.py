"""The metrics of how much of a text was read back, vectorised over lists of references and decoded texts.

All metrics lie in [0, 1], are 1 for equal texts (two empty ones included) and 0 when exactly one of the two is empty.
They see the texts as given: normalise first (pages/normalise).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from palimpsest.errors import UsageError

# A word is a run of non-space characters; Han and kana are written without spaces, there every character is one word.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")

Words = Counter[str]


def precision(references: Sequence[str], decoded: Sequence[str]) -> np.ndarray:
    """Character precision 1 − Lev(r, d) / max(|r|, |d|), float64 `[n]`; the complement of `edit_dist` in Fox's evaluation."""
    _same_length(references, decoded)
    return np.asarray(process.cpdist(references, decoded, scorer=Levenshtein.normalized_similarity, dtype=np.float64))


def word_precision(references: Sequence[str], decoded: Sequence[str]) -> np.ndarray:
    """Multiset word precision |R ∩ D| / max(|R|, |D|) with multiplicities, order ignored, float64 `[n]`.

    The larger multiset is the denominator, as in `precision`: neither leaving words out nor adding some can raise it.
    """
    return _over_words(references, decoded, lambda r, d: (r & d).total() / max(r.total(), d.total()))


def fox_precision(references: Sequence[str], decoded: Sequence[str]) -> np.ndarray:
    """Set word precision |set(R) ∩ set(D)| / |set(D)|, float64 `[n]`.

    The evaluation script of Fox (arXiv 2405.14295) computes it with `nltk.metrics.precision` on `str.split` words. It ignores
    omissions and repetitions, and is shown only for comparison with published figures. The script splits Chinese with jieba, we
    split it by character.
    """
    return _over_words(references, decoded, lambda r, d: len(r.keys() & d.keys()) / len(d))


def words_of(text: str) -> list[tuple[int, int]]:
    """Spans of the words of a text."""
    return [match.span() for match in _WORD.finditer(text)]


def exact(references: Sequence[str], decoded: Sequence[str]) -> np.ndarray:
    """decoded == reference, bool `[n]`."""
    _same_length(references, decoded)
    return np.fromiter((r == d for r, d in zip(references, decoded, strict=True)), bool, len(references))


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of the difference: `reference` was read as `decoded`."""

    tag: str  # equal, replace, delete or insert
    reference: str
    decoded: str


def diff_spans(reference: str, decoded: str) -> list[Span]:
    """An alignment with the fewest edits, for display; the spans' texts joined are the two texts again."""
    codes = Levenshtein.opcodes(reference, decoded)
    return [Span(code.tag, reference[code.src_start : code.src_end], decoded[code.dest_start : code.dest_end]) for code in codes]


def misread(reference: str, decoded: str) -> list[tuple[int, int]]:
    """Half-open spans of `reference` that differ in `decoded`, ascending, by an alignment with the fewest edits.

    A span is empty (start == end) if characters were inserted before `start` and none are wrong.
    """
    spans: list[tuple[int, int]] = []
    for code in Levenshtein.opcodes(reference, decoded):
        if code.tag == "equal":
            continue
        if spans and spans[-1][1] == code.src_start:
            spans[-1] = (spans[-1][0], code.src_end)
        else:
            spans.append((code.src_start, code.src_end))
    return spans


def _over_words(references: Sequence[str], decoded: Sequence[str], share: Callable[[Words, Words], float]) -> np.ndarray:
    _same_length(references, decoded)
    scores = np.ones(len(references))
    for index, (reference, text) in enumerate(zip(references, decoded, strict=True)):
        if reference == text:
            continue
        r, d = Counter(_WORD.findall(reference)), Counter(_WORD.findall(text))
        scores[index] = share(r, d) if r and d else float(not r and not d)
    return scores


def _same_length(references: Sequence[str], decoded: Sequence[str]) -> None:
    if len(references) != len(decoded):
        raise UsageError(f"{len(references)} references but {len(decoded)} decoded texts; there must be one for each")
