"""A reader's memory: the window, one row group and a constant, however many shards the corpus has."""

from __future__ import annotations

from pathlib import Path

import pytest

from palimpsest.lab.bench.loading_corpus import publish_pages
from palimpsest.lab.bench.loading_memory import Kind, peak_growth

INDEX = 8.0  # MiB of one source for footers, short columns and the order of rows, however small the window is
MARGIN = 48.0  # MiB for batches, threads and the holes that the allocator leaves; measured with the index: 28 to 48


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """48 shards of 12 row groups, and a small corpus."""
    folder = tmp_path_factory.mktemp("memory")
    publish_pages(folder / "corpus", 48 * 48, unit_pages=48, row_group_bytes=280_000)
    publish_pages(folder / "small", 64)
    return folder / "corpus", folder / "small"


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "window"), [("plain", 8), ("plain", 32), ("mixed", 32)])
def test_a_reader_grows_by_its_window_and_a_row_group(corpora: tuple[Path, Path], kind: Kind, window: int) -> None:
    grown = peak_growth(*corpora, kind, window << 20)
    bound = grown["window_mib"] + grown["row_group_mib"] + (1 if kind == "plain" else 2) * INDEX + MARGIN
    assert grown["samples"] >= 48 * 48 and grown["corpus_mib"] > 1.4 * bound
    assert grown["peak_growth_mib"] <= bound, grown
