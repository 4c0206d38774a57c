"""Exact spans: the words of a page that were misread, as a short text that a decoder sees behind the page.

    [errata: src/maln.py → src/main.py; 7f3b → 7f3a]

Each erratum is a whole word, with its position in the page's text. `apply` corrects a decoded text with them.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rapidfuzz.distance import Levenshtein

Exact = Literal["none", "identifiers", "all"]
_CHUNK = re.compile(r"\S+|\s+")
_EDGES = " \t\n.,;:!?\"'“”‘’«»()[]{}<>*`…–—|"
_JOINED = re.compile(r"\w[_/.\-@:\\#+=]+\w")
_CAMEL = re.compile(r"[a-z][A-Z]|[A-Z]{2}")


@dataclass(frozen=True, slots=True)
class Erratum:
    """At character `position` of a page's text, `written` was read as `read`."""

    position: int
    read: str
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


def find_errata(text: str, read: str, exact: Exact) -> list[Erratum]:
    """Errata of a page, ascending; with "all", `apply(read, errata) == text`.

    Args:
        text: the page's text.
        read: the decoded text.
        exact: the kind of misread words that count.
    """
    if exact == "none" or text == read:
        return []
    candidates = [Erratum(start, read[low:high], text[start:end]) for start, end, low, high in _differences(text, read)]
    if exact == "all":
        return candidates
    return [erratum for erratum in candidates if any(is_identifier(word) for word in erratum.written.split())]


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

    Each is searched near its position, counted in the corrected part of the text; the nearest occurrence of `read` is replaced.
    """
    out: list[str] = []
    used = written = 0
    for erratum in errata:
        expected = used + erratum.position - written
        at = _nearest(read, erratum.read, expected, used)
        if at is None:
            continue
        out += [read[used:at], erratum.written]
        written += at - used + len(erratum.written)
        used = at + len(erratum.read)
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
    return "[errata: " + "; ".join(f"{e.read} → {e.written}" for e in errata) + "]\n" if errata else ""


def cost_of(errata: Sequence[Erratum]) -> int:
    """Context tokens of `as_text`, by the tokenizer of the row's text tokens."""
    from palimpsest.codecs.text_tokens import count_tokens

    return count_tokens([as_text(errata)])[0] if errata else 0


def of_row(errata: Sequence[dict[str, object]] | None) -> list[Erratum]:
    """The column `errata` of one row."""
    return [Erratum(**erratum) for erratum in errata or ()]  # type: ignore[arg-type]
