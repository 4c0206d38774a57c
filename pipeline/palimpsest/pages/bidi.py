"""The order in which a line is read from left to right: the Unicode bidirectional algorithm for text without explicit controls.

`normalise` deletes embeddings, overrides and isolates, so that rules X1 to X10 have nothing to do and the algorithm (Unicode
Standard Annex 9, rules W, N, I, L) becomes a handful of substitutions on a string with one letter per character: L, R, A (Arabic
letter), E (European number), N (Arabic number), S and T (their separators and terminators), C (common separator), M (mark), O
(other).
The base direction is given, never guessed from a paragraph, or a page could not be laid out in pieces.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

import numpy as np
import unicodedata2

from palimpsest.pages.unicode_data import code_points, look_up, table

_LETTERS = {"L": "L", "R": "R", "AL": "A", "EN": "E", "AN": "N", "ES": "S", "ET": "T", "CS": "C", "NSM": "M", "BN": "M", "": "L"}
_BRACKETS = "()[]{}⁅⁆⁽⁾₍₎⌈⌉⌊⌋〈〉⟦⟧⟨⟩⟪⟫⦃⦄「」『』【】〔〕"
_OPENING = dict(zip(_BRACKETS[::2], _BRACKETS[1::2], strict=True))
_CLOSING = set(_BRACKETS[1::2])
_BRACKET = re.compile(f"[{re.escape(_BRACKETS)}]")


# Paragraphs without a character of the other direction or a number that keeps its own: letters, marks and punctuation.
_PLAIN_RTL = re.compile("[ !-/:-@\\[-`{-~\u0591-\u05f4\u0608\u060b-\u061a\u061d-\u065f\u066d-\u06d5]*")
_PLAIN_LTR = re.compile("[\0-\u058e\u0900-\u1fff\u2010-\u2027\u2030-\ud7ff]*")


class _Classes(dict[int, str]):
    def __missing__(self, code: int) -> str:
        letter = self[code] = _LETTERS.get(unicodedata2.bidirectional(chr(code)), "O")
        return letter


_CLASSES = _Classes()
_MARKS = re.compile("(.)M+")
_AFTER_ARABIC = re.compile("A[^LR]*")
_AFTER_LEFT = re.compile("L[^R]*")
_NEUTRALS = re.compile("O+")
_TERMINATORS = re.compile("T+(?=E)|(?<=E)T+")


def strengths(codes: np.ndarray) -> np.ndarray:
    """uint8 `[n]`: 1 for characters that run from right to left, 2 for left to right, 3 for Arabic numbers, 4 for European ones,
    0 for others."""
    return look_up(_strength(), codes)


@cache
def _strength() -> np.ndarray:
    strong = {"R": 1, "AL": 1, "L": 2, "AN": 3, "EN": 4}
    return table(lambda code: strong.get(unicodedata2.bidirectional(chr(code)), 0))


def is_strong_rtl(text: str) -> bool:
    """True where a letter of `text` runs from right to left."""
    return bool((strengths(code_points(text)) == 1).any())


def first_direction(strong: np.ndarray) -> bool | None:
    """Whether the first of `strengths` that is strong runs from right to left; None where there is none (rules P2, P3)."""
    directed = strong[(strong == 1) | (strong == 2)]
    return bool(directed[0] == 1) if len(directed) else None


def levels(paragraph: str, rtl: bool) -> bytes:
    """The embedding level of every character: even runs left to right, odd right to left.

    Args:
        paragraph: text without line feeds.
        rtl: the base direction (level 1 instead of 0).
    """
    if (_PLAIN_RTL if rtl else _PLAIN_LTR).fullmatch(paragraph):
        return bytes([rtl]) * len(paragraph)
    classes = paragraph.translate(_CLASSES)
    base = "R" if rtl else "L"
    if not any(letter in classes for letter in ("LEN" if rtl else "RAN")):
        return (b"\x01" if rtl else b"\x00") * len(paragraph)
    weak = _resolve_weak(classes, base)
    if _BRACKET.search(paragraph):
        weak = _resolve_brackets(paragraph, classes, weak, base)
    resolved = _resolve_neutrals(weak, base)
    table = str.maketrans("LRENO", "\2\1\2\2\1" if rtl else "\0\1\2\2\0")
    result = resolved.translate(table).encode()
    if "\t" in paragraph:  # L1: a tab and the spaces before it
        result = b"".join(
            bytes([rtl]) * (found.end() - found.start()) if found[0].endswith("\t") else result[found.start() : found.end()]
            for found in re.finditer(" *\t|[^ \t]+| +", paragraph)
        )
    return result


def _resolve_weak(classes: str, base: str) -> str:
    """Rules W1 to W7; leaves L, R, E, N, O."""
    classes = _MARKS.sub(lambda m: m[1] * len(m[0]), base + classes)
    classes = _AFTER_ARABIC.sub(lambda m: m[0].replace("E", "N"), classes).replace("A", "R")
    classes = re.sub("(?<=E)[SC](?=E)", "E", classes)
    classes = re.sub("(?<=N)C(?=N)", "N", classes)
    classes = _TERMINATORS.sub(lambda m: "E" * len(m[0]), classes)
    classes = re.sub("[STC]", "O", classes)
    return _AFTER_LEFT.sub(lambda m: m[0].replace("E", "L"), classes)[1:]


def _resolve_brackets(paragraph: str, original: str, weak: str, base: str) -> str:
    """Rule N0: a pair of brackets takes the direction of what it encloses, or of what stands before it."""
    strong, result = bytearray(weak.replace("E", "R").replace("N", "R").encode()), bytearray(weak.encode())
    embedding, opposite = base.encode(), b"L" if base == "R" else b"R"
    for start, end in _bracket_pairs(paragraph, weak):
        if strong.find(embedding, start, end) >= 0:
            direction = embedding
        elif strong.find(opposite, start, end) >= 0:
            outside = strong.rfind(opposite, 0, start) > strong.rfind(embedding, 0, start)
            direction = opposite if outside else embedding
        else:
            continue
        for at in (start, end):
            stop = at + 1
            while original[stop : stop + 1] == "M":
                stop += 1
            strong[at:stop] = result[at:stop] = direction * (stop - at)
    return result.decode()


def _bracket_pairs(paragraph: str, weak: str) -> list[tuple[int, int]]:
    """Rule BD16: pairs in the order of their opening brackets; a stack of 63, as the annex says."""
    pairs: list[tuple[int, int]] = []
    stack: list[tuple[str, int]] = []
    for found in _BRACKET.finditer(paragraph):
        at, char = found.start(), found[0]
        if weak[at] != "O":
            continue
        if char not in _CLOSING:
            if len(stack) == 63:
                return sorted(pairs)
            stack.append((_OPENING[char], at))
            continue
        for depth in range(len(stack) - 1, -1, -1):
            if stack[depth][0] == char:
                pairs.append((stack[depth][1], at))
                del stack[depth:]
                break
    return sorted(pairs)


def _resolve_neutrals(classes: str, base: str) -> str:
    """Rules N1 and N2: neutrals between two equal directions take it, the others the base direction."""

    def direction(found: re.Match[str]) -> str:
        before = classes[found.start() - 1] if found.start() else base
        after = classes[found.end()] if found.end() < len(classes) else base
        sides = ("L" if before == "L" else "R", "L" if after == "L" else "R")
        return (sides[0] if sides[0] == sides[1] else base) * len(found[0])

    return _NEUTRALS.sub(direction, classes)


def visual_order(line: Sequence[int]) -> list[int]:
    """Rule L2: the indices of the items of a line from left to right, given their levels."""
    order = list(range(len(line)))
    if not line:
        return order
    lowest_odd = min((level for level in line if level % 2), default=max(line) + 1)
    for level in range(max(line), lowest_odd - 1, -1):
        start = 0
        while start < len(order):
            if line[order[start]] < level:
                start += 1
                continue
            end = start
            while end < len(order) and line[order[end]] >= level:
                end += 1
            order[start:end] = order[start:end][::-1]
            start = end
    return order
