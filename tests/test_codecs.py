"""Codecs of eleven kinds, tiny and random: pixels -> tokens -> bytes -> tokens -> text, as the models themselves have it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from palimpsest.codecs.adapter import Codec, load_codec
from palimpsest.codecs.modes import MODES, Mode, find_mode
from palimpsest.codecs.presets import PRESETS, CodecPreset, find_preset
from palimpsest.codecs.token_storage import pack, unpack
from tests.codec_zoo import DIM, EOS, IMAGE, SQUARES, ZOO, load, zoo

__all__ = ["zoo"]  # the fixture

every_model = pytest.mark.parametrize("name", ZOO)


def pages(mode: Mode, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, mode.px, mode.px), dtype=np.uint8)


def prompt(codec: Codec, mode: Mode, question: int) -> list[int]:
    return [*codec.prompt_ids(mode, (64, 32)), *range(20, 20 + question)]


def image_features(codec: Codec, images: np.ndarray) -> list[torch.Tensor]:
    """What transformers itself makes of the images."""
    pixels = ((torch.from_numpy(images).float() / 255 - 0.5) / 0.5)[:, None].expand(-1, 3, -1, -1).to(torch.bfloat16)
    with torch.no_grad():
        output = codec.model.get_image_features(**codec.family.vision_inputs(pixels, codec.config), return_dict=True)
    return [
        torch.cat(layers, dim=-1)
        for layers in zip(output.pooler_output, *(getattr(output, "deepstack_features", None) or ()), strict=True)
    ]


@every_model
def test_features_from_stored_tokens_are_those_of_the_model_bit_for_bit(zoo, name) -> None:
    codec = load(zoo, name, fast="off")
    for mode in codec.modes:
        images = pages(mode, 3)
        encoded = codec.encode(images, mode)
        assert encoded.shape == (3, mode.num_vision_tokens, codec.token_dim)
        stored = unpack("bf16", pack("bf16", encoded), mode.num_vision_tokens, codec.token_dim)
        for ours, theirs in zip(codec.features(stored, mode), image_features(codec, images), strict=True):
            assert ours.dtype == torch.bfloat16
            assert torch.equal(ours.view(torch.int16), theirs.view(torch.int16))


@every_model
def test_halves_loaded_apart_read_the_same_text_as_pixels_in_the_whole_model(zoo, name) -> None:
    encoder, decoder, whole = (load(zoo, name, parts=parts, fast="off") for parts in ("encoder", "decoder", "both"))
    mode = whole.modes[-1]
    images = pages(mode, 3)
    stored = unpack("bf16", pack("bf16", encoder.encode(images, mode)), mode.num_vision_tokens, encoder.token_dim)
    questions = (3, 3, 3) if name == "unlimited-ocr" else (3, 0, 7)  # its pixels cannot be padded in transformers
    prompts = [prompt(whole, mode, question) for question in questions]
    read = decoder.generate(decoder.features(stored, mode), prompts, 24)

    inputs = whole.decoder_inputs(image_features(whole, images), prompts)
    del inputs["mm_encoder_outputs"]
    pixels = whole.family.vision_inputs(
        ((torch.from_numpy(images).float() / 255 - 0.5) / 0.5)[:, None].expand(-1, 3, -1, -1).bfloat16(), whole.config
    )
    expected = whole.model.generate(**{**inputs, **pixels}, max_new_tokens=24, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    for ours, theirs in zip(read, expected.tolist(), strict=True):
        assert ours == theirs[: len(ours)]
        assert len(ours) == 24 or ours[-1] == EOS
    assert len(set(map(tuple, read))) == 3
    blank = np.full((3, mode.px, mode.px), 255, np.uint8)
    assert whole.generate(whole.features(whole.encode(blank, mode), mode), prompts, 24) != read


@every_model
def test_one_teacher_forced_pass_agrees_with_step_by_step_decoding(zoo, name) -> None:
    codec = load(zoo, name, dtype=torch.float32)
    mode = codec.modes[0]
    features = codec.features(codec.encode(pages(mode, 2), mode), mode)
    prompts = [prompt(codec, mode, question) for question in (4, 0)]
    length = 5 if name == "unlimited-ocr" else 16  # within the window, where both see the same
    written = codec.generate(features, prompts, length)
    some = [written[0], written[1][:2]]
    inputs = codec.decoder_inputs(features, [[*ask, *ids] for ask, ids in zip(prompts, some, strict=True)])
    with torch.no_grad():
        logits = codec.model(**inputs, use_cache=False).logits
    for rows, ids in zip(logits, some, strict=True):
        assert rows[-len(ids) - 1 : -1].argmax(-1).tolist() == ids


@every_model
def test_a_page_reads_the_same_alone_and_in_a_ragged_batch(zoo, name) -> None:
    codec = load(zoo, name, dtype=torch.float32)
    features, prompts = [], []
    for number, question in enumerate((2, 9, 0)):
        mode = codec.modes[number % len(codec.modes)]
        features += codec.features(codec.encode(pages(mode, 1, seed=number), mode), mode)
        prompts.append(prompt(codec, mode, question))
    alone = [codec.generate([rows], [ids], 12)[0] for rows, ids in zip(features, prompts, strict=True)]
    assert codec.generate(features, prompts, 12) == alone


def test_positions_of_a_prompt_are_those_of_the_model(zoo) -> None:
    codec = load(zoo, "qwen")
    ids = prompt(codec, codec.modes[1], 2)
    positions = codec.positions(ids)
    first = ids.index(IMAGE)
    assert positions.shape == (3, len(ids))
    assert positions[1, first : first + 16].unique().tolist() == [first, first + 1, first + 2, first + 3]
    assert positions[:, -1].tolist() == [len(ids) - 1 - 16 + 4] * 3
    assert load(zoo, "gemma").positions(ids) is None


def test_patches_are_laid_out_as_the_models_own_processor_does(zoo) -> None:
    from PIL import Image
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    codec = load(zoo, "qwen")
    mode = codec.modes[1]
    image = pages(mode, 1)
    half = [0.5] * 3
    processor = Qwen2VLImageProcessorPil(min_pixels=1, max_pixels=mode.px**2, image_mean=half, image_std=half)
    theirs = processor(Image.fromarray(image[0]).convert("RGB"), return_tensors="pt")
    pixels = ((torch.from_numpy(image).float() / 255 - 0.5) / 0.5)[:, None].expand(-1, 3, -1, -1)
    ours = codec.family.vision_inputs(pixels, codec.config)
    assert ours["image_grid_thw"].tolist() == theirs["image_grid_thw"].tolist()
    torch.testing.assert_close(ours["pixel_values"], theirs["pixel_values"], atol=1e-5, rtol=0)


def test_what_does_not_fit_is_refused(zoo) -> None:
    codec = load(zoo, "deepseek-ocr")
    tiny, small = codec.modes
    with pytest.raises(ValueError, match=r"uint8 \[2, 128, 128\], mode 'tiny' takes uint8 \[n, 64, 64\]"):
        codec.encode(pages(small, 2), tiny)
    encoded = codec.encode(pages(tiny, 2), tiny)
    with pytest.raises(ValueError, match=r"mode 'small' has \[n, 4, 32\]"):
        codec.features(encoded, small)
    with pytest.raises(ValueError, match="prompt 1 holds 7 image ids for 3 visual tokens"):
        codec.generate(codec.features(encoded, tiny), [prompt(codec, tiny, 0), prompt(codec, small, 0)], 2)
    for fast, found in (("on", "gives 1 tokens in mode 'wrong', which promises 4"), ("off", "gives 3 rows .* promises 9")):
        with pytest.raises(ValueError, match=found):
            load(zoo, "deepseek-ocr", fast=fast).encode(pages(tiny, 1), Mode("wrong", 64, 2, 4, 9))
    assert codec.encode(pages(tiny, 0), tiny).shape == (0, 1, DIM)


def test_text_that_looks_like_a_special_token_is_text(zoo) -> None:
    codec = load(zoo, "qwen")
    mode, grid = codec.modes[0], (64, 32)
    assert codec.prompt_ids(mode, grid)[:7] == [5, *[IMAGE] * 4, 6, 42]
    assert codec.decode_ids(codec.prompt_ids(mode, grid)) == "\nFree OCR."
    text = "an <image>, <eos> two"
    ids = codec.encode_text(text, mode, grid)
    assert ids[-1] == EOS and min(ids[:-1]) > 6
    assert codec.decode_ids([*ids, 9, 9]) == text.replace(",", "?")
    assert load(zoo, "deepseek-ocr").prompt_ids(SQUARES[0], grid)[:5] == [0, IMAGE, IMAGE, IMAGE, 42]


def test_unknown_names_list_the_choices() -> None:
    with pytest.raises(
        ValueError, match="codec.name 'deepseek': choose one of embedded, deepseek-ocr, unlimited-ocr, deepseek-ocr-2, auto"
    ):
        find_preset("deepseek")
    with pytest.raises(ValueError, match="mode 'gundam': choose one of tiny, small, base, large"):
        find_mode("gundam")
    with pytest.raises(ValueError, match="parts 'half': choose one of encoder, decoder, both"):
        load_codec("auto", parts="half")
    with pytest.raises(ValueError, match="exactly once"):
        CodecPreset(name="mine", prompt="Free OCR.")


def test_modes_have_the_papers_numbers() -> None:
    numbers = [(mode.px, mode.num_vision_tokens, mode.num_context_tokens) for mode in MODES.values()]
    assert numbers == [(512, 64, 73), (640, 100, 111), (1024, 256, 273), (1280, 400, 421)]
    assert [preset.modes for preset in PRESETS.values()][1] == tuple(MODES.values())
