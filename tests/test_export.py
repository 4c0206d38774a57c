"""Exports, read back by the libraries that they are for, from a re-tiered corpus: every page once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from palimpsest.corpus.reader import Corpus
from palimpsest.errors import UsageError
from palimpsest.loading.exports.protocol import FORMATS, export
from palimpsest.storage.stable_json import Damaged
from tests.hub_server import REPOSITORY, TOKEN, hub
from tests.loader_corpora import publish_corpus, retier_corpus
from tests.paths import ROOT, SOURCE

READER = ROOT / "tests" / "mds_reader.py"


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
    facts = export("hf", corpus, tmp_path / "hf", licence="cc-by-4.0")
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
        export("hf", corpus, tmp_path / "hf")


def test_lance_reads_the_export(corpus: Corpus, tmp_path: Path) -> None:
    lance = pytest.importorskip("lance")
    export("lance", corpus, tmp_path / "pages.lance")
    table = lance.dataset(str(tmp_path / "pages.lance")).to_table(columns=["page_id", "tokens"])
    assert dict(zip(table["page_id"].to_pylist(), table["tokens"].to_pylist(), strict=True)) == tokens_by_page(corpus)
    assert table.num_rows == len(corpus)


def test_webdataset_reads_the_export(corpus: Corpus, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    export("webdataset", corpus, tmp_path / "wds")
    urls = [str(path) for path in sorted((tmp_path / "wds").glob("*.tar"))]
    rows: list[Any] = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert {row["__key__"]: row.get("tokens.bin") for row in rows} == tokens_by_page(corpus)
    assert len(rows) == len(corpus) and json.loads(rows[0]["json"])["page_id"] == rows[0]["__key__"]


@pytest.mark.parametrize("shard_bytes", [None, 60_000])
def test_mosaicml_streaming_reads_the_export(corpus: Corpus, tmp_path: Path, shard_bytes: int | None) -> None:
    if find_spec("streaming") is None:
        pytest.skip("mosaicml-streaming is not installed: make install")
    export("mds", corpus, tmp_path / "mds", **({} if shard_bytes is None else {"shard_bytes": shard_bytes}))
    done = subprocess.run([sys.executable, READER, tmp_path / "mds"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    read = json.loads(done.stdout.splitlines()[-1])
    expected = {row["page_id"]: row for row in corpus.table().to_pylist()}
    assert sorted(read["streamed"]) == sorted(expected) and len(read["pages"]) == len(expected)
    for page in read["pages"]:
        row = expected.pop(page["page_id"])
        for name in ("doc_id", "tier", "status", "text", "page_number", "num_context_tokens", "precision"):
            assert page[name] == row[name], name
        for name in ("tokens", "token_scales"):
            assert page[name] == hashlib.sha256(row[name] or b"").hexdigest()
        assert page["mode"] == (row["mode"] or "") and page["token_dim"] == (-1 if row["token_dim"] is None else row["token_dim"])
    assert not expected
    sizes = [path.stat().st_size for path in (tmp_path / "mds").glob("*.mds")]
    assert len(sizes) == read["shards"] and (shard_bytes is None or max(sizes) <= shard_bytes and len(sizes) > 2)


def test_every_format_writes_the_same_counts_and_refuses_a_folder_in_use(corpus: Corpus, tmp_path: Path) -> None:
    facts = [export(name, corpus, tmp_path / name) for name in FORMATS]
    assert facts[0]["pages"] == len(corpus) and all(one == facts[0] for one in facts)
    for name in FORMATS:
        with pytest.raises(UsageError, match="is not empty: an export needs a new or empty folder"):
            export(name, corpus, tmp_path / name)
    with pytest.raises(UsageError, match="format = 'csv': choose hf, lance, mds, webdataset"):
        export("csv", corpus, tmp_path / "csv")


def test_a_damaged_shard_is_not_exported(corpus: Corpus, tmp_path: Path) -> None:
    shutil.copytree(corpus.uri, tmp_path / "c")
    shard = next((tmp_path / "c" / "data" / "tiny").glob("*.parquet"))
    body = bytearray(shard.read_bytes())
    body[5000] ^= 4
    shard.write_bytes(body)
    for name in FORMATS:
        with pytest.raises(Damaged, match=shard.name):
            export(name, Corpus(str(tmp_path / "c")), tmp_path / name)


# the hub


def push(corpus: Corpus, out: Path, repository: str, address: str, token: str) -> subprocess.CompletedProcess[str]:
    """`palimpsest export hf --push` in a process of its own: huggingface_hub reads its endpoint once."""
    command = [sys.executable, "-m", "palimpsest.cli.app", "export", "hf", corpus.uri, "--out", str(out)]
    here = os.environ | {"PYTHONPATH": str(SOURCE), "HF_ENDPOINT": address, "HF_HOME": str(out.parent / "home")}
    here |= {"HF_HUB_DISABLE_XET": "1", "HF_TOKEN": token}
    return subprocess.run([*command, "--push", repository, "--json"], env=here, capture_output=True, text=True, timeout=240)


def test_what_is_pushed_to_a_hub_loads_from_there(corpus: Corpus, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    received = tmp_path / "received"
    received.mkdir()
    with hub(received) as address:
        done = push(corpus, tmp_path / "hf", REPOSITORY, address, TOKEN)
        assert done.returncode == 0, done.stderr[-3000:]
        assert json.loads(done.stdout)["pushed"] == f"{address}/datasets/{REPOSITORY}"
    sent = {str(path.relative_to(tmp_path / "hf")): path.read_bytes() for path in (tmp_path / "hf").rglob("*") if path.is_file()}
    got = {str(path.relative_to(received)): path.read_bytes() for path in received.rglob("*") if path.is_file()}
    assert got == sent and any(name.endswith(".parquet") for name in got)
    loaded = datasets.load_dataset(str(received), split="train", cache_dir=str(tmp_path / "cache"))
    assert {row["page_id"]: row["tokens"] for row in loaded} == tokens_by_page(corpus) and len(loaded) == len(corpus)


@pytest.mark.parametrize(
    ("repository", "token", "message"),
    [
        ("owner/other", TOKEN, "You don't have the rights"),
        (REPOSITORY, "hf_wrong", "Invalid username or password"),
        ("not a name", TOKEN, "Repo id must use alphanumeric"),
    ],
)
def test_a_refused_push_says_why(corpus: Corpus, tmp_path: Path, repository: str, token: str, message: str) -> None:
    with hub(tmp_path) as address:
        done = push(corpus, tmp_path / "hf", repository, address, token)
    told = " ".join(done.stderr.split())
    assert done.returncode == 2 and message in told and f"--push {repository}" in told and "Traceback" not in told
    assert (tmp_path / "hf" / "README.md").is_file()
