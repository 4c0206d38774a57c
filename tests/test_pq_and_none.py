"""Corpora that store tokens as pq, with a codebook beside them, and corpora that store none: made, read, damaged, cleaned."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from palimpsest.codecs.adapter import Codec, load_codec
from palimpsest.codecs.token_storage import pq
from palimpsest.codecs.token_storage.codebook_fit import fit_codebook
from palimpsest.codecs.token_storage.rows import CodecMismatch
from palimpsest.config import JobConfig
from palimpsest.config import parse as parse_config
from palimpsest.corpus.codebooks import codebook_key
from palimpsest.corpus.fsck import fsck
from palimpsest.corpus.gc import gc
from palimpsest.corpus.reader import Corpus
from palimpsest.corpus.snapshots import latest
from palimpsest.loading.exports.protocol import FORMATS, export
from palimpsest.loading.pages import Pages
from palimpsest.operations import codebooks
from palimpsest.operations.dry_run import plan_only
from palimpsest.operations.ingest import ingest
from palimpsest.operations.progress import Stopped
from palimpsest.operations.retier import retier
from palimpsest.operations.run import run
from palimpsest.operations.verify import open_and_reverify
from palimpsest.storage.local_store import LocalStore
from palimpsest.storage.stable_json import Damaged
from tests.corpora import trusting

JobFactory = Callable[..., JobConfig]
FOREVER = timedelta(days=30)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test begins as a fresh process that has read no codebook."""
    monkeypatch.setattr(pq, "_known", {})


@pytest.fixture(autouse=True, scope="module")
def few_pages() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codebooks, "RANDOM_PAGES", 4)
        patch.setattr(codebooks, "PAGES", 8)
        patch.setattr(codebooks, "LOOKED_AT", 4)
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "texts.jsonl"
    texts = [f"Chapter {number}. The fox saw {number * 37} hens and ran {'far ' * number}away." for number in range(1, 9)]
    path.write_text("".join(json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(texts)))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, source: Path, job: JobFactory) -> dict[str, Path]:
    """A corpus of each storage, of the same source."""
    base = tmp_path_factory.mktemp("made")
    for name in ("bf16", "pq", "none"):
        run(job(source, base / name, f"storage.tokens={name}"))
    return {name: base / name for name in ("bf16", "pq", "none")}


@pytest.fixture
def copy(made: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(made[name], tmp_path / name))


def codebooks_of(corpus: Path) -> list[Path]:
    return sorted((corpus / "_codebooks").glob("*.safetensors"))


def tokens_of(corpus: Path, **options: Any) -> dict[str, np.ndarray]:
    return {page.page_id: found for page in Corpus(str(corpus)).pages() if (found := page.tokens(**options)) is not None}


@pytest.fixture(scope="module")
def codec(tiny_codec: Path) -> Codec:
    return load_codec("embedded", tiny_codec, parts="both")


# a corpus of pq


def test_a_corpus_of_pq_is_what_it_promises(made: dict[str, Path], source: Path, job: JobFactory) -> None:
    (book,) = codebooks_of(made["pq"])
    table = Corpus(str(made["pq"])).table(["token_dtype", "tokens", "num_vision_tokens"])
    assert table["token_dtype"].unique().to_pylist() == [f"pq:{book.stem}"]
    sizes = {len(row["tokens"]) / row["num_vision_tokens"] for row in table.to_pylist()}
    assert sizes == {12.0}, "32 channels of 3 bits"
    assert fsck(LocalStore(made["pq"])) == []
    exact, stored = tokens_of(made["bf16"]), tokens_of(made["pq"])
    assert exact.keys() == stored.keys()
    error = sum(np.square(stored[name] - exact[name]).sum() for name in exact)
    assert error < 0.05 * sum(np.square(tokens).sum() for tokens in exact.values())
    result = open_and_reverify(str(made["pq"]), trusting(made["pq"]))
    assert result.findings == 0 and result.identical == result.compared > 0
    plan = plan_only(job(source, made["pq"], "storage.tokens=pq"))
    assert plan["to process"] == 0 and len(plan["fingerprint"]) == 16


