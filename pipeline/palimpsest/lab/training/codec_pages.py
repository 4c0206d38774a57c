"""The pages that the embedded codec is trained on: licensed text, generated numbers, random strings, rendered by our own code.

A quarter of the pages is random characters, which no language model can guess: the codec has to read them.
"""

from __future__ import annotations

import json
import lzma
import random
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from palimpsest.codecs.embedded.target import ALPHABET, template
from palimpsest.codecs.embedded.vocabulary import EOS, FIRST_CELL, FIRST_TOKEN, SYMBOLS, cell_ids
from palimpsest.lab.training.writing import KINDS, Writer
from palimpsest.pages.characters import BLANK, END, LATIN
from palimpsest.pages.layouts.grid import Grid, lay_out
from palimpsest.pages.normalise import normalise

_ASCII = string.ascii_letters + string.digits + string.punctuation
_BEYOND_ASCII = "".join(c for c in LATIN if not c.isascii())
SHARES = {"prose": 0.28, "code": 0.14, "latin": 0.14, "tables": 0.16, "random": 0.28}
# what the cell reader is tuned on: all of the above, and kinds of writing that documentation lacks (`writing.py`)
BALANCED = {"prose": 0.1, "code": 0.1, "latin": 0.08, "tables": 0.08, "random": 0.1} | {
    "chat": 0.12, "log": 0.07, "names": 0.05, "markup": 0.07, "typography": 0.1, "identifiers": 0.06, "alphabet": 0.07
}  # fmt: skip
PARTIAL_SHARE = 0.35  # pages that end early
HELD_OUT = 0.02  # of each class's text, for evaluation
PAPER = len(SYMBOLS)  # the symbol of a cell behind the end of a page
_END = SYMBOLS.index(END)


@dataclass(frozen=True)
class Batch:
    """Pages of one grid in one mode.

    Attributes:
        drawn: int16 `[n, rows * columns]`, index of each cell in SYMBOLS, PAPER behind the end; what `painting.Painter` draws.
        stretches: int64 `[n, length]`, what the decoder should write for a stretch of each page (padded with -100); the
            first id of a row that does not begin the target is given, not predicted.
        starts: int64 `[n]`, the position of each stretch in the page's whole target.
        classes: text class of each page.
    """

    grid: Grid
    mode: str
    drawn: np.ndarray
    stretches: np.ndarray
    starts: np.ndarray
    classes: Sequence[str]

    @property
    def symbols(self) -> np.ndarray:
        """The symbols to read, int64 `[n, rows * columns]`: END wherever the page is blank: a missed one costs a character."""
        return np.where(self.drawn == PAPER, _END, self.drawn).astype(np.int64)


