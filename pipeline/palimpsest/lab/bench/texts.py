"""Texts of the benchmarks: invented Latin prose, which ships with the package because it is made, or a file of your own."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from functools import cache
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

from palimpsest.pages.layouts.protocol import LaidOutPage, Layout
from palimpsest.pages.normalise import normalise

VOCABULARY = 8_000
_ONSETS = (*"bcdglmnrstv", "br", "cl", "gr", "pl", "pr", "qu", "st", "tr")
_VOWELS = (*"aaeeeiioou", "ae", "au", "ia", "io")
_CODAS = ("", "", "", "", *"nrslx", "nt", "st")


def bench_text(characters: int, path: str | Path | None = None, seed: int = 0) -> str:
    """At least `characters` characters of text: of the file at `path`, repeated where it is too short, else invented prose.

    Raises:
        ValueError: for a file that is missing or holds no UTF-8 text.
    """
    if path is None:
        return "\n".join(islice(_paragraphs(seed), 1 + characters // 300))[: max(characters, 1)]
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--text {str(path)!r}: cannot be read as UTF-8 text: {error}") from error
    if not normalise(text).strip():
        raise ValueError(f"--text {str(path)!r}: holds no text")
    return text * -(-characters // len(text))


def bench_pages(count: int, layout: Layout, path: str | Path | None = None, seed: int = 0) -> list[tuple[str, LaidOutPage]]:
    """`count` full pages: the normalised text of each, and its layout."""
    pages: list[LaidOutPage] = []
    text, size = "", count * layout.capacity
    while len(pages) <= count:  # one more, because the last may not be full
        size *= 2
        text = normalise(bench_text(size, path, seed))
        pages = list(islice(layout.paginate(text, "prose"), count + 1))
    return [(text[page.char_start : page.char_end], page) for page in pages[:count]]


def _paragraphs(seed: int) -> Iterator[str]:
    """Paragraphs without end, of 300 characters and more: words by Zipf's law, in sentences, with a number now and then."""
    draw = random.Random(seed)
    words, weights = _vocabulary()
    while True:
        sentences = []
        for _ in range(draw.randint(6, 10)):
            sentence = draw.choices(words, cum_weights=weights, k=draw.randint(9, 24))
            if draw.random() < 0.15:
                sentence[draw.randrange(1, len(sentence))] = str(draw.randint(2, 1999))
            sentence[len(sentence) // 2] += "," * (len(sentence) > 14)
            sentences.append(" ".join(sentence).capitalize() + draw.choice("....?"))
        yield " ".join(sentences)


@cache
def _vocabulary() -> tuple[list[str], list[float]]:
    """Words that can be spoken, the frequent ones short, and their cumulated weights."""
    draw = random.Random("vocabulary")
    made: dict[str, None] = {}
    while len(made) < VOCABULARY:
        syllables = 1 + (len(made) > 60) + (len(made) > 1_500) * draw.randint(0, 2)
        made["".join(draw.choice(_ONSETS) + draw.choice(_VOWELS) + draw.choice(_CODAS) for _ in range(syllables))] = None
    return list(made), list(accumulate(1 / (rank + 3) for rank in range(VOCABULARY)))


def json_lines(path: Path, limit: int = 0) -> list[dict[str, Any]]:
    """The first `limit` objects of a JSON Lines file, 0 for all; none where there is no file."""
    if not path.is_file():
        return []
    lines = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]
    return lines[: limit or None]