def test_the_same_input_gives_the_same_bytes_in_a_corpus(copy: Callable[[str], Path], source: Path, job: JobFactory) -> None:
    corpus = copy("pq")
    before = {path: path.read_bytes() for path in codebooks_of(corpus)}
    old = Corpus(str(corpus)).table(["page_id", "tokens"]).sort_by("page_id")
    assert run(job(source, corpus, "storage.tokens=pq")).units_new == 0
    again = run(job(source, corpus, "storage.tokens=pq", "verification.share=0"))  # other settings, other units
    assert again.units_new == 1 and {path: path.read_bytes() for path in codebooks_of(corpus)} == before
    new = Corpus(str(corpus)).table(["page_id", "tokens"]).sort_by("page_id")
    both = dict(zip(*(new[name].to_pylist() for name in ("page_id", "tokens")), strict=True))
    assert all(both[page] == tokens for page, tokens in zip(*(old[n].to_pylist() for n in ("page_id", "tokens")), strict=True))
    assert fsck(LocalStore(corpus)) == []


def test_retiering_uses_the_codebook_of_the_corpus(copy: Callable[[str], Path]) -> None:
    corpus = copy("pq")
    (book,) = codebooks_of(corpus)
    result = retier(str(corpus), (*trusting(corpus), "tiers.mode=small"), sharpen=True)
    assert result.due > 0 and codebooks_of(corpus) == [book]
    assert Corpus(str(corpus)).table(["token_dtype"])["token_dtype"].unique().to_pylist() == [f"pq:{book.stem}"]
    assert fsck(LocalStore(corpus)) == [] and tokens_of(corpus)


def test_ingestion_fits_once(tmp_path: Path, source: Path, job: JobFactory) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(source, folder / "a.jsonl")
    config = job(folder, tmp_path / "out", "storage.tokens=pq")
    assert ingest(config).units_new == 1
    first = codebooks_of(tmp_path / "out")
    assert len(first) == 1 and ingest(config).units_new == 0
    shutil.copy(source, folder / "b.jsonl")
    ingest(config)
    assert codebooks_of(tmp_path / "out") == first and fsck(LocalStore(tmp_path / "out")) == []