class PageSampler:
    """Draws training pages, deterministically for one seed.

    Args:
        path: JSON lines with `text` and `text_class` (prose, code, latin), as `jobs/gather_codec_text.py` writes them.
        seed: of everything random here.
        held_out: draw from the last HELD_OUT of each class's text, which the others never see.
        shares: how often each class is drawn.
    """

    def __init__(self, path: str, seed: int, held_out: bool = False, shares: Mapping[str, float] = SHARES) -> None:
        self._random, self._shares = random.Random(seed), dict(shares)
        texts: dict[str, list[str]] = {}
        with (lzma.open if path.endswith(".xz") else open)(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                texts.setdefault(record["text_class"], []).append(normalise(record["text"]))
        whole = {name: "\n".join(parts) for name, parts in texts.items()}
        cuts = {name: int(len(text) * (1 - HELD_OUT)) for name, text in whole.items()}
        self._texts = {name: text[cuts[name] :] if held_out else text[: cuts[name]] for name, text in whole.items()}
        missing = {"prose", "code", "latin"} - self._texts.keys()
        if missing:
            raise ValueError(f"{path}: no text of class {', '.join(sorted(missing))}")
        self._writer = Writer(self._random, lambda length: self.text(self._random.choice(("prose", "code", "latin")), length))

    def reseed(self, seed: int) -> None:
        """Draw from here on what a sampler of that seed draws from the start."""
        self._random.seed(seed)
        self._writer.forget()

    def batch(self, grid: Grid, mode: str, pages: int, stretch: int, classes: Sequence[str] = ()) -> Batch:
        """`pages` fresh pages and a stretch of `stretch` ids from each page's target; of `classes`, or of random ones.

        A `stretch` of 0 is the whole target of each page, from its beginning.
        """
        classes = classes or self.classes(pages)
        cells = self.cells(grid, classes)
        blank = cells == BLANK
        ids = cell_ids(np.where(blank, END, cells))
        stretches, starts = self._stretches(ids, (~blank).sum(1), grid, mode, stretch)
        drawn = np.where(blank, PAPER, ids - FIRST_CELL).astype(np.int16)
        return Batch(grid, mode, drawn, stretches, starts, classes)

    def cells(self, grid: Grid, classes: Sequence[str]) -> np.ndarray:
        """A fresh page of each of `classes`, uint32 `[n, rows * columns]`."""
        return np.stack([self._cells(name, grid) for name in classes])

    def classes(self, count: int) -> list[str]:
        """`count` classes, drawn by their shares."""
        return self._random.choices(list(self._shares), list(self._shares.values()), k=count)

    def _cells(self, name: str, grid: Grid) -> np.ndarray:
        text = self.text(name, grid.cells + grid.cells // 2 + 200)
        if self._random.random() < PARTIAL_SHARE:
            text = text[: self._random.randrange(1, grid.cells)]
        return next(lay_out(normalise(text), Grid(grid.columns, grid.rows, ALPHABET))).cells

    def text(self, name: str, length: int) -> str:
        """At least `length` characters of a class of SHARES or BALANCED, or all there are."""
        if name in KINDS:
            return self._writer.write(name, length)
        if name == "tables":
            return _tables(self._random, length)
        if name == "random":
            return _random_strings(self._random, length)
        text = self._texts[name]
        at = self._random.randrange(max(1, len(text) - length))
        return text[at : at + length] or " "

    def _stretches(self, ids: np.ndarray, used: np.ndarray, grid: Grid, mode: str, stretch: int) -> tuple[np.ndarray, np.ndarray]:
        whole, positions = template(grid.columns, grid.rows, mode)
        addresses = np.flatnonzero(whole >= FIRST_TOKEN)
        length = stretch or len(whole) + 1
        targets = np.full((len(ids), length), -100, np.int64)
        starts = np.zeros(len(ids), np.int64)
        for row, (page, cells, out) in enumerate(zip(ids, used.tolist(), targets, strict=True)):
            full = whole.copy()
            full[positions[:cells]] = page[:cells]
            full = np.append(full[: positions[cells - 1] + 1], EOS)
            candidates = addresses[addresses < max(1, len(full) - length // 2)]
            anywhere = stretch and self._random.random() >= 0.1
            start = int(candidates[self._random.randrange(len(candidates))]) if anywhere else 0
            piece = full[start : start + length]
            out[: len(piece)], starts[row] = piece, start
        return targets, starts


def _random_strings(rng: random.Random, length: int) -> str:
    kind = rng.random()
    pool = _ASCII if kind < 0.7 else _ASCII + _BEYOND_ASCII if kind < 0.9 else string.hexdigits.lower() + string.digits
    spaces = rng.choice((0.0, 0.1, 0.18))
    characters = rng.choices(pool, k=length)
    return "".join(" " if rng.random() < spaces else c for c in characters)


def _tables(rng: random.Random, length: int) -> str:
    lines: list[str] = []
    while sum(map(len, lines)) < length:
        width, style = rng.randint(2, 8), rng.randrange(6)
        for _ in range(rng.randint(3, 20)):
            values = [_value(rng) for _ in range(width)]
            if style == 0:
                lines.append("| " + " | ".join(values) + " |")
            elif style == 1:
                lines.append(",".join(values))
            elif style == 2:
                lines.append("\t".join(values))
            elif style == 3:
                lines.append("".join(value.rjust(rng.choice((10, 12, 14))) for value in values))
            elif style == 4:
                lines.append(json.dumps(dict(zip((_word(rng) for _ in values), values, strict=True))))
            else:
                lines.append(" ".join(values))
    return "\n".join(lines)


def _word(rng: random.Random) -> str:
    return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 8)))


def _value(rng: random.Random) -> str:
    kind = rng.randrange(8)
    if kind == 0:
        return str(rng.randint(0, 10 ** rng.randint(1, 7)))
    if kind == 1:
        return f"{rng.uniform(-1e4, 1e4):.{rng.randint(1, 4)}f}"
    if kind == 2:
        return f"{rng.randint(1970, 2035)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
    if kind == 3:
        return f"{rng.uniform(0, 100):.1f}%"
    if kind == 4:
        return "".join(rng.choices("0123456789abcdef", k=rng.choice((4, 8, 12, 16, 32))))
    if kind == 5:
        return "".join(rng.choices(string.ascii_uppercase, k=3))
    if kind == 6:
        return f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}:{rng.randint(0, 59):02}"
    return _word(rng)
