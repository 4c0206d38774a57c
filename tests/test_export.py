"""Exports, read back by the libraries that they are for, from a re-tiered corpus: every page once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from palimpsest.corpus.reader import Corpus
from palimpsest.errors import UsageError
from palimpsest.loading.export import export_hf, export_lance, export_webdataset
from tests.loader_corpora import publish_corpus, retier_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("export") / "corpus"
    publish_corpus(folder, units=3, documents=10)
    retier_corpus(folder, {1}, units=3, documents=10)
    return Corpus(str(folder))


def tokens_by_page(corpus: Corpus) -> dict[str, bytes | None]:
    table = corpus.table(["page_id", "tokens"])
    return dict(zip(table["page_id"].to_pylist(), table["tokens"].to_pylist(), strict=True))


def test_hugging_face_reads_the_export(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    facts = export_hf(corpus, tmp_path / "hf", licence="cc-by-4.0")
    assert facts["pages"] == len(corpus)
    expected = tokens_by_page(corpus)
    loaded = datasets.load_dataset(str(tmp_path / "hf"), split="train", cache_dir=str(tmp_path / "cache"))
    assert {row["page_id"]: row["tokens"] for row in loaded} == expected and len(loaded) == len(expected)
    first = loaded.select_columns(["page_id", "num_text_tokens"]).with_format("torch")[0]
    assert first["num_text_tokens"].ndim == 0
    streamed = datasets.load_dataset(str(tmp_path / "hf"), "tiny", split="train", streaming=True)
    tiny = [page.page_id for page in corpus.pages(where="tier = 'tiny'")]
    assert sorted(row["page_id"] for row in streamed) == sorted(tiny)
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "license: cc-by-4.0" in card and "- config_name: tiny" in card and f"{len(corpus):,} pages" in card
    assert json.loads((tmp_path / "hf" / "croissant.json").read_text())["conformsTo"].endswith("croissant/1.0")
    with pytest.raises(UsageError, match="is not empty"):
        export_hf(corpus, tmp_path / "hf")


def test_lance_reads_the_export(corpus: Corpus, tmp_path: Path) -> None:
    lance = pytest.importorskip("lance")
    export_lance(corpus, tmp_path / "pages.lance")
    table = lance.dataset(str(tmp_path / "pages.lance")).to_table(columns=["page_id", "tokens"])
    assert dict(zip(table["page_id"].to_pylist(), table["tokens"].to_pylist(), strict=True)) == tokens_by_page(corpus)
    assert table.num_rows == len(corpus)


def test_webdataset_reads_the_export(corpus: Corpus, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    export_webdataset(corpus, tmp_path / "wds")
    urls = [str(path) for path in sorted((tmp_path / "wds").glob("*.tar"))]
    rows: list[Any] = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert {row["__key__"]: row.get("tokens.bin") for row in rows} == tokens_by_page(corpus)
    assert len(rows) == len(corpus) and json.loads(rows[0]["json"])["page_id"] == rows[0]["__key__"]


def test_duckdb_and_polars_read_the_files_of_a_snapshot(corpus: Corpus) -> None:
    duckdb, polars = pytest.importorskip("duckdb"), pytest.importorskip("polars")
    count = duckdb.sql(f"select count(*), count(distinct page_id) from read_parquet({corpus.files()})").fetchall()[0]
    assert count == (len(corpus), len(corpus))
    assert polars.scan_parquet(corpus.files()).select("page_id").collect().n_unique() == len(corpus)
