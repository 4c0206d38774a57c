"""`palimpsest verify` on real corpora of a random codec: what is stored reads as recorded, and every kind of damage is named."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from tiny_codec import write_tiny_codec

from palimpsest import config as configs
from palimpsest.cli.verify import result_tables
from palimpsest.codecs.token_storage.rows import CodecMismatch
from palimpsest.config import JobConfig
from palimpsest.corpus.format import create_corpus
from palimpsest.corpus.snapshots import Snapshot, latest, publish
from palimpsest.flow.ledger import Ledger, SourceUnit
from palimpsest.flow.local_executor import LocalExecutor
from palimpsest.flow.plan import make_plan, units_table
from palimpsest.flow.stages import Encode, Paginate, Read, Render, Verify, Write
from palimpsest.operations import verify
from palimpsest.operations.resolving import prepare
from palimpsest.operations.verify import reverify
from palimpsest.report.findings import ReverifyResult
from palimpsest.storage.opening import open_store
from tests.corpora import trusting

TEXTS = {
    "prose": ["The fox saw a hen.", "It ran off.", "She too."],
    "code": ["x = [1, 2]", "f(a)[0]"],
    "other_scripts": ["Пришла весна."],  # not in the codec's alphabet: tier text
}


def open_and_reverify(corpus: str, overrides: Sequence[str] = (), **options: Any) -> ReverifyResult:
    return verify.open_and_reverify(corpus, (*trusting(corpus), *overrides), **options)


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_codec(tmp_path_factory.mktemp("codec"))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, codec: Path) -> Callable[..., JobConfig]:
    """Publishes a corpus of TEXTS without Ray, once for each kind of verification; returns its configuration."""

    @cache
    def publish_corpus(**verification: float) -> JobConfig:
        tmp_path = tmp_path_factory.mktemp("corpus")
        source = tmp_path / "texts.jsonl"
        rows = [{"id": text[:5], "text": text, "text_class": name} for name, texts in TEXTS.items() for text in texts]
        source.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        config = configs.parse(
            {
                "sources": [str(source)],
                "out": str(tmp_path / "corpus"),
                "codec": {"path": str(codec), "dtype": "float32"},
                "verification": {"target_precision": 0.0, "control_share": 0.5, **verification},
                "tiers": {"cheap_text": False},
                "placement": {"verify_batch": 4},
            }
        )
        prepared = prepare(config)
        config, store = prepared.config, open_store(config.out)
        create_corpus(store)

        plan = make_plan(store, None, config.sources, config.source, prepared.fingerprint, LocalExecutor().index_units)
        ledger = Ledger(SourceUnit(unit, prepared.fingerprint) for unit in plan.todo)
        records = []
        stages = [Encode(config, prepared.fingerprint), Verify(config, prepared.fingerprint), Write(config.out, 1 << 20)]
        for unit in plan.todo:
            documents = Read(config.source)(units_table([unit]))
            for pages in (pages for table in documents for pages in Paginate(config, prepared.layout, prepared.policy)(table)):
                table = Render(prepared.layout)(pages)
                for stage in stages:
                    table = stage(table)
                for row in table.to_pylist():
                    if complete := ledger.take(row):
                        records.append(complete.commit(store, "run"))
        publish(store, "run", records)
        store.put("runs/run/config.toml", configs.to_toml(config).encode())
        return config

    return publish_corpus


@pytest.fixture
def make(tmp_path: Path, original: Callable[..., JobConfig]) -> Callable[..., JobConfig]:
    """A copy of a corpus, to be damaged."""

    def copy(**verification: float) -> JobConfig:
        config = original(**verification)
        return config.replace(out=str(shutil.copytree(config.out, tmp_path / "corpus")))

    return copy


def snapshot_of(config: JobConfig) -> Snapshot:
    snapshot = latest(open_store(config.out))
    assert snapshot is not None
    return snapshot


def rewrite(config: JobConfig, change: Callable[[pa.Table], pa.Table]) -> None:
    """Replace the corpus's shard of tier tiny by a changed one under the same key, as a failing disk or a fool would."""
    (path,) = Path(config.out, "data", "tiny").glob("*.parquet")
    pq.write_table(change(pq.read_table(path)), path)


