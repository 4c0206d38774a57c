"""Memory samples from chat JSON lines to a batch for a decoder: what is made, what is refused, and that memory stays bounded."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

import palimpsest
from palimpsest.codecs.adapter import Codec, load_codec
from palimpsest.config import ConfigError, parse
from palimpsest.corpus.format import NotACorpus
from palimpsest.corpus.fsck import fsck
from palimpsest.corpus.gc import gc
from palimpsest.corpus.shard_check import check_samples
from palimpsest.errors import RunFailed, UsageError
from palimpsest.loading.adapters import collate, features_of, inputs_embeds
from palimpsest.loading.consumer import consumer
from palimpsest.loading.memory import Memory, OverBudget
from palimpsest.loading.packing import IGNORED, Example
from palimpsest.operations.conversations.build import MemoryResult, build
from palimpsest.operations.conversations.settings import MemoryConfig
from palimpsest.operations.erase import erase
from palimpsest.operations.retier import retier
from palimpsest.operations.run import run
from palimpsest.storage.local_store import LocalStore
from tests.conftest import JobFactory
from tests.loader_kills import tokenizer
from tests.mixed_sources import prose

DAY = 86_400
START = 1_700_000_000
BUDGET = 900
Make = Callable[..., MemoryResult]


def talk(turns: int, characters: int, seed: int = 0, every: int = DAY) -> list[dict[str, Any]]:
    """A dated conversation, one turn every so many seconds."""
    return [
        {"role": "assistant" if n % 2 else "user", "content": prose(characters, seed + n), "timestamp": START + n * every}
        for n in range(turns)
    ]


@pytest.fixture
def make(tiny_codec: Path, tmp_path: Path) -> Make:
    """`make(conversations, "key=value", …)`: samples of these records with a small random codec."""

    def made(records: list[dict[str, Any]], *overrides: str) -> MemoryResult:
        source = tmp_path / "chats.jsonl"
        source.write_text("".join(json.dumps(record) + "\n" for record in records))
        settings: dict[str, Any] = {
            "sources": [str(source)],
            "out": str(tmp_path / "memory"),
            "codec": {"path": str(tiny_codec)},
            "layout": {"grid": "64x32"},
            "tiers": {"policy": "age", "ages": ["2d small", "6d tiny"]},
            "verification": {"share": 0.0, "control_share": 0.0},
            "conversations": {"budget": BUDGET},
            "placement": {"threads_per_worker": 1},
        }
        return build(parse(settings, ("limits.quarantine_share=0.9", *overrides), MemoryConfig))

    return made


def samples(result: MemoryResult) -> list[dict[str, Any]]:
    return list(palimpsest.Corpus(result.out).samples())


@pytest.fixture
def codec(tiny_codec: Path) -> Codec:
    return load_codec("embedded", tiny_codec)


def test_older_turns_are_seen_blurrier_within_the_budget_and_the_next_reply_is_the_target(make: Make) -> None:
    said = talk(14, 900)
    result = make([{"id": "long", "messages": said}])
    made = samples(result)
    assert [row["target_text"] for row in made] == [turn["content"] for turn in said[1::2]]
    assert result.counts["samples"] == result.counts["targets_in"] == 7
    last = made[-1]
    tiers = [segment["tier"] for segment in last["segments"]]
    assert {"tiny", "text"} <= set(tiers) and tiers == sorted(tiers, key=["tiny", "small", "text"].index)
    for row in made:
        assert sum(segment["num_context_tokens"] for segment in row["segments"]) == row["num_context_tokens"] <= BUDGET
        ages = [segment["age_seconds"] for segment in row["segments"]]
        assert ages == sorted(ages, reverse=True) and row["aged_by"] == "time"
        assert row["segments"][-1]["text"].endswith("assistant: ")
    again = make([{"id": "long", "messages": said}])
    assert (again.units_new, again.units_done) == (0, 1) and samples(again) == made


def test_samples_are_committed_published_checked_and_collected_as_every_corpus_is(make: Make) -> None:
    first = make([{"id": "a", "messages": talk(8, 900)}, {"id": "b", "messages": [{"role": "robot", "content": "x"}]}])
    store = LocalStore(first.out)
    corpus = palimpsest.Corpus(first.out)
    assert fsck(store) == [] and corpus.snapshot.totals.samples_committed == first.counts["samples"] == 4
    assert [row["target_turn"] for row in corpus.samples()] == [1, 3, 5, 7] and len(corpus.quarantine()) == 1
    assert set(corpus.table(["page_id", "mode"])["mode"].to_pylist()) <= {"small", "tiny"}
    second = make([{"id": "a", "messages": talk(10, 900)}])  # another version of the same file takes its place
    assert (first.number, second.number) == (1, 2) and len(palimpsest.Corpus(first.out).snapshot.units) == 1
    assert fsck(store) == []
    removed = gc(store, now=datetime.now(UTC) + timedelta(days=9), delete=True)
    assert {removal.key.split("/")[0] for removal in removed} >= {"_units", "_snapshots", "data", "samples", "quarantine"}
    assert fsck(store) == [] and len(list(palimpsest.Corpus(first.out).samples())) == 5
    (unit,) = palimpsest.Corpus(first.out).snapshot.units
    assert unit.samples is not None and len(unit.shards) == 2
    swapped = replace(unit, shards=unit.shards[::-1])
    assert any("is not its page" in what for what in check_samples(store, swapped, unit.samples))
    store.delete(unit.samples.key)  # what is lost is made again, under the id of a successor
    assert [finding.key for finding in fsck(store)] == [unit.samples.key]
    assert (
        make([{"id": "a", "messages": talk(10, 900)}]).units_new == 1 and len(list(palimpsest.Corpus(first.out).samples())) == 5
    )


def test_a_conversation_is_erased_and_the_samples_of_others_still_show_their_pages(make: Make) -> None:
    result = make([{"id": name, "messages": talk(8, 900, seed)} for seed, name in enumerate("abc")])
    before = {row["sample_id"]: row for row in samples(result) if row["source_id"] != "a"}
    erase(result.out, "source_id = 'a'")
    store = LocalStore(result.out)
    assert [finding for finding in fsck(store, absent="source_id = 'a'") if finding.severity == "error"] == []
    after = {row["sample_id"]: row for row in samples(result)}
    assert after.keys() == before.keys() and len(after) == 8
    moved = ("page_shard", "page_row")
    for name, row in after.items():
        for now, then in zip(row["segments"], before[name]["segments"], strict=True):
            assert {k: v for k, v in now.items() if k not in moved} == {k: v for k, v in then.items() if k not in moved}
    totals = palimpsest.Corpus(result.out).snapshot.totals
    assert (totals.documents_committed, totals.samples_committed) == (2, 8)


def test_samples_and_pages_do_not_share_a_corpus(make: Make, job: JobFactory, tmp_path: Path) -> None:
    result = make([{"id": "a", "messages": talk(2, 50)}])
    with pytest.raises(NotACorpus, match="holds samples, not pages"):
        run(job(tmp_path / "chats.jsonl", tmp_path / "memory", "source.text_field=body"))
    with pytest.raises(NotACorpus, match="holds samples, not pages"):
        retier(result.out)
    old = LocalStore(tmp_path / "old")
    old.put("memory.json", b"{}")
    with pytest.raises(NotACorpus, match="memory samples of format 1, which is not read any more"):
        Memory(str(tmp_path / "old"))


def test_what_is_no_conversation_or_does_not_fit_is_a_row_with_a_reason(make: Make) -> None:
    flood = [{"role": "user", "content": "word " * 40_000}, {"role": "assistant", "content": "Too much."}]
    records = [
        {"id": "good", "messages": talk(4, 300)},
        {"id": "robot", "messages": [{"role": "robot", "content": "x"}, *talk(2, 30)]},
        {"id": "silent", "messages": [{"role": "user", "content": ""}, *talk(2, 30)]},
        {"id": "future", "messages": [{**turn, "timestamp": "2199-01-01"} for turn in talk(2, 30)]},
        {"id": "flood", "messages": flood},
        {"id": "chatter", "messages": [flood[1] | {"role": "user"}, flood[0] | {"role": "assistant"}]},
        {"id": "dateless", "messages": [{k: turn[k] for k in ("role", "content")} for turn in talk(4, 300, 9)]},
    ]
    message = (
        r"3 of 7 conversations .*limits.quarantine_share = 10.0%: .*turn_too_long 2.* Nothing was published; the work is kept"
    )
    with pytest.raises(RunFailed, match=message):
        make(records, "tiers.as_of=2026-01-01", "limits.quarantine_share=0.1")
    result = make(records, "tiers.as_of=2026-01-01")
    assert result.reasons == {"unknown_role": 1, "empty_turn": 1, "future_timestamp": 1, "turn_too_long": 2}
    counts = result.counts
    assert counts["conversations_in"] == 7 == counts["conversations"] + 3
    assert counts["targets_in"] == counts["samples"] + 2
    assert {row["source_id"]: row["aged_by"] for row in samples(result)} == {"good": "time", "dateless": "turns"}


def test_a_mode_that_the_codec_lacks_is_named(make: Make) -> None:
    for override, message in (
        ('tiers.ages=["1d gundam"]', "tiers.ages = 'gundam': the codec has no such mode"),
        ('tiers.modes=["huge"]', "tiers.modes = 'huge'"),
    ):
        with pytest.raises(ConfigError, match=message):
            make([{"messages": talk(2, 30)}], override)


def test_a_choice_of_grids_is_refused(make: Make) -> None:
    with pytest.raises(ConfigError, match="pages of a conversation stay the same as it grows; name one grid"):
        make([{"id": "a", "messages": talk(6, 300)}], "layout.grid=64x32+80x40")


def test_the_loader_gives_embeddings_and_labels_to_a_decoder(make: Make, codec: Codec) -> None:
    result = make([{"id": "a", "messages": talk(10, 900)}, {"id": "b", "messages": talk(2, 50, 5)}])
    rows = samples(result)
    examples = examples_of(Memory(result.out, tokenizer=codec, streams=2))
    assert sorted(examples) == sorted(row["sample_id"] for row in rows)
    for row in rows:
        example = examples[row["sample_id"]]
        visual = [segment for segment in row["segments"] if segment["kind"] == "visual"]
        features = features_of(codec, [example])
        assert [len(rows) for rows in features] == [segment["num_context_tokens"] for segment in visual]
        assert example.ids.count(codec.image_token_id) == sum(len(rows) for rows in features)
        reply = [label for label in example.labels if label != IGNORED]
        assert reply == list(example.ids[-len(reply) :]) and reply[-1] in codec.eos_ids
    chosen = [examples[rows[-2]["sample_id"]], examples[rows[-1]["sample_id"]]]
    whole = collate(codec, chosen)
    embeds = codec.model.get_input_embeddings()(whole["input_ids"])
    images = (whole["input_ids"] == codec.image_token_id)[..., None].expand_as(embeds)
    embeds = embeds.masked_scatter(images, torch.cat(features_of(codec, chosen)).to(embeds.dtype))
    with torch.no_grad():
        theirs = codec.model(**whole)
        ours = codec.model(inputs_embeds=embeds, attention_mask=whole["attention_mask"])
    assert torch.isfinite(theirs.loss)
    shown = whole["attention_mask"].bool()
    assert torch.allclose(theirs.logits[shown], ours.logits[shown], atol=0.05)


def test_samples_without_stored_tokens_are_encoded_again_and_pq_is_refused(make: Make, codec: Codec) -> None:
    result = make([{"id": "a", "messages": talk(10, 900)}], "storage.tokens=none")
    assert fsck(LocalStore(result.out)) == []
    assert palimpsest.Corpus(result.out).table(["token_dtype"])["token_dtype"].unique().to_pylist() == ["none"]
    pages = {page.tokens_sha256: page.tokens(codec) for page in palimpsest.Corpus(result.out).pages()}
    found = Memory(result.out, codec=codec, streams=2)
    shown = [segment for row in found for segment in row["segments"] if segment["kind"] == "visual"]
    assert shown and all((segment["tokens"].float().numpy() == pages[segment["tokens_sha256"]]).all() for segment in shown)
    with pytest.raises(ValueError, match=r"storage.tokens = 'pq': .* choose int8, int4, bf16 or none"):
        make([{"id": "b", "messages": talk(4, 90)}], "storage.tokens=pq")


def examples_of(memory: Memory) -> dict[str, Example]:
    return {sample["sample_id"]: sample["example"] for batch in memory.loader(2, collate=list) for sample in batch}


def test_another_decoder_reads_samples_within_its_own_budget(make: Make, codec: Codec) -> None:
    result = make([{"id": "a", "messages": talk(10, 900)}])
    reader = consumer(tokenizer())
    examples = examples_of(Memory(result.out, tokenizer=reader, budget=600, streams=2))
    whole = examples_of(Memory(result.out, tokenizer=reader, streams=2))
    assert len(examples) == len(samples(result))
    for example in examples.values():
        assert sum(label == IGNORED for label in example.labels) <= 600
        assert example.ids == whole[example.id].ids[-len(example.ids) :]
    assert any(len(example.ids) < len(whole[name].ids) for name, example in examples.items())
    embed, projector = torch.nn.Embedding(8, 24), torch.nn.Linear(codec.token_dim, 24)
    batch = inputs_embeds(embed, projector, list(examples.values()))
    batch["inputs_embeds"].sum().backward()
    assert batch["inputs_embeds"].shape == (*batch["labels"].shape, 24) and projector.weight.grad is not None
    with pytest.raises(OverBudget, match="its newest segment has"):
        examples_of(Memory(result.out, tokenizer=reader, budget=3))
    with pytest.raises(UsageError, match="pass its tokenizer"):
        Memory(result.out, budget=3)


def test_thousands_of_turns_are_made_in_bounded_memory(make: Make) -> None:
    """Three times the turns, less than twice the memory: the samples of a conversation are made a block at a time."""

    def peak(turns: int) -> float:
        tracemalloc.start()
        try:
            result = make(
                [{"id": str(turns), "messages": talk(turns, 60, every=60)}], "conversations.block=16", "conversations.budget=400"
            )
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            assert result.counts["samples"] == turns // 2

    small, large = peak(600), peak(2000)
    assert large < 2 * small


# findings


def test_a_garbage_object_is_one_finding_and_the_others_are_published(make: Make, tmp_path: Path) -> None:
    (tmp_path / "noise.jsonl").write_text('{"messages": []}\n' + "garbage\n" * 500)
    good = [{"id": str(n), "messages": talk(4, 300, n)} for n in range(12)]
    result = make(good, f"sources=['{tmp_path}/*.jsonl']", "limits.quarantine_share=0.5")
    (bad,) = result.set_aside
    assert bad.source_uri.endswith("noise.jsonl") and (bad.quarantined, bad.documents) == (501, 501)
    assert result.findings and result.counts["samples"] == 24 == len(samples(result))
    with pytest.raises(RunFailed, match="1 of 13 conversations"):
        make(good, f"sources=['{tmp_path}/*.jsonl']", "limits.quarantine_share=0.05")


def test_turns_in_a_field_that_is_not_there_are_one_message_before_any_work(make: Make, tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    for record, setting, message in (
        (
            {"dialogo": talk(2, 50), "n": 1},
            "",
            "chats.jsonl has no field that is known to have turns; its fields are dialogo, n",
        ),
        (
            {"messages": talk(2, 50)},
            "Messages",
            "messages_field = 'Messages': .*chats.jsonl has no field 'Messages'",
        ),
    ):
        with pytest.raises(ValueError, match=message + ".*conversations.messages_field"):
            make([record], f"conversations.messages_field='{setting}'")
    assert list((tmp_path / "memory").iterdir()) == []


def test_a_field_that_was_set_and_never_occurs_is_a_finding(make: Make) -> None:
    said = [{"id": "a", "messages": talk(4, 100)}]
    result = make(said, "source.timestamp_field=createdAt")
    assert result.absent_fields == ("source.timestamp_field = 'createdAt' occurs in none of 1 documents",) and result.findings
    assert not make(said, "source.class_field=role").findings
    with pytest.raises(RunFailed, match="createdAt.*limits.strict"):
        make(said, "source.timestamp_field=createdAt", "limits.strict=true", "conversations.budget=901")
