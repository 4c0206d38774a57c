"""How fast pages are made, beside Pillow on the same pages in the same run.

Ours is everything from raw text to pixels: normalise, lay out, render. Pillow's side is only `ImageDraw.text`, line by line, on
lines that were already broken, so that the ratio errs in its favour. Both sides take turns and are timed in CPU seconds of this
process, which a busy machine disturbs less than the clock on the wall; both are single-threaded, and the median turn counts.
The text is made of invented words whose frequencies follow Zipf's law, as caches of words would meet them, and the timed pages
are not those of the warm-up.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from functools import cache
from io import BytesIO
from itertools import islice
from statistics import median
from typing import Any

import numpy as np

from palimpsest.lab.bench.raqm import render_raqm
from palimpsest.pages.atlas import PAPER, atlas
from palimpsest.pages.fonts import font_bytes
from palimpsest.pages.grid import Grid, Page, lay_out
from palimpsest.pages.normalise import normalise
from palimpsest.pages.shaped import ShapedPage, lay_out_shaped, render_shaped

MODES_PX = {"tiny": 512, "small": 640, "base": 1024, "large": 1280}
LATIN_BAR, SHAPED_BAR = 100.0, 20.0
_CJK = "".join(map(chr, range(0x4E00, 0x5600)))
_SCRIPTS = {
    "latin": ("etaoinshrdlucmfwypvbgkjqxzé", ""),
    "arabic": ("ابتثجحخدذرزسشصضطظعغفقكلمنهويةء", ""),
    "hebrew": ("אבגדהוזחטיכלמנסעפצקרשת", ""),
    "devanagari": ("कखगघचछजझटठडढणतथदधनपफबभमयरलवशषसह", "ािीुूेैोौं्"),
}


def bench_render(seconds: float = 2.0, pages: int = 16, grid: Grid | None = None) -> dict[str, Any]:
    """Measure rendering.

    Args:
        seconds: CPU seconds to spend on each row, Pillow's side included; at least one page is always timed.
        pages: how many different pages of each script to draw from.
        grid: the layout's density; 128x64 where none is given.

    Returns:
        `{"grid", "unit", "rows": [...], "passed"}`; a row has `script`, `mode`, `px`, `ours` and `pillow` in pages per CPU
        second, `ratio`, and `bar`, the ratio to reach (None where there is none).
    """
    grid = grid or Grid(128, 64)
    rows = [_measure("latin", mode, grid, seconds, pages, LATIN_BAR if mode == "base" else None) for mode in MODES_PX]
    rows.append(_measure("cjk", "base", grid, seconds, pages, None))
    rows += [_measure(script, "base", grid, seconds, pages, SHAPED_BAR) for script in ("arabic", "devanagari", "hebrew")]
    passed = all(row["ratio"] >= row["bar"] for row in rows if row["bar"])
    return {"grid": str(grid), "unit": "pages per CPU second, one core", "rows": rows, "passed": passed}


def invented_text(script: str, words: int, seed: int = 0) -> str:
    """Words of random letters, drawn by Zipf's law from a vocabulary of 20,000; for "cjk", ideographs."""
    draw = random.Random(seed)
    if script == "cjk":
        return "".join(draw.choices(_CJK, [1 / (rank + 3) for rank in range(len(_CJK))], k=5 * words))
    vocabulary = _vocabulary(script)
    return " ".join(draw.choices(vocabulary, [1 / (rank + 3) for rank in range(len(vocabulary))], k=words))


@cache
def _vocabulary(script: str) -> list[str]:
    draw, (letters, marks) = random.Random(script), _SCRIPTS[script]
    syllables = [*letters, *(letter + mark for letter in letters for mark in marks)]
    return ["".join(draw.choices(syllables, k=draw.randint(2, 8))) for _ in range(20_000)]


def _measure(script: str, mode: str, grid: Grid, seconds: float, pages: int, bar: float | None) -> dict[str, Any]:
    px = MODES_PX[mode]
    text = normalise(invented_text(script, 2 * pages * grid.cells // 5))
    draw_ours, draw_pillow = _contestants(script, grid, px)
    jobs = list(_jobs(script, text, grid, 2 * pages))
    for raw, _ in jobs[: len(jobs) // 2]:
        draw_ours(raw)
    timed = jobs[len(jobs) // 2 :]
    draw_pillow(*timed[0])
    ours: list[float] = []
    pillow: list[float] = []
    while not ours or len(timed) * sum(ours) + sum(pillow) < seconds:
        job = timed[len(ours) % len(timed)]
        pillow.append(_cpu_seconds(draw_pillow, *job))
        # One page of ours is too short for the clock: all of them.
        ours.append(_cpu_seconds(lambda: [draw_ours(raw) for raw, _ in timed]) / len(timed))
    fast, slow = median(ours), median(pillow)
    rates = {"ours": round(1 / fast, 1), "pillow": round(1 / slow, 2), "ratio": round(slow / fast, 1)}
    return {"script": script, "mode": mode, "px": px, **rates, "bar": bar}


def _cpu_seconds(work: Callable[..., Any], *arguments: Any) -> float:
    start = time.process_time()
    work(*arguments)
    return time.process_time() - start


def _jobs(script: str, text: str, grid: Grid, limit: int) -> Iterator[tuple[str, Any]]:
    """Pages as their raw text and what Pillow needs: the laid-out page, or lines of one row of cells each."""
    shaped = script not in ("latin", "cjk")
    pages: Iterator[ShapedPage | Page] = lay_out_shaped(text, grid) if shaped else lay_out(text, grid)
    for page in islice(pages, limit):
        raw = text[page.char_start : page.char_end]
        if isinstance(page, ShapedPage):
            yield raw, next(lay_out_shaped(raw, grid))
            continue
        width = grid.columns // 2 if script == "cjk" else grid.columns
        yield raw, [raw[start : start + width] for start in range(0, len(raw), width)]


def _contestants(script: str, grid: Grid, px: int) -> tuple[Callable[[str], Any], Callable[[str, Any], Any]]:
    out = np.empty((1, px, px), np.uint8)
    if script in ("latin", "cjk"):
        glyphs = atlas(grid, px)
        font_size = min(px // grid.rows, 2 * (px // grid.columns)) * 0.8

        def draw_cells(raw: str) -> None:
            for page in lay_out(normalise(raw), grid):
                glyphs.render(page.cells[None], out)

        return draw_cells, lambda _, lines: _draw_lines(lines, grid, px, font_size)

    def draw_shaped(raw: str) -> None:
        for page in lay_out_shaped(normalise(raw), grid):
            render_shaped(page, grid, px, out[0])

    return draw_shaped, lambda raw, page: render_raqm(raw, page, grid, px)


def _draw_lines(lines: list[str], grid: Grid, px: int, font_size: float) -> np.ndarray:
    """What one writes without an atlas: one `ImageDraw.text` a line."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(BytesIO(font_bytes("DejaVuSansMono.ttf")), font_size, layout_engine=ImageFont.Layout.BASIC)
    image = Image.new("L", (px, px), PAPER)
    draw = ImageDraw.Draw(image)
    for row, line in enumerate(lines):
        draw.text((0, row * px // grid.rows), line, fill=0, font=font)
    return np.asarray(image)