def column(table: pa.Table, name: str, values: list) -> pa.Table:
    at = table.schema.get_field_index(name)
    return table.set_column(at, name, pa.array(values, table.schema.field(at).type))


def flip(table: pa.Table, row: int) -> pa.Table:
    payloads = table["tokens"].to_pylist()
    damaged = bytearray(payloads[row])
    damaged[7] ^= 0x40
    payloads[row] = bytes(damaged)
    return column(table, "tokens", payloads)


def test_a_sound_corpus_reads_as_recorded(make: Callable[..., JobConfig]) -> None:
    config = make()
    seen: list[tuple[int, int]] = []
    result = open_and_reverify(config.out, watch=lambda progress: seen.append((progress.pages, progress.pages_total)))
    assert (result.pages, result.compared, result.identical, result.agreeing, result.text_pages) == (5, 5, 5, 5, 1)
    assert result.findings == 0 and not result.damages and not result.disagreements and result.storages == ()
    assert seen[-1] == (6, 6)
    assert {(g.text_class, g.mode, g.pages) for g in result.groups} == {("prose", "tiny", 3), ("code", "tiny", 2)}
    assert all(g.recorded == g.found for g in result.groups)
    assert json.loads(json.dumps(result.to_json()))["findings"] == 0


def test_a_share_is_of_pages_by_id_and_a_wrong_one_is_refused(make: Callable[..., JobConfig]) -> None:
    config = make()
    store, snapshot = open_store(config.out), snapshot_of(config)
    assert reverify(store, snapshot, config, share=0.0).pages == 0
    assert 0 <= reverify(store, snapshot, config, share=0.5).pages <= 5
    with pytest.raises(ValueError, match="share is 1.5"):
        reverify(store, snapshot, config, share=1.5)


def test_pages_that_were_not_verified_are_read_and_not_compared(make: Callable[..., JobConfig]) -> None:
    config = make(share=0.0)
    result = open_and_reverify(config.out)
    assert (result.pages, result.compared, result.findings) == (5, 0, 0)
    assert all(group.recorded is None and group.found.n for group in result.groups)


def test_a_flipped_byte_in_a_payload_is_found_and_the_other_pages_are_read(make: Callable[..., JobConfig]) -> None:
    config = make()
    rewrite(config, lambda table: flip(table, 2))
    damaged = pq.read_table(next(Path(config.out, "data", "tiny").glob("*.parquet")))["page_id"][2].as_py()
    result = open_and_reverify(config.out)
    assert (result.pages, result.agreeing, result.damaged, result.findings) == (4, 4, 1, 1)
    assert result.damages[0].page_id == damaged and "sha256" in result.damages[0].what


def test_tokens_that_are_not_this_pages_are_found_where_their_hash_is_right(make: Callable[..., JobConfig]) -> None:
    config = make()

    def swap(table: pa.Table) -> pa.Table:
        order = [1, 0, *range(2, table.num_rows)]
        for name in ("tokens", "token_scales", "tokens_sha256"):
            table = column(table, name, table[name].take(order).to_pylist())
        return table

    (path,) = Path(config.out, "data", "tiny").glob("*.parquet")
    rewrite(config, swap)
    result = open_and_reverify(config.out)
    assert result.damaged == 0 and result.disagreeing == len(result.disagreements) == result.findings == 2
    assert result.identical == 3
    assert {page.page_id for page in result.disagreements} == set(pq.read_table(path)["page_id"].to_pylist()[:2])