def broken(kind: str, book: Path) -> None:
    body = bytearray(book.read_bytes())
    if kind == "missing":
        book.unlink()
    elif kind == "flipped":
        body[len(body) // 2] ^= 1
        book.write_bytes(body)
    elif kind == "foreign":
        book.write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    else:
        book.write_bytes(body[:-10])


@pytest.mark.parametrize("kind", ["missing", "flipped", "foreign", "short"])
def test_a_missing_or_damaged_codebook_is_named_by_every_reader(
    kind: str, copy: Callable[[str], Path], source: Path, job: JobFactory, tmp_path: Path
) -> None:
    corpus = copy("pq")
    (book,) = codebooks_of(corpus)
    broken(kind, book)
    readers: dict[str, Callable[[], Any]] = {
        "tokens": lambda: tokens_of(corpus),
        "loader": lambda: Pages(str(corpus), below_target=True).at(0),
        "verify": lambda: open_and_reverify(str(corpus), trusting(corpus)),
        "run": lambda: run(job(source.with_name("else.jsonl"), corpus, "storage.tokens=pq")),
        "retier": lambda: retier(str(corpus), (*trusting(corpus), "tiers.mode=small"), sharpen=True),
        "export": lambda: export("hf", Corpus(str(corpus)), tmp_path / "hf"),
    }
    shutil.copy(source, source.with_name("else.jsonl"))
    for name, read in readers.items():
        with pytest.raises(Damaged, match=book.name):
            pytest.fail(f"{name} gave {read()}")
    errors = [finding for finding in fsck(LocalStore(corpus)) if finding.severity == "error"]
    assert errors and all(book.name in finding.what for finding in errors)


def test_a_codebook_of_its_hash_that_is_none_is_refused(copy: Callable[[str], Path]) -> None:
    """A corpus that somebody else made: every hash is right, and the bytes are no codebook."""
    import hashlib

    import pyarrow.parquet as parquet

    from palimpsest.corpus.page import Page

    corpus = copy("pq")
    evil = b"\x80\x04cos\nsystem\n(S'true'\ntR."
    sha256 = hashlib.sha256(evil).hexdigest()
    (corpus / codebook_key(sha256)).write_bytes(evil)
    table = next(parquet.read_table(path) for path in sorted(corpus.glob("data/*/*.parquet")))
    at = table.schema.get_field_index("token_dtype")
    for name, message in ((f"pq:{sha256}", "is no codebook"), ("pq:../../etc/passwd", "names no codebook"), ("pq:", "names no")):
        lying = table.set_column(at, "token_dtype", [[name] * table.num_rows])
        with pytest.raises(Damaged, match=message):
            Page(lying, 0, LocalStore(corpus)).tokens()


def test_gc_keeps_the_codebooks_that_pages_need_and_no_others(copy: Callable[[str], Path], source: Path, job: JobFactory) -> None:
    corpus = copy("pq")
    store = LocalStore(corpus)
    (book,) = codebooks_of(corpus)
    soon = datetime.now(UTC) + timedelta(seconds=5)
    assert gc(store, unused_for=timedelta(0), now=soon, delete=True) == [] and codebooks_of(corpus) == [book]
    run(job(source, corpus, "storage.tokens=int8"))  # replaces the pages of the source
    kept = gc(store, unused_for=FOREVER, now=soon, delete=True)
    assert kept == [] and tokens_of(corpus), "the older snapshot still needs it"
    removed = [removal.key for removal in gc(store, unused_for=timedelta(0), now=soon, delete=True)]
    parts = [key for key in removed if key.startswith("_codebooks/")]
    assert [key.rpartition(".")[2] for key in parts] == ["json", "safetensors"] and not codebooks_of(corpus)
    assert fsck(store) == [] and gc(store, unused_for=timedelta(0), now=soon) == []
    run(job(source, corpus, "storage.tokens=pq"))  # and one is fitted again
    assert len(codebooks_of(corpus)) == 1 and fsck(store) == []


def test_gc_removes_nothing_where_it_cannot_know_which_codebook_is_needed(copy: Callable[[str], Path]) -> None:
    corpus = copy("pq")
    for shard in corpus.glob("data/*/*.parquet"):
        shard.unlink()
    with pytest.raises(Exception, match="parquet"):
        gc(LocalStore(corpus), unused_for=timedelta(0), now=datetime.now(UTC) + timedelta(seconds=5), delete=True)
    assert codebooks_of(corpus)


@pytest.mark.parametrize("at", ["codebook", "purpose", "commit"])
def test_a_crash_before_the_first_commit_loses_nothing(
    at: str, tmp_path: Path, source: Path, job: JobFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = job(source, tmp_path / "out", "storage.tokens=pq")
    create, suffix = LocalStore.create, {"codebook": ".safetensors", "purpose": ".json", "commit": ".json"}[at]
    folder = "_units/" if at == "commit" else "_codebooks/"

    def crash(self: LocalStore, key: str, body: Any) -> bool:
        if key.startswith(folder) and key.endswith(suffix):
            raise KeyboardInterrupt
        return create(self, key, body)

    monkeypatch.setattr(LocalStore, "create", crash)
    with pytest.raises((KeyboardInterrupt, Stopped)):
        run(config)
    monkeypatch.setattr(LocalStore, "create", create)
    left = codebooks_of(tmp_path / "out")
    assert run(config).units_new == 1
    assert codebooks_of(tmp_path / "out") == (left or codebooks_of(tmp_path / "out")), "the same sample gave the same codebook"
    assert len(codebooks_of(tmp_path / "out")) == 1
    assert not [one for one in fsck(LocalStore(tmp_path / "out")) if one.severity == "error" or one.key.startswith("_code")]


def test_of_two_runs_that_fit_at_once_the_first_wins(tmp_path: Path, source: Path, job: JobFactory) -> None:
    from palimpsest.corpus.codebooks import keep_codebook, purpose_key

    store, draw = LocalStore(tmp_path), np.random.default_rng(0)
    bodies = [fit_codebook(draw.normal(size=(200, 8)).astype(np.float32), 2.0).to_bytes({}) for _ in range(2)]
    about = {"codec": "c", "codec_revision": "r", "layout": "l", "bits": 2.0}
    first, second = (keep_codebook(store, body, purpose_key(codec="c"), about) for body in bodies)
    assert first == second and bodies[0] != bodies[1]


def test_the_loader_and_exports_give_pq_tokens(made: dict[str, Path], tmp_path: Path) -> None:
    expected = tokens_of(made["pq"])
    given = {sample["page_id"]: sample["tokens"] for sample in map(Pages(str(made["pq"])).at, range(len(expected)))}
    assert {name: tokens.float().numpy().tobytes() for name, tokens in given.items()} == {
        name: tokens.tobytes() for name, tokens in expected.items()
    }
    (book,) = codebooks_of(made["pq"])
    for name, needed in FORMATS.items():
        if needed.module is None or find_spec(needed.module) is not None:
            export(name, Corpus(str(made["pq"])), tmp_path / name)
            assert (tmp_path / name / "_codebooks" / book.name).read_bytes() == book.read_bytes()


def test_verify_measures_pq_with_the_codebook_of_the_corpus_or_one_for_the_occasion(made: dict[str, Path]) -> None:
    (book,) = codebooks_of(made["pq"])
    of_pq = open_and_reverify(str(made["pq"]), trusting(made["pq"]), storages=("pq",))
    assert {loss.storage for loss in of_pq.storages} == {"bf16", f"pq:{book.stem}"} and of_pq.not_remade == 0
    for_now = open_and_reverify(str(made["bf16"]), trusting(made["bf16"]), storages=("pq", "int4"))
    assert {loss.storage.partition(":")[0] for loss in for_now.storages} == {"bf16", "int4", "pq"}
    assert not (made["bf16"] / "_codebooks").exists()


# a corpus without tokens


def test_a_corpus_of_none_keeps_everything_but_the_tokens(made: dict[str, Path]) -> None:
    names = [name for name in Corpus.schema.names if name not in ("tokens", "token_dtype", "fingerprint", "tokens_sha256")]
    none, bf16 = (Corpus(str(made[name])).table(names).sort_by("page_id") for name in ("none", "bf16"))
    assert none.equals(bf16)
    rows = Corpus(str(made["none"])).table(["tokens", "token_dtype", "tokens_sha256", "page_id"]).sort_by("page_id")
    assert rows["tokens"].null_count == rows.num_rows and rows["token_dtype"].unique().to_pylist() == ["none"]
    hashes = Corpus(str(made["bf16"])).table(["tokens_sha256", "page_id"]).sort_by("page_id")
    assert rows["tokens_sha256"].to_pylist() == hashes["tokens_sha256"].to_pylist(), "of the tokens before quantising"
    assert fsck(LocalStore(made["none"])) == []


def test_pages_of_none_are_encoded_again_with_the_codec_of_their_row(made: dict[str, Path], codec: Codec) -> None:
    again, stored = tokens_of(made["none"], codec=codec), tokens_of(made["bf16"])
    assert {name: tokens.tobytes() for name, tokens in again.items()} == {name: t.tobytes() for name, t in stored.items()}
    page = next(Corpus(str(made["none"])).pages())
    with pytest.raises(CodecMismatch, match="written by codec"):
        page.tokens()  # the codec that ships is another one
    with pytest.raises(CodecMismatch):
        page.decode()


def test_the_loader_encodes_again(made: dict[str, Path], codec: Codec) -> None:
    stored = tokens_of(made["bf16"])
    pages = Pages(str(made["none"]), codec=codec, below_target=True)
    given = {sample["page_id"]: sample["tokens"] for sample in map(pages.at, range(len(stored)))}
    assert {name: tokens.float().numpy().tobytes() for name, tokens in given.items()} == {
        name: tokens.tobytes() for name, tokens in stored.items()
    }
    assert len(list(pages)) == len(stored)
    with pytest.raises(CodecMismatch):
        Pages(str(made["none"])).at(0)
    assert Pages(str(made["none"]), give="text").at(0)["text"]


def test_verify_encodes_pages_of_none_again_and_says_so(copy: Callable[[str], Path]) -> None:
    corpus = copy("none")
    result = open_and_reverify(str(corpus), trusting(corpus), storages=("int8",))
    pages = len(Corpus(str(corpus)))
    assert (result.findings, result.pages, result.remade, result.not_remade) == (0, pages, pages, 0)
    assert result.identical == result.compared > 0
    assert {loss.storage for loss in result.storages} == {"bf16", "int8"}


def test_retiering_and_exporting_a_corpus_of_none(copy: Callable[[str], Path], tmp_path: Path) -> None:
    corpus = copy("none")
    assert retier(str(corpus), (*trusting(corpus), "tiers.mode=small"), sharpen=True).due > 0
    table = Corpus(str(corpus)).table(["tokens", "token_dtype", "num_vision_tokens"])
    assert table["tokens"].null_count == table.num_rows and table["token_dtype"].unique().to_pylist() == ["none"]
    assert fsck(LocalStore(corpus)) == [] and latest(LocalStore(corpus)) is not None
    facts = export("hf", Corpus(str(corpus)), tmp_path / "hf")
    assert facts["token_dtype"] == {"none": table.num_rows}


def test_settings_that_do_not_go_together_are_refused(tmp_path: Path, source: Path, job: JobFactory) -> None:
    with pytest.raises(ValueError, match="storage.codebook = 'abc': expected the sha256"):
        run(job(source, tmp_path / "out", "storage.tokens=pq", "storage.codebook=abc"))
    with pytest.raises(ValueError, match="'int8' has no codebook"):
        run(job(source, tmp_path / "out", f"storage.codebook={'a' * 64}"))
    with pytest.raises(Damaged, match=f"{'a' * 64}.safetensors is missing"):
        run(job(source, tmp_path / "out", "storage.tokens=pq", f"storage.codebook={'a' * 64}"))
    assert not (tmp_path / "out" / "corpus.json").exists()


@pytest.mark.parametrize("name", ["pq", "none"])
def test_what_the_codec_that_ships_wrote_is_read_without_a_word(name: str, tmp_path: Path, source: Path) -> None:
    settings = {
        "sources": [str(source)],
        "out": str(tmp_path / "out"),
        "tiers": {"cheap_text": False},
        "storage": {"tokens": name},
        "verification": {"reader": "cells"},
        "placement": {"executor": "local", "threads_per_worker": 1},
    }
    run(parse_config(settings))
    pages = list(Corpus(str(tmp_path / "out")).pages())
    assert sum(page.precision for page in pages) > 7.9
    assert [page.decode() for page in pages] == [page.text if page.exact else page.decoded_text for page in pages]
    sample = Pages(tmp_path / "out").at(0)
    assert sample["tokens"].shape == (64, 1024) and sample["tokens"].dtype == torch.bfloat16
    result = open_and_reverify(str(tmp_path / "out"))
    assert result.identical == result.pages == 8 and result.findings == 0


def test_the_table_of_storages_has_a_row_for_each_class_and_all() -> None:
    from palimpsest.lab.bench.storages import bench_storages

    texts = {"prose": "The fox ran off, and the hen saw it go. " * 120, "code": "x = [1, 2]\nf(a)[0]\n" * 400}
    config = parse_config({"placement": {"threads_per_worker": 1}})
    result = bench_storages(config, texts, [("64x32", "tiny")], ("int8",), (2.0,), max_pages=2)
    rows = {(row["storage"], row["text_class"]): row for row in result["rows"]}
    assert sorted(rows) == sorted((name, of) for name in ("bf16", "int8", "pq, 2 bits") for of in ("prose", "code", "all"))
    assert all(rows["bf16", of]["points_lost"] == 0 for of in ("prose", "code", "all"))
    assert rows["pq, 2 bits", "all"]["bytes_per_token"] == 256 and rows["int8", "all"]["bytes_per_token"] == 1028
    assert rows["pq, 2 bits", "all"]["points_lost"] < 1 and rows["pq, 2 bits", "all"]["pages"] == 4
