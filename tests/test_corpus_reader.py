"""`palimpsest.Corpus`: a published corpus, read back."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pytest

import palimpsest
from palimpsest.codecs.token_storage import DamagedTokens
from palimpsest.codecs.token_storage.rows import CodecMismatch
from palimpsest.corpus.format import create_corpus
from palimpsest.corpus.page import Page
from palimpsest.corpus.row_filter import UnknownColumn
from palimpsest.corpus.snapshots import publish
from palimpsest.errors import UsageError
from palimpsest.schemas import SHARD
from palimpsest.storage.object_store import NoSuchObject
from palimpsest.storage.opening import open_store
from tests.paths import SOURCE
from tests.store_crash_child import page, rows, unit_pages, write_unit


@pytest.fixture(scope="module")
def corpus(retiered_corpus: Path) -> palimpsest.Corpus:
    return palimpsest.Corpus(str(retiered_corpus))


def test_files_have_every_page_of_a_retiered_corpus_once(corpus: palimpsest.Corpus) -> None:
    wanted = sorted(page.page_id for page in corpus.pages())
    assert len(wanted) == len(set(wanted)) == len(corpus) == 6
    everything = [str(path) for path in Path(corpus.uri, "data").rglob("*.parquet")]
    assert len(set(everything) - set(corpus.files())) == 1  # the old snapshot's: a glob would double its pages
    readers = {
        "duckdb": [row[0] for row in duckdb.read_parquet(corpus.files()).project("page_id").fetchall()],
        "polars": polars.read_parquet(corpus.files(), columns=["page_id"])["page_id"].to_list(),
        "pyarrow": pads.dataset(corpus.files()).to_table(["page_id"])["page_id"].to_pylist(),
    }
    assert {name: sorted(found) for name, found in readers.items()} == dict.fromkeys(readers, wanted)


def test_an_older_snapshot_stays_readable(corpus: palimpsest.Corpus) -> None:
    first = palimpsest.Corpus(corpus.uri, snapshot=1)
    assert [snapshot.number for snapshot in corpus.snapshots()] == [1, 2]
    assert len(first.table(["page_id"], "tier = 'text'")) == 4 and len(corpus.table(["page_id"], "tier = 'text'")) == 2
    with pytest.raises(NoSuchObject, match=r"no snapshot 9; the corpus has \[1, 2\]"):
        palimpsest.Corpus(corpus.uri, snapshot=9)


def test_a_page_gives_its_columns_image_tokens_and_reading(corpus: palimpsest.Corpus) -> None:
    row = corpus.table(where="tier = 'tiny'").slice(0, 1)
    found = next(corpus.pages("tier = 'tiny'"))
    assert found.to_dict() == row.to_pylist()[0] and found.text == row["text"][0].as_py() and "precision" in dir(found)
    image, tokens = found.image(), found.tokens()
    assert image is not None and image.mode == "L" and image.size == (512, 512) and len(set(image.tobytes())) > 2
    assert tokens is not None and tokens.dtype == np.float32 and tokens.shape == (found.num_vision_tokens, found.token_dim)
    steps = np.frombuffer(row["tokens"][0].as_py(), np.int8).reshape(tokens.shape)
    scales = np.frombuffer(row["token_scales"][0].as_py(), np.float32)[:, None]
    np.testing.assert_allclose(tokens, steps * scales, rtol=2**-8)
    assert (tokens.view(np.uint32) & 0xFFFF == 0).all()  # bfloat16 keeps them as they are
    assert found.decode() == (found.decoded_text or found.text)
    with pytest.raises(AttributeError, match="no column 'precison': did you mean 'precision'"):
        _ = found.precison


def test_a_page_kept_as_text_has_no_image_and_reads_as_its_text(corpus: palimpsest.Corpus) -> None:
    found = next(corpus.pages("tier = 'text'"))
    assert found.image() is None and found.tokens() is None and found.decode() == found.text


def test_damaged_and_foreign_tokens_are_refused(corpus: palimpsest.Corpus) -> None:
    row = corpus.table(where="tier = 'tiny'").slice(0, 1)

    def changed(name: str, value: object) -> Page:
        at = SHARD.get_field_index(name)
        return Page(row.set_column(at, SHARD.field(at), pa.array([value], SHARD.field(at).type)), 0)

    tokens = row["tokens"][0].as_py()
    with pytest.raises(DamagedTokens, match="the row says"):
        changed("tokens", tokens[:-1] + b"\0").tokens()
    with pytest.raises(DamagedTokens, match="bytes"):
        changed("num_vision_tokens", 7).tokens()
    with pytest.raises(CodecMismatch, match="written by codec 'another'"):
        changed("codec", "another").decode()


def test_documents_are_put_together_again(corpus: palimpsest.Corpus) -> None:
    found = list(corpus.documents())
    pages = corpus.table(["doc_id", "text", "char_start"]).sort_by("char_start").to_pylist()
    assert {document.source_id for document in found} == {"old", "older", "new"}
    for document in found:
        assert document.text == "".join(page["text"] for page in pages if page["doc_id"] == document.doc_id)
        assert document.pages == document.num_pages == 2
    assert [document.source_id for document in corpus.documents("source_id = 'new'")] == ["new"]


def test_the_quarantine_is_read_and_filtered(corpus: palimpsest.Corpus) -> None:
    assert corpus.quarantine()["record"].to_pylist() == [b"{no JSON"]
    assert len(corpus.quarantine("reason = 'invalid_json'")) == 1 and len(corpus.quarantine("reason <> 'invalid_json'")) == 0


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> palimpsest.Corpus:
    """Three units of four pages, with precisions of 0.5 or none; unit 2 has other ones."""
    root = str(tmp_path_factory.mktemp("small") / "corpus")
    store = open_store(root)
    create_corpus(store)
    units = [write_unit(store, f"in/{n}", rows(unit_pages(n))) for n in range(2)]
    better = [{**page(20, n), "precision": 0.9 + n / 100, "exact": n == 1, "text_class": "it's"} for n in range(4)]
    publish(store, "r", [*units, write_unit(store, "in/2", rows(better))])
    return palimpsest.Corpus(root)


CONDITIONS = {
    "precision >= 0.92": 2,
    "precision = 0.92": 1,
    "precision between 0.9 and 0.915": 2,
    "tier = 'text' or precision > 0.925": 3,
    "not tier = 'text' and doc_id in ('doc-0', 'doc-1')": 3,
    "doc_id not in ('doc-20')": 8,
    "exact": 1,
    "exact is null": 8,
    "exact is not null and exact = false": 3,
    "text_class = 'it''s'": 4,
    "text like 'page 1 of%'": 5,
    "num_vision_tokens > 5.5": 10,
    "num_context_tokens / num_vision_tokens > 1.3": 10,
    "num_vision_tokens - num_context_tokens = -2": 10,
    "timestamp > '2024-01-01'": 0,
    "timestamp < timestamp '2024-01-01 10:00:00'": 0,
}


@pytest.mark.parametrize("where", CONDITIONS)
def test_conditions_choose_pages(small: palimpsest.Corpus, where: str) -> None:
    found = small.table(["page_id"], where)
    assert len(found) == CONDITIONS[where]
    assert found["page_id"].to_pylist() == [page.page_id for page in small.pages(where)]
    sql = duckdb.read_parquet(small.files()).filter(
        where.replace("timestamp <", '"timestamp" <').replace("timestamp >", '"timestamp" >')
    )
    assert len(sql) == CONDITIONS[where]  # SQL means the same elsewhere


def test_an_expression_of_pyarrow_is_a_condition_too(small: palimpsest.Corpus) -> None:
    assert len(small.table(["page_id"], pc.field("tier") == "text")) == 2
    with pytest.raises(UnknownColumn, match="'teir': did you mean 'tier'"):
        small.table(where=pc.field("teir") == "text")


REFUSED = {
    "precison > 0.9": "there is no column 'precison': did you mean 'precision'",
    'tier = "tiny"': "there is no column 'tiny'.*single quotes",
    "precision >": "Required keyword",
    "tier = 5": "column 'tier' is string, and 5 is not",
    "precision > 'high'": "column 'precision' is float, and 'high' is not",
    "timestamp > 'yesterday'": "column 'timestamp' is timestamp",
    "tier in ('tiny', null)": "null in a list matches nothing",
    "tier = null": "null equals nothing",
    "exit(1) = 1": "is not part of the language",
    "tier = 'a'; drop table pages": "is not part of the language",
    "select 1": "is not part of the language",
    "tier": "where = 'tier'",
    "(" * 3000 + "exact" + ")" * 3000: "where = ",
    "": "where = ''",
}


@pytest.mark.parametrize("where", REFUSED)
def test_conditions_that_mean_nothing_are_refused(small: palimpsest.Corpus, where: str) -> None:
    for read in (small.table, small.pages, small.files, small.documents):
        with pytest.raises(UsageError, match=REFUSED[where]):
            read(where=where)


def test_files_leave_out_shards_whose_statistics_cannot_match(small: palimpsest.Corpus) -> None:
    assert len(small.files()) == 5
    assert [len(small.files(where)) for where in ("tier = 'text'", "precision >= 0.9", "precision > 2")] == [2, 1, 0]


def test_one_row_group_is_in_memory_at_a_time(small: palimpsest.Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    plain = type(small.store).open
    monkeypatch.setattr(type(small.store), "open", lambda self, key: (opened.append(key), plain(self, key))[1])
    pages = small.pages()
    next(pages)
    assert len(opened) == 1
    assert len(list(pages)) == 11 and len(opened) == 5


def test_a_column_that_is_not_there_and_a_corpus_that_is_none(small: palimpsest.Corpus, tmp_path: Path) -> None:
    with pytest.raises(UnknownColumn, match="did you mean 'text'"):
        small.table(["txt"])
    with pytest.raises(UsageError, match="not a corpus"):
        palimpsest.Corpus(str(tmp_path))
    create_corpus(open_store(tmp_path / "new"))
    with pytest.raises(UsageError, match="no snapshot yet"):
        palimpsest.Corpus(str(tmp_path / "new"))
    with pytest.raises(AttributeError, match="has no attribute 'Corpse'"):
        _ = palimpsest.Corpse


def test_a_corpus_in_a_bucket_is_read_alike(seaweedfs_place: str) -> None:
    store = open_store(seaweedfs_place)
    create_corpus(store)
    publish(store, "r", [write_unit(store, f"in/{n}", rows(unit_pages(n)), bad=n) for n in range(2)])
    there = palimpsest.Corpus(seaweedfs_place)
    assert sorted(there.files()) == sorted(store.uri(info.key) for info in store.list("data/"))
    found = list(there.pages("tier = 'base' and doc_id = 'doc-10'"))
    assert sorted(page.page_id for page in found) == ["page-10-0", "page-10-1"]
    tokens = found[0].tokens()
    assert tokens is not None and tokens.shape == (6, 4)
    assert hashlib.sha256((tokens.view(np.uint32) >> 16).astype("<u2").tobytes()).hexdigest() == found[0].tokens_sha256
    assert len(there.quarantine()) == 1 and len(list(there.documents())) == 4


def test_importing_is_cheap_and_the_version_has_one_source() -> None:
    script = "import palimpsest, sys, time; print(time.process_time(), palimpsest.__version__, palimpsest.Corpus.__name__); " + (
        "assert not {'ray', 'torch', 'transformers'} & set(sys.modules), 'heavy'"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=SOURCE)
    seconds, version, _ = shown.stdout.split()
    assert float(seconds) < 0.3
    told = subprocess.run([sys.executable, "-m", "palimpsest.cli", "--version"], capture_output=True, text=True, cwd=SOURCE)
    assert told.stdout == f"palimpsest {version}\n" and told.returncode == 0