def test_a_shard_that_cannot_be_read_is_named(make: Callable[..., JobConfig]) -> None:
    config = make()
    (path,) = Path(config.out, "data", "tiny").glob("*.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    result = open_and_reverify(config.out)
    assert (result.pages, result.text_pages, result.damaged) == (0, 1, 1)
    assert result.damages[0].page_id is None and path.name in result.damages[0].what


def test_missing_and_shortened_tokens_are_named(make: Callable[..., JobConfig]) -> None:
    config = make()
    rewrite(config, lambda table: column(table, "tokens", [None, b"short", *table["tokens"].to_pylist()[2:]]))
    result = open_and_reverify(config.out)
    assert (result.pages, result.damaged) == (3, 2)
    assert "no tokens" in result.damages[0].what


def test_a_corpus_of_another_codec_is_refused(make: Callable[..., JobConfig], tmp_path: Path) -> None:
    config = make()
    other = write_tiny_codec(tmp_path / "other", seed=1)
    with pytest.raises(CodecMismatch, match="written by codec 'embedded' at revision .*; set codec.name"):
        open_and_reverify(config.out, [f"codec.path={other}"])


def test_early_stopped_precisions_are_bounds(make: Callable[..., JobConfig]) -> None:
    config = make(early_stop=True, target_precision=0.9)
    assert open_and_reverify(config.out).findings == 0
    whole = open_and_reverify(config.out, ["verification.early_stop=false"])
    assert whole.compared == 5 and whole.findings == 0 and whole.identical < 5


def test_the_loss_of_each_storage_is_measured_against_bf16(make: Callable[..., JobConfig]) -> None:
    config = make()
    result = open_and_reverify(config.out, storages=("int8", "int4"))
    bf16, int8, int4 = (loss for loss in result.storages if loss.text_class is None)
    assert (bf16.storage, int8.storage) == ("bf16", "int8")
    assert (bf16.pages, int8.pages, bf16.loss, bf16.changed) == (5, 5, 0.0, 0)
    assert (bf16.bytes_per_token, int8.bytes_per_token, int4.bytes_per_token) == (64, 36, 18)
    assert int8.bytes_per_text_token == pytest.approx(2 * int4.bytes_per_text_token, abs=0.02)
    by_class = [loss for loss in result.storages if loss.text_class is not None and loss.storage == "int4"]
    assert sum(loss.pages for loss in by_class) == 5
    assert sum(loss.loss * loss.pages for loss in by_class) == pytest.approx(5 * int4.loss)
    assert int8.loss == pytest.approx(bf16.precision.mean - int8.precision.mean)
    assert int8.loss_low is not None and int8.loss_low <= int8.loss <= int8.loss_high
    assert (result.remade, result.not_remade) == (5, 0)  # the text gives the stored bytes again
    with pytest.raises(ValueError, match="token_dtype 'fp4': choose one of bf16, int4, int8, none, pq"):
        reverify(open_store(config.out), snapshot_of(config), config, storages=("fp4",))


def test_the_tables_say_what_was_found(make: Callable[..., JobConfig]) -> None:
    config = make()
    rewrite(config, lambda table: flip(column(table, "precision", [0.999] * table.num_rows), 0))
    result = open_and_reverify(config.out, storages=("int8",))
    console = Console(width=200, file=io.StringIO(), record=True)
    for table in result_tables(result):
        console.print(table)
    said = console.export_text()
    for words in ("damaged: ", "disagree", "99.90%", "int8", "prose", "4 decoded"):
        assert words in said, said


def test_a_place_without_a_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a corpus"):
        open_and_reverify(str(tmp_path))
    with pytest.raises(ValueError, match="no snapshot"):
        create_corpus(open_store(tmp_path / "empty"))
        open_and_reverify(str(tmp_path / "empty"))


def test_only_the_newest_configuration_counts_and_overrides_are_strict(make: Callable[..., JobConfig]) -> None:
    config = make()
    with pytest.raises(configs.ConfigError, match="codec.nmae"):
        open_and_reverify(config.out, ["codec.nmae=x"])
    Path(config.out, "runs/run/config.toml").unlink()  # a run that was killed before it wrote its record
    override = [f"codec.path={config.codec.path}", "codec.dtype=float32"]
    assert replace(open_and_reverify(config.out, override), seconds=0.0).findings == 0
