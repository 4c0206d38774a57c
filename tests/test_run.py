"""A run from sources to snapshot, with the stages in this process (tests/test_flow.py has the same through Ray)."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from palimpsest.corpus.fsck import fsck
from palimpsest.corpus.shards import read_shard
from palimpsest.corpus.snapshots import Snapshot, iter_tables, latest, snapshot_numbers
from palimpsest.errors import RunFailed
from palimpsest.flow.local_executor import LocalExecutor
from palimpsest.operations.dry_run import plan_only
from palimpsest.operations.resolving import prepare
from palimpsest.operations.run import RunResult, run
from palimpsest.pages.normalise import normalise
from palimpsest.report.summary import summarise
from palimpsest.schemas import QUARANTINE, SHARD
from palimpsest.sources.documents import document_id
from palimpsest.storage.local_store import LocalStore
from palimpsest.storage.object_store import StoreError
from tests.conftest import JobFactory
from tests.mixed_sources import ARABIC, BAD_LINES, CHINESE, DOCUMENTS, DUPLICATES, LONG, REASONS, SHORT, STORED, prose

ALWAYS = set(SHARD.names) - {
    "source_id",
    "reason",
    "timestamp",
    "importance",
    "decoded_text",
    "blank_precision",
    "errata",
    "extra",
    "tried",
}
TOKEN_COLUMNS = {"mode", "image_px", "num_vision_tokens", "tokens", "token_dim", "token_dtype"} | {
    "token_scales", "tokens_sha256", "codec", "codec_revision"
}  # fmt: skip
VERDICT_COLUMNS = {"precision", "folded_precision", "set_precision", "word_precision", "exact", "decoder_passes", "misread"}


@pytest.fixture(scope="module")
def corpus(mixed_sources: Path, job: JobFactory, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult]:
    """The mixed folder, run once; tests only look at it or run the same again."""
    out = tmp_path_factory.mktemp("run") / "corpus"
    return out, run(job(mixed_sources, out))


def newest(out: Path) -> Snapshot:
    snapshot = latest(LocalStore(out))
    assert snapshot is not None
    return snapshot


def rows(out: Path) -> list[dict[str, Any]]:
    """All rows of the newest snapshot, by page id."""
    tables = list(iter_tables(LocalStore(out), newest(out)))
    found = pa.concat_tables(tables).to_pylist() if tables else []
    return sorted(found, key=lambda row: row["page_id"])


def documents(out: Path) -> dict[str, str]:
    """Normalised text of every document, by its id."""
    found: dict[str, str] = {}
    for row in sorted(rows(out), key=lambda row: row["page_number"]):
        found[row["doc_id"]] = found.get(row["doc_id"], "") + row["text"]
    return found


def quarantine(out: Path) -> list[dict[str, Any]]:
    store = LocalStore(out)
    return [row for unit in newest(out).units if unit.quarantine for row in read_shard(store, unit.quarantine).to_pylist()]


def by_id(*texts: str) -> dict[str, str]:
    return {document_id(text): normalise(text) for text in texts}


def errors(out: Path) -> list[Any]:
    return [finding for finding in fsck(LocalStore(out)) if finding.severity == "error"]


def write_lines(path: Path, *texts: str) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


# what a run makes


def test_every_document_is_committed_once_or_quarantined_and_the_counts_agree(corpus: tuple[Path, RunResult]) -> None:
    out, result = corpus
    assert documents(out) == by_id(*STORED)
    counts = result.counts
    assert counts == result.fresh == newest(out).totals
    assert (counts.documents_in, counts.documents_committed) == (DOCUMENTS, len(STORED))
    assert (counts.documents_quarantined, counts.duplicates) == (REASONS.total(), DUPLICATES)
    assert counts.pages_in == counts.pages_committed == counts.rows == len(rows(out))
    assert Counter(result.reasons) == REASONS
    assert (result.units_new, result.units_done, result.units_waiting, result.unread) == (4, 0, 0, ())


def test_a_short_text_is_kept_as_text_and_counted_as_such(job: JobFactory, tmp_path: Path) -> None:
    """A page of 33 tokens would cost 73 as pixels."""
    write_lines(tmp_path / "in.jsonl", prose(150, 9), prose(1500, 8))
    result = run(job(tmp_path / "in.jsonl", tmp_path / "out", "tiers.cheap_text=true"))
    short, long = sorted(rows(tmp_path / "out"), key=lambda row: row["num_text_tokens"])
    assert (short["tier"], short["reason"], short["status"], short["tokens"]) == ("text", "text_is_cheaper", "text", None)
    assert short["num_context_tokens"] == short["num_text_tokens"] < 73 == long["num_context_tokens"]
    assert (long["tier"], long["reason"]) == ("tiny", None)
    counts = result.counts
    assert counts.tokens_as_text == short["num_text_tokens"] and counts.context_tokens == 73 + short["num_text_tokens"]
    summary = summarise(LocalStore(tmp_path / "out"), newest(tmp_path / "out"))
    assert summary.visual.ratio == long["num_text_tokens"] / 73
    assert summary.context_ratio == counts.text_tokens / counts.context_tokens


def test_a_corpus_has_no_fault(corpus: tuple[Path, RunResult]) -> None:
    assert fsck(LocalStore(corpus[0])) == []


def test_rows_keep_the_contract(corpus: tuple[Path, RunResult], mixed_sources: Path, job: JobFactory) -> None:
    out, _ = corpus
    prepared = prepare(job(mixed_sources, out))
    found = rows(out)
    assert {row["status"] for row in found} == {"text", "unverified", "below_target"}
    for row in found:
        absent = {name for name, value in row.items() if value is None}
        required = ALWAYS
        if row["tier"] == "text":
            required = required - TOKEN_COLUMNS - VERDICT_COLUMNS
            assert absent >= TOKEN_COLUMNS | VERDICT_COLUMNS and row["reason"] == "not_covered"
        elif row["status"] == "unverified":
            required = required - VERDICT_COLUMNS
            assert VERDICT_COLUMNS | {"decoded_text", "reason", "blank_precision"} <= absent
        else:
            assert (row["decoded_text"] is None) == row["exact"]
            assert 0 <= row["precision"] <= 1 and row["decoder_passes"] >= 1
        assert not absent & required, row
        assert row["fingerprint"] == prepared.fingerprint
        assert (row["grid_h"], row["grid_w"], row["text_tokenizer"]) == (32, 64, "deepseek-v3")
        assert row["char_end"] - row["char_start"] == len(row["text"]) > 0 < row["num_text_tokens"]
        assert 0 <= row["page_number"] < row["num_pages"]
        if row["tier"] != "text":
            assert (row["tier"], row["mode"], row["image_px"]) == ("tiny", "tiny", 512)
            assert (row["num_vision_tokens"], row["num_context_tokens"], row["token_dim"]) == (64, 73, 32)
            assert (row["codec"], row["codec_revision"], row["token_dtype"]) == ("embedded", prepared.revision, "int8")
    assert any(row["blank_precision"] is not None for row in found)
    assert len({row["page_id"] for row in found}) == len(found)


def test_pages_cover_their_document_without_a_gap(corpus: tuple[Path, RunResult]) -> None:
    pages: dict[str, list[dict[str, Any]]] = {}
    for row in rows(corpus[0]):
        pages.setdefault(row["doc_id"], []).append(row)
    for found in pages.values():
        found.sort(key=lambda row: row["page_number"])
        assert [row["page_number"] for row in found] == list(range(found[0]["num_pages"]))
        assert [row["char_start"] for row in found] == [0, *(row["char_end"] for row in found[:-1])]
    assert len(pages[document_id(LONG)]) == 3


def test_what_a_record_says_of_itself_stands_in_its_rows(corpus: tuple[Path, RunResult], mixed_sources: Path) -> None:
    of_document = {row["doc_id"]: row for row in rows(corpus[0])}
    first = of_document[document_id(prose(2500, 3))]
    assert first["timestamp"].isoformat() == "2024-05-06T07:08:09+00:00"
    assert (first["importance"], first["text_class"], first["source_id"]) == (0.25, "letters", "first")
    assert first["source_uri"] == str(mixed_sources / "c.jsonl.gz") and first["source_version"].startswith("sha256:")
    seventh = of_document[document_id(prose(40, 4))]
    assert (seventh["source_id"], seventh["timestamp"], seventh["importance"]) == ("7", None, None)
    assert of_document[document_id(SHORT)]["source_uri"] == str(mixed_sources / "b.md")
    assert {of_document[document_id(text)]["tier"] for text in (ARABIC, CHINESE)} == {"text"}


def test_the_quarantine_holds_source_reason_and_bytes(corpus: tuple[Path, RunResult], mixed_sources: Path) -> None:
    found = quarantine(corpus[0])
    assert Counter(row["reason"] for row in found) == REASONS
    assert all(set(row) == set(QUARANTINE.names) and row["source_version"] and row["detail"] for row in found)
    lines = {row["record"] for row in found if row["source_uri"] == str(mixed_sources / "c.jsonl.gz")}
    after_layout = "\u200b\ufeff\u200b".encode()
    assert lines == {line for _, line in BAD_LINES if b'"z"' not in line} | {after_layout}
    assert {row["source_id"] for row in found} >= {"m", "n", "i", "e", "z", "s", "t"}


def test_stored_tokens_are_those_of_the_page_drawn_again(
    corpus: tuple[Path, RunResult], mixed_sources: Path, job: JobFactory
) -> None:
    import torch

    from palimpsest.codecs.adapter import load_codec
    from palimpsest.codecs.token_storage import pack
    from palimpsest.codecs.token_storage.rows import stored_tokens

    prepared = prepare(job(mixed_sources, corpus[0]))
    codec = load_codec("embedded", prepared.config.codec.path)
    mode = codec.mode("tiny")
    table = pa.concat_tables(iter_tables(LocalStore(corpus[0]), newest(corpus[0])))
    table = table.filter(pa.compute.equal(table["tier"], "tiny"))
    features = codec.features(stored_tokens(table, mode, codec), mode)
    assert table.num_rows >= 8
    for row, stored in zip(table.to_pylist(), features, strict=True):
        (page,) = prepared.layout.paginate(row["text"], row["text_class"])
        tokens = codec.encode(prepared.layout.render([row["text"]], [page.drawing], mode.px), mode)
        assert pack("int8", tokens)[0].payload == row["tokens"]
        drawn = codec.features(tokens, mode)[0]
        assert torch.allclose(stored.float(), drawn.float(), atol=drawn.abs().max().item() / 100)


# running again


def test_a_second_run_does_nothing_and_says_so(corpus: tuple[Path, RunResult], mixed_sources: Path, job: JobFactory) -> None:
    out, first = corpus
    before = {info.key for info in LocalStore(out).list()}
    again = run(job(mixed_sources, out))
    assert (again.units_new, again.units_done, again.snapshot) == (0, 4, first.snapshot)
    assert (again.counts, again.fresh.documents_in) == (first.counts, 0)
    assert {info.key for info in LocalStore(out).list()} == before
    assert plan_only(job(mixed_sources, out))["to process"] == 0


def test_other_placement_is_the_same_run(corpus: tuple[Path, RunResult], mixed_sources: Path, job: JobFactory) -> None:
    bigger = ("placement.encode_workers=4", "placement.verify_workers=4", "placement.render_batch=5", "placement.encode_batch=3")
    again = run(job(mixed_sources, corpus[0], *bigger))
    assert (again.units_new, again.snapshot) == (0, corpus[1].snapshot)


def test_other_placement_gives_the_same_rows(
    corpus: tuple[Path, RunResult], mixed_sources: Path, job: JobFactory, tmp_path: Path
) -> None:
    batches = ("placement.render_batch=1", "placement.encode_batch=2", "placement.verify_batch=3", "placement.shard_batch=1")
    run(job(mixed_sources, tmp_path, *batches))
    assert rows(tmp_path) == rows(corpus[0])
    assert quarantine(tmp_path) == quarantine(corpus[0])


def test_other_settings_of_what_is_made_replace_the_rows(mixed_sources: Path, job: JobFactory, tmp_path: Path) -> None:
    source, out = mixed_sources / "b.md", tmp_path / "out"
    run(job(source, out))
    again = run(job(source, out, "storage.tokens=bf16", "verification.share=0"))
    assert (again.units_new, again.snapshot) == (1, 2)
    assert [(row["token_dtype"], row["status"]) for row in rows(out)] == [("bf16", "unverified")]


def test_a_run_record_stands_beside_every_snapshot(corpus: tuple[Path, RunResult]) -> None:
    out, result = corpus
    folder = out / "runs" / newest(out).run_id
    assert {path.name for path in folder.iterdir()} == {"config.toml", "environment.json", "stats.json"}
    stats = json.loads((folder / "stats.json").read_text())
    assert stats["run_id"] == result.run_id and stats["counts"]["documents_in"] == DOCUMENTS


# runs that fail


def test_too_much_quarantine_publishes_nothing_and_a_higher_limit_publishes_the_work(
    mixed_sources: Path, job: JobFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = 2 / 7  # of the four sources two are mostly bad, and each of these counts as one document
    message = r"2 of 7 documents .*limits.quarantine_share = 1.0%: .*null_text 2"
    with pytest.raises(RunFailed, match=message):
        run(job(mixed_sources, tmp_path, "limits.quarantine_share=0.01"))
    assert latest(LocalStore(tmp_path)) is None
    with pytest.raises(RunFailed, match="see the quarantine"):
        run(job(mixed_sources, tmp_path, f"limits.quarantine_share={share - 0.001}"))

    def no_work(*args: Any) -> Any:
        raise AssertionError("processed again")

    monkeypatch.setattr(LocalExecutor, "run_units", no_work)
    result = run(job(mixed_sources, tmp_path, f"limits.quarantine_share={share}"))
    assert (result.units_new, result.units_done, result.snapshot) == (0, 4, 1)
    assert documents(tmp_path) == by_id(*STORED)
    assert (tmp_path / "runs" / result.run_id / "config.toml").exists()


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], r"sources = \[\]: name at least one"),
        (["nowhere/at/all"], "'nowhere/at/all' does not exist"),
        (["*.none"], "names no file"),
    ],
)
def test_sources_that_are_not_there_are_named(sources: list[str], message: str, job: JobFactory, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run(job(tmp_path, tmp_path / "out", f"sources={json.dumps(sources)}"))
    assert snapshot_numbers(LocalStore(tmp_path / "out")) == []


def test_an_output_that_cannot_be_written_is_named(mixed_sources: Path, job: JobFactory, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="out = '': name the corpus"):
        run(job(mixed_sources, tmp_path, "out="))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="a part of the path is a file"):
        run(job(mixed_sources, tmp_path / "file" / "corpus"))
    with pytest.raises(ValueError, match="file is in the way: the output must be empty or a corpus"):
        run(job(mixed_sources, tmp_path))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tiers.mode=huge", "'huge'.*tiny"),
        ("layout.grid=63x31", "63x31"),
        ("layout.grid=wide", "wide"),
        ("storage.tokens=int3", "storage.tokens = 'int3': choose one of bf16, int4, int8, none, pq"),
        ("codec.name=nobody", "codec.name 'nobody': choose one of embedded"),
        ("codec.content_hash=abc", "codec.content_hash is pinned to abc"),
        ("layout.alphabet=runes", "runes"),
    ],
)
def test_settings_that_the_codec_cannot_do_are_refused_before_anything_is_written(
    override: str, message: str, mixed_sources: Path, job: JobFactory, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        run(job(mixed_sources, tmp_path / "out", override))
    assert not (tmp_path / "out").exists()
