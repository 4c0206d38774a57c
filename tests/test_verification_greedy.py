"""Drafted decoding against plain `generate`, token for token, in float32: several architectures, every kind of reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    UnlimitedOcrConfig,
    UnlimitedOcrForConditionalGeneration,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from palimpsest.verification import greedy
from palimpsest.verification.control import blanked
from palimpsest.verification.early_stop import EarlyStop
from palimpsest.verification.greedy import decode
from palimpsest.verification.loops import LoopWatch
from palimpsest.verification.reading import Decoded, DraftedPage
from palimpsest.verification.verdict import judge

VOCAB, DIM, IMAGE, EOS, LENGTH = 96, 32, 3, 1, 40
TEXT_IDS = range(10, VOCAB)


@dataclass(frozen=True)
class Tiny:
    """A random checkpoint that writes varied text, as the decoder that greedy decoding asks for."""

    model: PreTrainedModel
    eos_ids: set[int]
    image_token_id: int = IMAGE

    @property
    def bidirectional_images(self) -> bool:
        return isinstance(self.model, Gemma3ForConditionalGeneration)

    def image_inputs(self, features: list[torch.Tensor]) -> dict[str, object]:
        output = torch.cat(features) if self.bidirectional_images else features
        return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=output)}}

    def positions(self, prompt: Sequence[int]) -> torch.Tensor | None:
        if not isinstance(self.model, Qwen2_5_VLForConditionalGeneration):
            return None
        ids = torch.tensor([prompt])
        image = ids == IMAGE
        return self.model.model.get_rope_index(ids, image.int(), torch.tensor([[1, 4, int(image.sum())]]))[0][:, 0]


TEXT = dict(vocab_size=VOCAB, hidden_size=DIM, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
TEXT |= dict(bos_token_id=0, eos_token_id=EOS, pad_token_id=2)
VISION = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1)  # never run: tokens are given


def unlimited(**text: object) -> PreTrainedModel:
    sam = dict(hidden_size=16, output_channels=8, num_hidden_layers=1, num_attention_heads=1, image_size=64, patch_size=16)
    sam |= dict(window_size=2, global_attn_indexes=(0,), mlp_dim=16, downsample_channels=(8, 16))
    decoder = dict(num_key_value_heads=2, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=24)
    kinds = dict(mlp_layer_types=["dense"] * 2, layer_types=["full_attention"] * 2)
    return UnlimitedOcrForConditionalGeneration(
        UnlimitedOcrConfig(
            vision_config=dict(sam_config=sam, encoder_config=dict(**VISION, image_size=14, patch_size=14)),
            text_config={**TEXT, **decoder, **kinds, **text},
            image_token_id=IMAGE,
        )
    )


def qwen() -> PreTrainedModel:
    rope = dict(rope_type="default", mrope_section=[2, 3, 3], rope_theta=1e4)
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            vision_config=dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=1, out_hidden_size=DIM),
            text_config=dict(**TEXT, num_key_value_heads=1, rope_parameters=rope),
            image_token_id=IMAGE,
            video_token_id=4,
        )
    )


def gemma() -> PreTrainedModel:
    layers = dict(layer_types=["sliding_attention", "full_attention"], sliding_window=12)
    return Gemma3ForConditionalGeneration(
        Gemma3Config(
            vision_config=dict(**VISION, image_size=28, patch_size=14),
            text_config=dict(**TEXT, **layers, num_key_value_heads=1, head_dim=16),
            image_token_id=IMAGE,
            mm_tokens_per_image=4,
        )
    )


BUILDERS: dict[str, Callable[[], PreTrainedModel]] = {
    "dense": unlimited,
    "experts": lambda: unlimited(mlp_layer_types=["dense", "sparse"]),
    "reference_sliding": lambda: unlimited(layer_types=["reference_sliding_attention", "full_attention"], sliding_window=6),
    "grouped": lambda: unlimited(num_key_value_heads=1),
    "eager": unlimited,
    "qwen": qwen,
    "gemma": gemma,
}


@cache
def tiny(name: str) -> Tiny:
    torch.manual_seed(5)
    model = BUILDERS[name]().eval().float()
    if name == "eager":
        model.set_attn_implementation("eager")
    for key, weight in model.named_parameters():  # wide enough that the output depends on the whole context and does not repeat
        if weight.ndim > 1 and "language_model" in key:
            torch.nn.init.normal_(weight, std=0.25)
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=1.0)
    model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCAB, DIM) * 0.5)
    model.lm_head.weight.data[IMAGE] = 0  # a reference text has no image ids
    model.generation_config.eos_token_id = EOS
    return Tiny(model, {EOS})


def image(seed: int, tokens: int) -> torch.Tensor:
    return torch.randn(tokens, DIM, generator=torch.Generator().manual_seed(seed))


def prompt(tokens: int) -> list[int]:
    return [0, *[IMAGE] * tokens, 7, 8]


def arguments(name: str, features: torch.Tensor, ids: torch.Tensor) -> dict[str, object]:
    output = features[None] if name == "gemma" else [features]
    extra: dict[str, object] = {"token_type_ids": (ids == IMAGE).long()} if name == "gemma" else {}
    if name == "qwen":
        extra |= {"image_grid_thw": torch.tensor([[1, 4, features.shape[0]]]), "mm_token_type_ids": (ids == IMAGE).int()}
    return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=output)}, **extra}


def plain(name: str, features: torch.Tensor, length: int = LENGTH) -> list[int]:
    """What `generate` writes, one page at a time, with the end-of-sequence id where it ends."""
    ids = torch.tensor([prompt(len(features))])
    settings = dict(attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=length)
    written = tiny(name).model.generate(input_ids=ids, **settings, **arguments(name, features, ids))
    return written[0, ids.shape[1] :].tolist()


def drafted(name: str, features: torch.Tensor, draft: Sequence[int], length: int = LENGTH, **more: object) -> DraftedPage:
    return DraftedPage(features=features, prompt_ids=prompt(len(features)), draft_ids=draft, max_new_tokens=length, **more)


def read(name: str, pages: list[DraftedPage], **options: object) -> list[Decoded]:
    return decode(tiny(name), pages, **options)


def planted(right: list[int], places: Sequence[int]) -> list[int]:
    """`right` with another token at each of `places`, one that occurs nowhere in it."""
    unused = [token for token in TEXT_IDS if token not in right]
    return [unused[0] if place in places else token for place, token in enumerate(right)]


def garbled(right: list[int]) -> list[int]:
    """Substitutions, an insertion, a short and a long deletion."""
    wrong = planted(right, [0, 4, 5])
    return [*wrong[:8], 11, 12, *wrong[8:14], *wrong[16:20], *wrong[30:]]


REFERENCES: dict[str, Callable[[list[int]], list[int]]] = {
    "right": lambda right: right,
    "wrong in one place": lambda right: planted(right, [len(right) // 2]),
    "wrong in many": garbled,
    "all wrong": lambda right: planted(right, range(len(right))),
    "too short": lambda right: right[: len(right) // 3],
    "too short, with an end": lambda right: [*right[: len(right) // 3], EOS],
    "too long": lambda right: [*right, *list(TEXT_IDS)[:25], EOS],
    "reversed": lambda right: right[::-1],
    "empty": lambda right: [],
    "only an end": lambda right: [EOS],
}


@pytest.mark.parametrize("name", BUILDERS)
def test_ragged_batch_equals_generate_whatever_the_reference(name: str) -> None:
    sizes = [4, 10, 6, 2, 8]
    images = [image(seed, sizes[seed % 5]) for seed in range(len(REFERENCES))]
    lengths = [LENGTH, 17, LENGTH, 29, LENGTH, 33, 1, 40, 21, 12]
    expected = [plain(name, features, length) for features, length in zip(images, lengths, strict=True)]
    pages = [
        drafted(name, features, spoil(right), length)
        for features, spoil, right, length in zip(images, REFERENCES.values(), expected, lengths, strict=True)
    ]
    found = read(name, pages)
    assert [list(page.ids) for page in found] == expected
    assert [page.stopped for page in found] == ["eos" if right[-1] == EOS else "length" for right in expected]
    assert found[0].passes == 1 and found[0].disagreements == 0
    assert sum(page.near_ties for page in found) <= 2


def test_outputs_are_varied_enough_to_prove_something() -> None:
    outputs = [tuple(plain("dense", image(seed, 4))) for seed in range(6)]
    assert len(set(outputs)) == 6 and all(len(set(output)) > len(output) // 3 for output in outputs)


@pytest.mark.parametrize("name", ["dense", "experts", "qwen"])
@pytest.mark.parametrize("spoil", REFERENCES)
def test_every_kind_of_reference(name: str, spoil: str) -> None:
    images = [image(seed, 4 + 2 * (seed % 3)) for seed in range(20, 24)]
    expected = [plain(name, features) for features in images]
    found = read(name, [drafted(name, f, REFERENCES[spoil](right)) for f, right in zip(images, expected, strict=True)])
    assert [list(page.ids) for page in found] == expected


def test_batch_composition_and_chunked_head_change_nothing() -> None:
    images = [image(seed, 4 + 2 * (seed % 3)) for seed in range(30, 36)]
    pages = [drafted("dense", f, garbled(plain("dense", f))) for f in images]
    together = read("dense", pages)
    assert [read("dense", [page])[0].ids for page in pages] == [page.ids for page in together]
    assert [page.passes for page in together] == [read("dense", [page])[0].passes for page in pages]
    chunked = read("dense", pages, head_bytes=1)  # one position at a time
    assert [page.ids for page in chunked] == [page.ids for page in together]


@pytest.mark.parametrize("name", ["dense", "qwen"])
@pytest.mark.parametrize("places", [[9], [0], [39], [3, 17, 30], [2, 8, 13, 21, 26, 34]])
def test_passes_are_one_plus_disagreements_for_substitutions(name: str, places: list[int]) -> None:
    """Doubled tokens are left alone: there a substitution looks like an insertion or a deletion, which costs a pass more."""
    for seed in range(40, 44):
        right = plain(name, image(seed, 6))
        inside = [place for place in places if place < len(right)]
        wrong = [place for place in inside if right[place] not in (*right[place - 1 : place], *right[place + 1 : place + 2])]
        (page,) = read(name, [drafted(name, image(seed, 6), planted(right, wrong))], pass_cost=10_000, revise=False)
        assert list(page.ids) == right
        assert page.disagreements == len(wrong)
        last_place_ends_it = bool(wrong) and wrong[-1] == len(right) - 1
        assert page.passes == 1 + page.disagreements - last_place_ends_it


@pytest.mark.parametrize("name", ["experts", "reference_sliding", "gemma"])
def test_the_size_of_first_passes_and_the_way_of_drafting_change_nothing_but_passes(name: str) -> None:
    images = [image(seed, 4 + 2 * (seed % 3)) for seed in range(70, 75)]
    expected = [plain(name, features) for features in images]
    pages = [drafted(name, f, garbled(right)[: 40 - 6 * n]) for n, (f, right) in enumerate(zip(images, expected, strict=True))]
    together = read(name, pages)
    for options in (dict(first_tokens=1), dict(first_tokens=100), dict(revise=False), dict(pass_cost=1), dict(pass_cost=5000)):
        found = read(name, pages, **options)
        assert [list(page.ids) for page in found] == expected, options
        assert "first_tokens" not in options or [page.passes for page in found] == [page.passes for page in together]


@pytest.mark.parametrize("name", ["experts", "reference_sliding", "grouped"])
def test_later_passes_compute_no_padding(name: str) -> None:
    images = [image(seed, 3 + seed) for seed in range(5)]
    expected = [plain(name, features) for features in images]
    pages = [
        drafted(name, features, planted(right, places))
        for features, right, places in zip(images, expected, ([2], [2, 3, 30], [20], [], range(0, 40, 3)), strict=True)
    ]
    shapes: list[tuple[int, int]] = []

    def seen(_: object, arguments: tuple[object, ...], named: dict[str, torch.Tensor]) -> None:
        shapes.append(tuple(named["input_ids"].shape))

    hook = tiny(name).model.model.register_forward_pre_hook(seen, with_kwargs=True)
    scored: list[int] = []
    choose = greedy._Batch._choose
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(greedy._Batch, "_choose", lambda self, hidden: (scored.append(len(hidden)), choose(self, hidden))[1])
            found = read(name, pages)
    finally:
        hook.remove()
    assert [list(page.ids) for page in found] == expected
    assert shapes[0][0] == 5 and len(shapes) > 2
    assert shapes[1:] == [(1, count) for count in scored[1:]], "every token that a later pass computes is one that is scored"
    assert plain(name, images[0]) == expected[0], "transformers' own attention is what it was"


def test_blank_page_is_read_from_its_own_tokens() -> None:
    right, blank = plain("dense", image(0, 6)), image(99, 6)
    page = drafted("dense", image(0, 6), right)
    (found,) = read("dense", [blanked(page, blank)])
    assert list(found.ids) == plain("dense", blank) != right
    with pytest.raises(ValueError, match="blank page has tokens"):
        blanked(page, image(99, 4))


def test_missing_and_added_tokens_cost_few_passes() -> None:
    """Plain greedy decoding takes a pass for each of about 38 tokens. An error costs a pass, and another where a token is missing
    until the place is found, and one for each missing token; corrections that are taken over may be refuted, which costs more."""
    spoils: dict[str, Callable[[list[int]], list[int]]] = {
        "missing": lambda right: [*right[:10], *right[11:]],
        "added": lambda right: [*right[:10], next(token for token in TEXT_IDS if token not in right), *right[10:]],
        "five missing": lambda right: [*right[:10], *right[15:]],
    }
    images = [image(seed, 6) for seed in range(12)]
    expected = [plain("dense", features) for features in images]
    mean = {}
    for revise in (False, True):
        for kind, spoil in spoils.items():
            pages = [drafted("dense", features, spoil(right)) for features, right in zip(images, expected, strict=True)]
            found = read("dense", pages, revise=revise)
            assert [list(page.ids) for page in found] == expected
            mean[kind, revise] = sum(page.passes for page in found) / len(found)
    assert mean["missing", False] <= 4 and mean["added", False] <= 3 and mean["five missing", False] <= 10
    plainly = sum(map(len, expected)) / len(expected)
    assert all(passes <= plainly / 3 for passes in mean.values()), mean


def test_long_wrong_page_is_compacted_and_still_equal() -> None:
    images = [image(seed, 4) for seed in range(50, 54)]
    expected = [plain("dense", features, 150) for features in images]
    references = [planted(right, range(3, 150, 9)) for right in expected]
    references[0] = expected[0]
    found = read("dense", [drafted("dense", f, r, 150) for f, r in zip(images, references, strict=True)])
    assert [list(page.ids) for page in found] == expected
    assert found[0].passes == 1 and max(page.passes for page in found) > 10


def test_default_limit_leaves_room_beyond_the_reference() -> None:
    assert drafted("dense", image(0, 4), [11] * 100, None).limit == 157
    (page,) = read("dense", [drafted("dense", image(0, 4), [], None)])
    assert len(page.ids) == 32 and page.cut is not None and page.cut.reason == "length"
    assert list(page.ids) == plain("dense", image(0, 4), 32)


def test_loop_is_cut_and_named() -> None:
    features, length = image(0, 4), 220
    greedy = plain("gemma", features, length)
    (page,) = read("gemma", [drafted("gemma", features, greedy[:12], length, watches=(LoopWatch(greedy[:12]),))])
    assert page.stopped == "early" and page.cut is not None and page.cut.reason == "loop" and "period 2" in page.cut.detail
    assert list(page.ids) == greedy[: len(page.ids)] and 64 <= len(page.ids) < 100
    assert page.passes < 20  # its own repetition is drafted
    (free,) = read("gemma", [drafted("gemma", features, greedy, length, watches=(LoopWatch(greedy),))])
    assert list(free.ids) == greedy  # the reference repeats itself too


def text(ids: Sequence[int]) -> str:
    return "".join(chr(200 + token) for token in ids if token != EOS)


@pytest.mark.parametrize("target", [0.5, 0.9, 0.97, 1.0])
def test_early_stop_gives_the_verdict_of_full_decoding(target: float) -> None:
    images = [image(seed, 4) for seed in range(60, 66)]
    right = [plain("dense", features, 64) for features in images]
    references = [right[0], planted(right[1], [60]), planted(right[2], [5]), planted(right[3], range(2, 64, 5))]
    references += [right[4][::-1], right[5][:20]]
    texts = [text(reference) for reference in references]
    full = read("dense", [drafted("dense", f, r, 64) for f, r in zip(images, references, strict=True)])
    stopping = [
        drafted("dense", f, r, 64, watches=(EarlyStop(t, target, text, stride=4),))
        for f, r, t in zip(images, references, texts, strict=True)
    ]
    stopped = read("dense", stopping)
    complete = judge(texts, [text(page.ids) for page in full], full, target_precision=target)
    early = judge(texts, [text(page.ids) for page in stopped], stopped, target_precision=target)
    assert any(verdict.reason == "early_stop" for verdict in early)
    for long, short in zip(complete, early, strict=True):
        assert (long.precision >= target) == (short.precision >= target)
        if short.reason == "early_stop":
            assert short.status == "below_target" and long.precision <= short.precision < target
        else:
            assert short == long


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(prompt_ids=[0, IMAGE, 7]), "1 image ids for 4 visual tokens"),
        (dict(draft_ids=[11, IMAGE]), "image id 3"),
        (dict(max_new_tokens=0), "max_new_tokens is 0"),
    ],
)
def test_bad_pages_are_refused(change: dict[str, object], message: str) -> None:
    page = DraftedPage(**{**dict(features=image(0, 4), prompt_ids=prompt(4), draft_ids=[11]), **change})
    with pytest.raises(ValueError, match=message):
        decode(tiny("dense"), [page])


def test_layers_that_masks_cannot_express_are_refused() -> None:
    model = unlimited()
    model.config.text_config.layer_types = ["full_attention", "chunked_attention"]
    with pytest.raises(ValueError, match="chunked_attention"):
        decode(Tiny(model, {EOS}), [drafted("dense", image(0, 4), [11])])
    assert decode(tiny("dense"), []) == []
