"""How fast pages are made, compared with Pillow on the same pages in the same run.

Ours is everything from raw text to pixels: normalise, paginate, render. Pillow's side is only `ImageDraw.text`, line by line, on
lines that were already broken, so that the ratio errs in its favour. Both sides take turns and are timed in CPU seconds of this
process, which a busy machine disturbs less than the clock on the wall; both are single-threaded, and the median turn counts.
The text is made of invented words whose frequencies follow Zipf's law, as caches of words would meet them, and the timed pages
are not those of the warm-up.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import cache
from io import BytesIO
from statistics import median
from typing import Any

import numpy as np

from palimpsest.lab.bench.raqm import draw_lines
from palimpsest.pages.atlas import PAPER
from palimpsest.pages.fonts import find_cjk, font_bytes
from palimpsest.pages.layouts.document import DocumentLayout
from palimpsest.pages.layouts.grid import Grid
from palimpsest.pages.layouts.protocol import Layout
from palimpsest.pages.normalise import normalise

MODES_PX = {"tiny": 512, "small": 640, "base": 1024, "large": 1280}
BARS = {  # times Pillow at 1024 px
    ("grid", "latin"): 100.0,
    ("document", "latin"): 20.0,
    ("document", "cjk"): 50.0,
    ("document", "arabic"): 100.0,
    ("document", "devanagari"): 100.0,
}
LEAST_PAGES = {("document", "latin"): 500.0}  # a CPU second, at 1024 px
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
        grid: density of layout grid; 128x64 where none is given.

    Returns:
        `{"grid", "unit", "rows": [...], "passed"}`; a row has `layout`, `script`, `mode`, `px`, `ours` and `pillow` in pages per
        CPU second, `unseen` (ours the first time, when some words are new), `ratio`, `bar`, the ratio to reach, and `least`, the
        pages per second to reach (None where there is none).
    """
    cells, document = grid or Grid(128, 64), DocumentLayout(cjk=find_cjk("auto"))
    rows = [_measure(layout, "latin", mode, seconds, pages) for layout in (cells, document) for mode in MODES_PX]
    scripts = ["arabic", "devanagari", "hebrew", *(["cjk"] if document.cjk else [])]
    rows += [
        _measure(cells, "cjk", "base", seconds, pages),
        *(_measure(document, name, "base", seconds, pages) for name in scripts),
    ]
    passed = all(row["ratio"] >= (row["bar"] or 0) and row["ours"] >= (row["least"] or 0) for row in rows)
    return {"grid": str(cells), "unit": "pages per CPU second, one core", "rows": rows, "passed": passed}


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


def _measure(layout: Grid | DocumentLayout, script: str, mode: str, seconds: float, pages: int) -> dict[str, Any]:
    px = MODES_PX[mode]
    text = normalise(invented_text(script, 2000 * pages))
    jobs = _jobs(layout, script, text, 2 * pages)
    draw_pillow = _pillow(layout, script, px)
    out = np.empty((1, px, px), np.uint8)
    for raw, _ in jobs[: len(jobs) // 2]:
        draw_ours(layout, raw, px, out)
    timed = jobs[len(jobs) // 2 :]
    draw_pillow(timed[0][1])
    ours: list[float] = []
    pillow: list[float] = []
    while not ours or len(timed) * sum(ours) + sum(pillow) < seconds:
        pillow.append(_cpu_seconds(draw_pillow, timed[len(ours) % len(timed)][1]))
        # One page of ours is too short for the clock: all of them.
        ours.append(_cpu_seconds(_draw_all, layout, timed, px, out) / len(timed))
    fast, slow = median(ours), median(pillow)
    rates = {
        "ours": round(1 / fast, 1),
        "unseen": round(1 / ours[0], 1),
        "pillow": round(1 / slow, 2),
        "ratio": round(slow / fast, 1),
    }
    key = (layout.name, script)
    bars = {"bar": BARS.get(key), "least": LEAST_PAGES.get(key)} if mode == "base" else {"bar": None, "least": None}
    return {"layout": layout.name, "script": script, "mode": mode, "px": px, **rates, **bars}


def _draw_all(layout: Layout, jobs: list[tuple[str, list[str]]], px: int, out: np.ndarray) -> None:
    for raw, _ in jobs:
        draw_ours(layout, raw, px, out)


def _cpu_seconds(work: Callable[..., Any], *arguments: Any) -> float:
    start = time.process_time()
    work(*arguments)
    return time.process_time() - start


def draw_ours(layout: Layout, raw: str, px: int, out: np.ndarray) -> None:
    """Everything between a document and its page images."""
    text = normalise(raw)
    for page in layout.paginate(text, "prose"):
        layout.render([text[page.char_start : page.char_end]], [page.drawing], px, out)


def _jobs(layout: Grid | DocumentLayout, script: str, text: str, limit: int) -> list[tuple[str, list[str]]]:
    """Full pages as their raw text and the lines of them, which is all that Pillow gets."""
    jobs = []
    for page in list(layout.paginate(text, "prose"))[:-1][:limit]:
        raw = text[page.char_start : page.char_end]
        if isinstance(layout, Grid):
            width = layout.columns // 2 if script == "cjk" else layout.columns
            lines = [raw[start : start + width] for start in range(0, len(raw), width)]
        else:
            lines = layout.shown(raw, page.drawing).split("\n")
        jobs.append((raw, lines))
    return jobs


def _pillow(layout: Grid | DocumentLayout, script: str, px: int) -> Callable[[list[str]], Any]:
    if isinstance(layout, DocumentLayout):
        return lambda lines: draw_lines(lines, script, layout, px)
    font_size = min(px // layout.rows, 2 * (px // layout.columns)) * 0.8
    return lambda lines: _draw_cells(lines, layout, px, font_size)


def _draw_cells(lines: list[str], grid: Grid, px: int, font_size: float) -> np.ndarray:
    """The usual way without an atlas: one `ImageDraw.text` a line."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(BytesIO(font_bytes("DejaVuSansMono.ttf")), font_size, layout_engine=ImageFont.Layout.BASIC)
    image = Image.new("L", (px, px), PAPER)
    draw = ImageDraw.Draw(image)
    for row, line in enumerate(lines):
        draw.text((0, row * px // grid.rows), line, fill=0, font=font)
    return np.asarray(image)
