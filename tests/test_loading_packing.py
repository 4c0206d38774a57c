"""Packed sequences: no sample sees another, and a model reads each as if it were alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from palimpsest.codecs.adapter import Codec, load_codec
from palimpsest.errors import UsageError
from palimpsest.loading.adapters import collate, inputs_embeds, packed_embeds, packed_inputs
from palimpsest.loading.consumer import consumer
from palimpsest.loading.packing import IGNORED, Example, TooLong, example_of
from palimpsest.loading.pages import Pages
from tests.loader_corpora import publish_corpus
from tests.loader_kills import tokenizer

LENGTH = 420


@pytest.fixture(scope="module")
def codec(tiny_codec: Path) -> Codec:
    codec = load_codec("embedded", tiny_codec)
    codec.model.float()
    return codec


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, codec: Codec) -> Path:
    folder = tmp_path_factory.mktemp("packing") / "corpus"
    publish_corpus(folder, units=2, documents=8, dim=codec.token_dim)
    return folder


def pages(root: Path) -> Pages:
    return Pages(root, streams=4, window_bytes=1 << 20)


def examples(root: Path, reader: Any) -> dict[str, Example]:
    made = [example_of(sample, consumer(reader)) for batch in pages(root).loader(1, collate=list) for sample in batch]
    return {example.id: example for example in made}


def segments(batch: dict[str, Any]) -> list[tuple[str, int, slice]]:
    """(id of the sample, row, places) of each sample of a packed batch."""
    found = []
    for row, names in enumerate(batch["ids"]):
        for number, name in enumerate(names, start=1):
            places = (batch["segment_ids"][row] == number).nonzero().flatten().tolist()
            assert places == list(range(places[0], places[-1] + 1))
            assert batch["position_ids"][row, places].tolist() == list(range(len(places)))
            found.append((name, row, slice(places[0], places[-1] + 1)))
    return found


def check_layout(batch: dict[str, Any], alone: dict[str, Example]) -> None:
    shown = torch.zeros_like(batch["visual_mask"])
    for name, row, places in segments(batch):
        example = alone[name]
        assert batch["input_ids"][row, places].tolist() == list(example.ids)
        assert batch["labels"][row, places].tolist() == [IGNORED, *example.labels[1:]]
        for first, count in example.images:
            shown[row, places.start + first : places.start + first + count] = True
    assert torch.equal(shown, batch["visual_mask"])
    assert torch.equal(batch["loss_mask"], batch["labels"] != IGNORED)
    assert (batch["labels"][batch["segment_ids"] == 0] == IGNORED).all()


def test_the_codecs_model_reads_a_packed_sample_as_it_reads_it_alone(root: Path, codec: Codec) -> None:
    alone = examples(root, codec)
    several = 0
    for batch in pages(root).packed(LENGTH, codec).loader(2):
        check_layout(batch, alone)
        inputs = packed_inputs(codec, batch)
        with torch.no_grad():
            packed = codec.model(**inputs)
        assert torch.isfinite(packed.loss)
        for name, row, places in segments(batch):
            with torch.no_grad():
                single = codec.model(**collate(codec, [alone[name]])).logits[0]
            torch.testing.assert_close(packed.logits[row, places], single, atol=2e-3, rtol=2e-3)
        several += sum(len(names) > 1 for names in batch["ids"]) if batch["visual_mask"].any() else 0
    assert several > 3


def test_another_model_reads_a_packed_sample_as_it_reads_it_alone(root: Path, codec: Codec) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8, hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2
    )
    model, projector = LlamaForCausalLM(config).eval(), torch.nn.Linear(codec.token_dim, 24)
    embed, alone = model.get_input_embeddings(), examples(root, tokenizer())
    several = 0
    for batch in pages(root).packed(LENGTH, tokenizer()).loader(2):
        check_layout(batch, alone)
        packed = model(**packed_embeds(embed, projector, batch))
        packed.loss.backward(retain_graph=True)
        for name, row, places in segments(batch):
            with torch.no_grad():
                single = model(**inputs_embeds(embed, projector, [alone[name]])).logits[0]
            torch.testing.assert_close(packed.logits[row, places], single, atol=1e-5, rtol=1e-4)
        several += sum(len(names) > 1 for names in batch["ids"])
    assert several > 3 and projector.weight.grad is not None and projector.weight.grad.abs().sum() > 0


def test_a_sample_longer_than_a_sequence_is_refused_or_skipped_with_a_report(root: Path) -> None:
    with pytest.raises(TooLong, match=r"has \d+ ids, a sequence has length = 90: use longer sequences, or on_long='skip'"):
        list(pages(root).packed(90, tokenizer()).loader(1))
    loader = pages(root).packed(90, tokenizer(), on_long="skip").loader(1)
    kept = {name for batch in loader for names in batch["ids"] for name in names}
    alone = examples(root, tokenizer())
    assert kept == {name for name, example in alone.items() if len(example.ids) <= 90} and kept
    assert {one.where for one in loader.damage} == set(alone) - kept


def test_bad_packing_is_named(root: Path, codec: Codec) -> None:
    from tokenizers import Tokenizer, models

    with pytest.raises(UsageError, match="names no id that ends a text .*consumer.tokenizer, eos_id="):
        pages(root).packed(LENGTH, Tokenizer(models.WordLevel({"<unk>": 0, "word": 1}, unk_token="<unk>")))
    with pytest.raises(UsageError, match="give a Codec, a tokenizer of tokenizers or transformers, or a tokenizer.json"):
        pages(root).packed(LENGTH, object())
    with pytest.raises(UsageError, match="there is no such tokenizer.json"):
        pages(root).packed(LENGTH, root / "tokenizer.json")
    with pytest.raises(UsageError, match="at least 2 ids"):
        pages(root).packed(1, tokenizer())
    with pytest.raises(UsageError, match="on_long = 'cut': choose fail, skip"):
        pages(root).packed(LENGTH, tokenizer(), on_long="cut")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="is given as 'image'; packing takes give = 'tokens' or 'text'"):
        list(Pages(root, give="image", where="tier <> 'text'").packed(LENGTH, tokenizer()).loader(1))
    with pytest.raises(UsageError, match="pack with the codec"):
        packed_inputs(codec, next(iter(pages(root).packed(LENGTH, tokenizer()).loader(2))))
