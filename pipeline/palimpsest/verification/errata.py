"""Exact spans: the words of a page that were misread, as a short text that a decoder sees behind the page.

    [errata: src/main.py 7f3a; 8 → 3]

Each erratum is a whole word, as it is written. Where it was read is found by the spelling: it is the word behind the last
correction that is nearest to it. Where that would be another word, the erratum also says what was read. `apply` corrects a
decoded text by this rule.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import extractOne

Exact = Literal["none", "identifiers", "all"]
_CHUNK = re.compile(r"\S+|\s+")
_WORD = re.compile(r"\S+")
_WEIGHTS = (3, 3, 2)  # of an insertion, a deletion, a substitution: most misread words keep their length
_EDGES = " \t\n.,;:!?\"'“”‘’«»()[]{}<>*`…–—|"
_JOINED = re.compile(r"\w[_/.\-@:\\#+=]+\w")
_CAMEL = re.compile(r"[a-z][A-Z]|[A-Z]{2}")


@dataclass(frozen=True, slots=True)
class Erratum:
    """At character `position` of a page's text, `written` was read as `read`; None: as the word that is nearest in spelling."""

    position: int
    read: str | None
    written: str


def is_identifier(word: str) -> bool:
    """True if every character of a word matters.

    Numbers, hashes, paths, addresses, versions and code names: words with digits, with one of `_ / . - @ : \\ # + =` between
    letters, or with mixed or several capital letters.
    """
    core = word.strip(_EDGES)
    return bool(core) and (
        any(c.isdigit() for c in core)
        or _JOINED.search(core) is not None
        or _CAMEL.search(core) is not None
        or core[0] in "/~$@#\\"
    )


def find_errata(text: str, read: str, exact: Exact, misread: Sequence[tuple[int, int]] | None = None) -> list[Erratum]:
    """Errata of a page, ascending; with "all", and without `misread`, `apply(read, errata) == text`.

    Args:
        text: the page's text.
        read: the decoded text.
        exact: the kind of misread words that count.
        misread: spans of the text that a verdict counts as misread; what touches none of them needs no erratum.
    """
    if exact == "none" or text == read:
        return []
    found = list(_differences(text, read))
    if exact == "identifiers":
        found = [span for span in found if any(is_identifier(word) for word in text[span[0] : span[1]].split())]
    if misread is not None:
        found = [span for span in found if any(start <= span[1] and span[0] <= end for start, end in misread)]
    return _shortest(text, read, found)


def _shortest(text: str, read: str, spans: Sequence[tuple[int, int, int, int]]) -> list[Erratum]:
    """Errata without what was read, where the nearest spelling finds it."""
    words = [match.span() for match in _WORD.finditer(read)]
    errata: list[Erratum] = []
    used = 0
    for start, end, low, high in spans:
        written = text[start:end]
        same = not any(map(str.isspace, written)) and _nearest_word(words, read, written, used) == (low, high)
        errata.append(Erratum(start, None if same else read[low:high], written))
        used = high
    return errata


def _nearest_word(words: Sequence[tuple[int, int]], text: str, written: str, start: int) -> tuple[int, int] | None:
    """The first of the words behind `start` that are nearest to `written` and not equal to it."""
    behind = words[bisect_left(words, (start, start)) :]
    others = {at: word for at, (low, high) in enumerate(behind) if (word := text[low:high]) != written}
    best = extractOne(written, others, scorer=Levenshtein.distance, scorer_kwargs={"weights": _WEIGHTS})
    return behind[best[2]] if best else None


def _differences(text: str, read: str) -> Iterator[tuple[int, int, int, int]]:
    """Differing spans of the text and of the decoded text, in whole words: (start, end, low, high)."""
    bounds = [match.span() for match in _CHUNK.finditer(text)] or [(0, 0)]
    ends = [end for _, end in bounds]
    pending: tuple[int, int, int, int] | None = None
    for code in Levenshtein.opcodes(text, read):
        if code.tag == "equal":
            continue
        start, end = code.src_start, code.src_end
        first = min(bisect_right(ends, start), len(bounds) - 1)
        inserted_before = start == end == bounds[first][0] and first > 0
        if inserted_before and text[bounds[first][0] : bounds[first][1]].isspace():
            first -= 1  # inserted behind a word: to that word
        last = max(first, bisect_left(ends, end) if end > start else first)
        wide = min(start, bounds[first][0]), max(end, bounds[last][1])
        low, high = code.dest_start - (start - wide[0]), code.dest_end + (wide[1] - end)
        if pending and wide[0] < pending[1]:
            stop = max(pending[1], wide[1])
            pending = (pending[0], stop, pending[2], stop + code.dest_end - end)
        else:
            if pending:
                yield pending
            pending = (*wide, low, high)
    if pending:
        yield pending


def apply(read: str, errata: Sequence[Erratum]) -> str:
    """A decoded text with its errata corrected.

    What was read is searched near its position, counted in the corrected part of the text; its nearest occurrence is replaced.
    """
    words = [match.span() for match in _WORD.finditer(read)]
    out: list[str] = []
    used = written = 0
    for erratum in errata:
        if erratum.read is None:
            found = _nearest_word(words, read, erratum.written, used)
            if found is None:
                continue
            at, end = found
        else:
            place = _nearest(read, erratum.read, used + erratum.position - written, used)
            if place is None:
                continue
            at, end = place, place + len(erratum.read)
        out += [read[used:at], erratum.written]
        written += at - used + len(erratum.written)
        used = end
    return "".join([*out, read[used:]])


def _nearest(text: str, piece: str, expected: int, start: int) -> int | None:
    if text.startswith(piece, max(start, expected)):
        return max(start, expected)
    after = text.find(piece, max(start, expected))
    before = text.rfind(piece, start, max(start, expected) + len(piece))
    candidates = [at for at in (after, before) if at >= start]
    return min(candidates, key=lambda at: abs(at - expected)) if candidates else None


def as_text(errata: Sequence[Erratum]) -> str:
    """Errata as a decoder sees them after the page; "" without any."""
    if not errata:
        return ""
    runs = groupby(errata, lambda erratum: erratum.read is None)
    parts = (
        " ".join(e.written for e in run) if short else "; ".join(f"{e.read} → {e.written}" for e in run) for short, run in runs
    )
    return f"[errata: {'; '.join(parts)}]\n"


def cost_of(errata: Sequence[Erratum]) -> int:
    """Context tokens of `as_text`, by the tokenizer of the row's text tokens."""
    from palimpsest.codecs.text_tokens import count_tokens

    return count_tokens([as_text(errata)])[0] if errata else 0


def of_row(errata: Sequence[dict[str, object]] | None) -> list[Erratum]:
    """The column `errata` of one row."""
    return [Erratum(**erratum) for erratum in errata or ()]  # type: ignore[arg-type]
