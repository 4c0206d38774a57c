"""The lines of docs/train-on-a-corpus.md for other tools, run as they are printed on a re-tiered corpus: every page once."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from palimpsest.corpus.reader import Corpus
from palimpsest.loading.exports.protocol import export
from tests.loader_corpora import publish_corpus, retier_corpus
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "train-on-a-corpus.md").read_text("utf-8")
LINES = re.findall(r"^    ((?:duckdb|polars|ray|datasets)\.\S.*)$", PAGE.partition("## With other tools")[2], re.MULTILINE)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("documented") / "corpus"
    publish_corpus(folder, units=3, documents=10)
    retier_corpus(folder, {1}, units=3, documents=10)
    assert len(list((folder / "data").rglob("*.parquet"))) > len(Corpus(str(folder)).files())  # a glob would find too many
    return Corpus(str(folder))


def line_of(tool: str, **names: Any) -> Any:
    """The value of the only line for a tool."""
    (line,) = [line.partition("   #")[0] for line in LINES if line.startswith(f"{tool}.")]
    return eval(line, names)


def ids(corpus: Corpus, where: str = "true") -> list[str]:
    return sorted(page.page_id for page in corpus.pages(where=where))


def test_every_line_is_run_here() -> None:
    assert sorted(line.partition(".")[0] for line in LINES) == ["datasets", "duckdb", "polars", "ray"]


def test_duckdb(corpus: Corpus) -> None:
    duckdb = pytest.importorskip("duckdb")
    found = dict(line_of("duckdb", duckdb=duckdb, corpus=corpus).fetchall())
    assert found == {tier: len(ids(corpus, f"tier = '{tier}'")) for tier in ("tiny", "small", "text")}
    distinct = f"select count(*), count(distinct page_id) from read_parquet({corpus.files()})"
    assert duckdb.sql(distinct).fetchall() == [(len(corpus), len(corpus))]


def test_polars(corpus: Corpus) -> None:
    polars = pytest.importorskip("polars")
    assert sorted(line_of("polars", polars=polars, corpus=corpus).collect()["page_id"].to_list()) == ids(corpus)


@pytest.mark.cluster
def test_ray_data(corpus: Corpus, ray_session: None) -> None:
    import ray.data

    rows = line_of("ray", ray=ray, corpus=corpus).take_all()
    assert sorted(row["page_id"] for row in rows) == ids(corpus)
    by_id = {page.page_id: page.text for page in corpus.pages()}
    assert all(row["text"] == by_id[row["page_id"]] for row in rows)
    tokens = ray.data.read_parquet(corpus.files()).select_columns(["page_id", "tokens"]).iter_batches(batch_format="pyarrow")
    found = {one["page_id"]: one["tokens"] for batch in tokens for one in batch.to_pylist()}
    table = corpus.table(["page_id", "tokens"])
    assert found == dict(zip(table["page_id"].to_pylist(), table["tokens"].to_pylist(), strict=True))


@pytest.mark.parametrize("streaming", [True, False])
def test_datasets(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    export("hf", corpus, tmp_path / "books-hf")
    monkeypatch.chdir(tmp_path)

    def load(*args: Any, **given: Any) -> Any:
        return datasets.load_dataset(*args, **{**given, "streaming": streaming, "cache_dir": str(tmp_path / "cache")})

    tiny = line_of("datasets", datasets=_With(load))
    assert sorted(row["page_id"] for row in tiny) == ids(corpus, "tier = 'tiny'")
    whole = load("books-hf", split="train")
    assert sorted(row["page_id"] for row in whole) == ids(corpus)
    named = whole.select_columns(["num_text_tokens", "num_context_tokens"]).with_format("torch")
    total = sum(int(row["num_text_tokens"]) for row in named)
    assert all(row["num_context_tokens"].ndim == 0 for row in named)
    assert total == sum(page.num_text_tokens for page in corpus.pages())


class _With:
    def __init__(self, load_dataset: Callable[..., Any]) -> None:
        self.load_dataset = load_dataset
