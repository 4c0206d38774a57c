"""Bytes per text token over precision lost, by token storage, text class, grid and mode, with the codec's cell reader.

Every page is encoded once and read from each storage, so a difference is the storage's. A codebook of pq is fitted to every
second page of each class and measured on the others, and the other way round: no page is read with a codebook that was fitted to
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from palimpsest.codecs.adapter import Codec
from palimpsest.codecs.modes import Mode
from palimpsest.codecs.text_tokens import count_tokens
from palimpsest.codecs.token_storage import find_storage, pack, unpack
from palimpsest.codecs.token_storage.codebook_fit import fit_codebook
from palimpsest.codecs.token_storage.pq import add_codebook
from palimpsest.config import JobConfig, to_json
from palimpsest.errors import UsageError
from palimpsest.flow.stages import Encode
from palimpsest.lab.bench.fidelity import interval
from palimpsest.lab.bench.machine import machine
from palimpsest.operations.codebooks import gather, readable
from palimpsest.operations.resolving import prepare
from palimpsest.pages.layouts.protocol import Layout
from palimpsest.verification import fidelity

BASELINE = "bf16"
ALL = "all"


@dataclass(frozen=True)
class _Page:
    text_class: str
    text: str
    text_tokens: int
    size: tuple[int, int]
    tokens: Tensor  # bfloat16 [1, T, dim]
    fold: int


def bench_storages(
    config: JobConfig,
    texts: Mapping[str, str],
    settings: Iterable[tuple[str, str]],
    storages: Sequence[str] = ("int8", "int4"),
    pq_bits: Sequence[float] = (3.0, 2.0),
    max_pages: int = 0,
) -> dict[str, Any]:
    """What each storage loses against bf16, in points of precision (per cent of the characters).

    Args:
        texts: by class, joined.
        settings: (grid, mode).
        storages: besides bf16, and pq with each of `pq_bits`.
        max_pages: at most so many pages per class and setting; 0 takes all.

    Returns:
        {"rows": one per setting, storage and class, and class "all": the mean of the classes}, with bootstrap 95 % intervals.

    Raises:
        UsageError: the codec has no cell reader, or a setting or storage does not exist.
    """
    names = [find_storage(name).name for name in dict.fromkeys((BASELINE, *storages))]
    rows: list[dict[str, Any]] = []
    for grid, mode_name in settings:
        changed = config.replace(layout=config.layout.replace(grid=grid), tiers=config.tiers.replace(mode=mode_name))
        recipe = prepare(changed.replace(storage=changed.storage.replace(tokens=BASELINE)))
        encode = Encode(recipe.config, recipe.fingerprint)
        codec, mode = encode.codec, encode.codec.mode(mode_name)
        if not recipe.layout.sizes:
            raise UsageError("bench storages reads cells: set layout.name = 'grid'")
        pages = _pages(codec, recipe.layout, mode, texts, recipe.config.layout.max_escaped_share, max_pages)
        precisions = {name: _read(codec, mode, pages, [name, name]) for name in names}
        sizes = {name: find_storage(name).bytes_per_token(codec.token_dim) for name in names}
        folds = [_sample(codec, recipe.layout, mode, pages, 1 - fold) for fold in (0, 1)] if pq_bits else []
        for bits in pq_bits:
            books = [add_codebook(fit_codebook(tokens, bits, metric).to_bytes({})) for tokens, metric in folds]
            precisions[f"pq, {bits:g} bits"] = _read(codec, mode, pages, books)
            sizes[f"pq, {bits:g} bits"] = find_storage(books[0]).bytes_per_token(codec.token_dim)
        for name, found in precisions.items():
            measured = list(_rows(pages, 100 * (precisions[BASELINE] - found), found, sizes[name], mode))
            rows += [{"grid": grid, "mode": mode_name, "storage": name, **row} for row in measured]
    return {
        "codec": recipe.codec,
        "codec_revision": recipe.revision,
        "reader": "cells",
        "rows": rows,
        "notes": [
            "Points lost: precision from bf16 minus precision from the storage, in per cent of the characters, with a bootstrap "
            "interval over pages. Class all is the mean of the classes.",
            "pq: two codebooks, each fitted to half of the pages and to random characters, and measured on the other half.",
        ],
        "config": to_json(config),
        "machine": machine(),
    }


def _pages(
    codec: Codec, layout: Layout, mode: Mode, texts: Mapping[str, str], max_escaped_share: float, max_pages: int
) -> list[_Page]:
    found = []
    for name, text in texts.items():
        for number, (own, page) in enumerate(readable(layout, text, name, max_escaped_share)):
            if max_pages and number == max_pages:
                break
            assert page.size
            tokens = codec.encode(layout.render([own], [page.drawing], mode.px), mode).cpu()
            found.append(_Page(name, own, count_tokens([own])[0], page.size, tokens, number % 2))
    if not found:
        raise UsageError(f"none of the pages can be read by codec {codec.id!r}")
    return found


def _sample(codec: Codec, layout: Layout, mode: Mode, pages: Sequence[_Page], fold: int) -> tuple[np.ndarray, np.ndarray | None]:
    return gather(codec, layout, [mode], [(page.text, page.text_class) for page in pages if page.fold == fold])


def _read(codec: Codec, mode: Mode, pages: Sequence[_Page], names: Sequence[str]) -> np.ndarray:
    """Precision of each page, read from the storage of its fold."""
    decoded = []
    for page in pages:
        name = names[page.fold]
        tokens = unpack(name, pack(name, page.tokens), mode.num_vision_tokens, codec.token_dim)
        decoded.append(codec.decode_ids(codec.read_cells(tokens, page.size)[0]))
    return fidelity.precision([page.text for page in pages], decoded)


def _rows(pages: Sequence[_Page], lost: np.ndarray, found: np.ndarray, size: int, mode: Mode) -> Iterable[dict[str, Any]]:
    classes = list(dict.fromkeys(page.text_class for page in pages))
    draw = np.random.default_rng(0)
    means: list[float] = []
    drawn: list[np.ndarray] = []
    for name in (*classes, ALL):
        some = [index for index, page in enumerate(pages) if name in (page.text_class, ALL)]
        text_tokens = sum(pages[index].text_tokens for index in some)
        row = {
            "text_class": name,
            "pages": len(some),
            "bytes_per_token": size,
            "bytes_per_text_token": round(size * mode.num_vision_tokens * len(some) / max(1, text_tokens), 2),
            "precision": round(float(found[some].mean()), 5),
        }
        if name == ALL:
            low, high = np.quantile(np.mean(drawn, axis=0), [0.025, 0.975])
            points = float(np.mean(means))
            row["precision"] = round(float(np.mean([found[[p.text_class == c for p in pages]].mean() for c in classes])), 5)
        else:
            points, (low, high) = float(lost[some].mean()), interval(lost[some])
            means.append(points)
            drawn.append(draw.choice(lost[some], (2000, len(some))).mean(1))
        yield {**row, "points_lost": round(points, 4), "low": round(float(low), 4), "high": round(float(high), 4)}
