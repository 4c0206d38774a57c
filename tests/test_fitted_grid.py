"""Layout `grid` with several densities: a document takes the one on which it is a single page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import palimpsest
from palimpsest.config import ConfigError, LayoutConfig, parse
from palimpsest.errors import UsageError
from palimpsest.operations.retier import retier
from palimpsest.operations.run import run
from palimpsest.operations.verify import open_and_reverify
from palimpsest.pages.layouts.fitted_grid import FittedGrid
from palimpsest.pages.layouts.grid import Grid, read_back
from palimpsest.pages.layouts.protocol import Layout
from palimpsest.pages.layouts.registry import make_layout
from tests.mixed_sources import prose

LAYOUT = FittedGrid((Grid(16, 8), Grid(20, 10), Grid(24, 12)))


@given(st.text("abc, \n\t漢é\u0301", max_size=700) | st.integers(0, 700).map(lambda count: "x" * count))
def test_a_document_takes_the_first_grid_on_which_it_is_one_page(text: str) -> None:
    pages = list(LAYOUT.paginate(text, "prose"))
    assert [page.char_start for page in pages] == [0, *(page.char_end for page in pages)][: len(pages)]
    assert (pages[-1].char_end if pages else 0) == len(text)
    single = [grid for grid in LAYOUT.grids if len(list(grid.paginate(text, "prose"))) == 1]
    expected = (single or LAYOUT.grids)[0]
    assert pages == list(expected.paginate(text, "prose"))
    for page in pages:
        own = text[page.char_start : page.char_end]
        assert page.size == (expected.columns, expected.rows)
        assert read_back(np.frombuffer(page.drawing, "<u4")) == own
        assert LAYOUT.lay_out_again(own, "prose") == page._replace(char_start=0, char_end=len(own))
    assert not text or (LAYOUT.lay_out_again(text, "prose") is None) == (len(pages) > 1)


def test_pages_of_all_grids_are_drawn_in_one_batch() -> None:
    texts = ["a" * length for length in (100, 190, 280, 90, 250)]
    pages = [next(LAYOUT.paginate(text, "prose")) for text in texts]
    assert [page.size for page in pages] == [(16, 8), (20, 10), (24, 12), (16, 8), (24, 12)]
    made = LAYOUT.render(texts, [page.drawing for page in pages], 240)
    for text, page, image in zip(texts, pages, made, strict=True):
        assert page.size
        assert np.array_equal(image, Grid(*page.size).render([text], [page.drawing], 240)[0])


def test_settings_and_identity() -> None:
    def named(grid: str) -> Layout:
        return make_layout(LayoutConfig(name="grid", grid=grid, alphabet="latin"))

    assert named("96x48+102x51").sizes == ((96, 48), (102, 51)) and str(named("96x48+102x51")) == "96x48+102x51"
    assert isinstance(named("96x48"), Grid)
    identities = {named(grid).identity for grid in ("96x48", "102x51", "96x48+102x51", "96x48+102x51+128x64")}
    assert len(identities) == 4
    with pytest.raises(UsageError, match="96x48 has no more cells than 102x51; begin with the grid of the fewest cells"):
        named("102x51+96x48")
    for wrong in ("96x48+", "96x48,102x51", "+96x48"):
        with pytest.raises(ConfigError, match="expected COLUMNSxROWS, for example 64x32 or 96x48\\+112x56"):
            parse({"layout": {"grid": wrong}}, ())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of one page of 64x32, of one page of 80x40 and of two pages, with the codec that ships."""
    base = tmp_path_factory.mktemp("fitted")
    date = "2026-01-01T00:00:00Z"
    lines = [json.dumps({"id": str(size), "text": prose(size, size), "timestamp": date}) for size in (1900, 2500, 3500)]
    (base / "in.jsonl").write_text("\n".join(lines) + "\n")
    settings = {
        "sources": [str(base / "in.jsonl")],
        "out": str(base / "corpus"),
        "layout": {"grid": "64x32+80x40"},
        "tiers": {"policy": "age", "as_of": "2026-01-10T00:00:00Z", "cheap_text": False},
        "verification": {"reader": "cells", "share": 1.0, "control_share": 1.0},
        "placement": {"executor": "local", "threads_per_worker": 1},
    }
    run(parse(settings, ()))
    return base / "corpus"


def test_a_corpus_names_the_grid_of_each_page_and_every_reader_uses_it(corpus: Path) -> None:
    pages = {(page.text[:20], page.page_number): page for page in palimpsest.Corpus(str(corpus)).pages()}
    sizes = sorted((page.num_pages, page.page_number, page.grid_w, page.grid_h) for page in pages.values())
    assert sizes == [(1, 0, 64, 32), (1, 0, 80, 40), (2, 0, 64, 32), (2, 1, 64, 32)]
    for page in pages.values():
        assert page.precision > 0.99 and page.decode() == (page.decoded_text or page.text)
        px = page.image().size[0]
        assert page.image().tobytes() == Grid(page.grid_w, page.grid_h, "latin").render(
            [page.text], [next(Grid(page.grid_w, page.grid_h, "latin").paginate(page.text, "prose")).drawing], px
        )[0].tobytes()  # fmt: skip


def test_it_fades_and_is_verified_again(corpus: Path) -> None:
    before = {page.page_id: page.mode for page in palimpsest.Corpus(str(corpus)).pages()}
    retier(str(corpus), as_of="2027-03-01T00:00:00Z")
    pages = list(palimpsest.Corpus(str(corpus)).pages())
    assert {page.page_id for page in pages} == before.keys()
    assert any(page.mode != before[page.page_id] for page in pages)
    assert sorted((page.grid_w, page.grid_h) for page in pages) == [(64, 32)] * 3 + [(80, 40)]
    assert all(page.precision > 0.99 for page in pages)
    again = open_and_reverify(str(corpus))
    assert again.findings == 0 and again.rows == 4
