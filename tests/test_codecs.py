"""Tiny random checkpoints of seven kinds: pixels -> tokens -> bytes -> tokens -> text, and every load that is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    DeepseekOcr2Config,
    DeepseekOcr2ForConditionalGeneration,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GlmOcrConfig,
    GlmOcrForConditionalGeneration,
    LightOnOcrConfig,
    LightOnOcrForConditionalGeneration,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    UnlimitedOcrConfig,
    UnlimitedOcrForConditionalGeneration,
)

from pipeline.codecs.adapter import Codec, load_codec
from pipeline.codecs.checkpoint import CheckpointError, hash_weights, load_checkpoint
from pipeline.codecs.modes import MODES, Mode, find_mode
from pipeline.codecs.presets import PRESETS, CodecPreset, find_preset
from pipeline.codecs.token_storage import pack, unpack

VOCAB, DIM, IMAGE, EOS, PAD = 96, 32, 3, 1, 2
TEXT = dict(
    vocab_size=VOCAB, hidden_size=DIM, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
    bos_token_id=0, eos_token_id=EOS, pad_token_id=PAD,
)  # fmt: skip
EXPERTS = dict(
    n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, n_shared_experts=1, mlp_layer_types=["dense", "sparse"]
)
SAM = dict(
    hidden_size=16, output_channels=8, num_hidden_layers=2, num_attention_heads=1, image_size=64, patch_size=16, window_size=2,
    global_attn_indexes=(1,), mlp_dim=16, downsample_channels=[8, 16],
)  # fmt: skip
CLIP = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, image_size=14, patch_size=14)
PATCHED = dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=1, out_hidden_size=DIM)
SPECIAL = dict(image_token_id=IMAGE, video_token_id=4)


def unlimited(**text: object) -> PreTrainedModel:
    config = UnlimitedOcrConfig(
        vision_config=dict(sam_config=SAM, encoder_config=CLIP), text_config={**TEXT, **EXPERTS, **text}, image_token_id=IMAGE
    )
    return UnlimitedOcrForConditionalGeneration(config)


def deepseek_ocr_2() -> PreTrainedModel:
    encoder = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
    config = DeepseekOcr2Config(
        vision_config=dict(sam_config=SAM, encoder_config=encoder),
        text_config={**TEXT, **EXPERTS, "n_group": 1, "topk_group": 1},
        image_token_id=IMAGE,
    )
    return DeepseekOcr2ForConditionalGeneration(config)


def qwen() -> PreTrainedModel:
    rope = dict(rope_type="default", mrope_section=[2, 3, 3], rope_theta=1e4)
    vision = {**PATCHED, "fullatt_block_indexes": [0]}
    config = Qwen2_5_VLConfig(
        vision_config=vision,
        text_config={**TEXT, "rope_parameters": rope},
        vision_start_token_id=5,
        vision_end_token_id=6,
        **SPECIAL,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def glm_ocr() -> PreTrainedModel:
    rope = dict(rope_type="default", mrope_section=[2, 3, 3], rope_theta=1e4, partial_rotary_factor=1.0)
    config = GlmOcrConfig(
        vision_config=PATCHED,
        text_config={**TEXT, "rope_parameters": rope, "head_dim": 16},
        image_start_token_id=5,
        image_end_token_id=6,
        **SPECIAL,
    )
    return GlmOcrForConditionalGeneration(config)


def gemma() -> PreTrainedModel:
    windows = dict(head_dim=16, sliding_window=12, layer_types=["sliding_attention", "full_attention"])
    vision = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, image_size=56, patch_size=14)
    config = Gemma3Config(
        vision_config=vision,
        text_config={**TEXT, **windows},
        image_token_id=IMAGE,
        boi_token_id=5,
        eoi_token_id=6,
        mm_tokens_per_image=4,
    )
    return Gemma3ForConditionalGeneration(config)


def lighton() -> PreTrainedModel:
    vision = dict(
        model_type="pixtral", hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, head_dim=16,
        image_size=112, patch_size=14,
    )  # fmt: skip
    config = LightOnOcrConfig(
        vision_config=vision,
        text_config={**TEXT, "model_type": "qwen3", "head_dim": 16},
        image_token_id=IMAGE,
        tie_word_embeddings=False,
    )
    return LightOnOcrForConditionalGeneration(config)


def newlines(name: str, px: int) -> Mode:
    side = px // 64
    return Mode(name, px, side, side * side, side * (side + 1) + 1)


def tokens(name: str, px: int, count: int, more: int = 0) -> Mode:
    return Mode(name, px, int(count**0.5), count, count + more)


SQUARES = (newlines("tiny", 64), newlines("small", 128))
MERGED = (tokens("tiny", 56, 4), tokens("small", 112, 16))
AUTO = find_preset("auto")
ZOO: dict[str, tuple[Callable[[], PreTrainedModel], CodecPreset]] = {
    "deepseek-ocr": (lambda: unlimited(layer_types=["full_attention"] * 2), replace(find_preset("deepseek-ocr"), modes=SQUARES)),
    "unlimited-ocr": (lambda: unlimited(sliding_window=6), replace(find_preset("unlimited-ocr"), modes=SQUARES)),
    "deepseek-ocr-2": (deepseek_ocr_2, replace(find_preset("deepseek-ocr-2"), modes=(tokens("base", 128, 144, 1),))),
    "qwen": (qwen, replace(AUTO, modes=MERGED)),
    "glm-ocr": (glm_ocr, replace(AUTO, modes=MERGED)),
    "gemma": (gemma, AUTO),
    "lighton": (lighton, replace(AUTO, modes=MERGED)),
}
every_model = pytest.mark.parametrize("name", ZOO)


def lively(model: PreTrainedModel) -> PreTrainedModel:
    """Weights wide enough that what is written depends on the image and does not repeat."""
    for key, weight in model.named_parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3)
        elif "newline" in key or "separator" in key:
            torch.nn.init.normal_(weight)
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=1.0)
    model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCAB, DIM) * 0.5)
    for weight in (model.lm_head.weight, model.get_input_embeddings().weight):
        weight.data[IMAGE] = 0  # no decoder writes images
    return model


def write_tokenizer(directory: Path) -> None:
    """One id per character, behind the special ones."""
    special = ["<bos>", "<eos>", "<pad>", "<image>", "<video>", "<start>", "<end>"]
    words = [*special, "?", *"abcdefghijklmnopqrstuvwxyz FOCR.<>\n"]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(directory / "tokenizer.json"))


def pretend_v1(directory: Path) -> None:
    """config.json as deepseek-ai/DeepSeek-OCR has it: another model_type, no windows, the decoder under another name."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    text = config.pop("text_config")
    for key in ("layer_types", "sliding_window", "model_type", "mlp_layer_types"):
        text.pop(key, None)
    path.write_text(
        json.dumps({**config, "model_type": "deepseek_vl_v2", "language_config": {**text, "first_k_dense_replace": 1}})
    )


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Checkpoint directories by name, each written once."""
    root = tmp_path_factory.mktemp("zoo")

    def directory(name: str) -> Path:
        path = root / name
        if not path.exists():
            torch.manual_seed(11)
            lively(ZOO[name][0]()).to(torch.bfloat16).save_pretrained(path)
            generation = path / "generation_config.json"
            settings = json.loads(generation.read_text())
            generation.write_text(
                json.dumps({**settings, "eos_token_id": EOS, "no_repeat_ngram_size": 2, "repetition_penalty": 3.0})
            )
            write_tokenizer(path)
            if name == "deepseek-ocr":
                pretend_v1(path)
        return path

    return directory


@pytest.fixture
def copy(zoo: Callable[[str], Path], tmp_path: Path) -> Path:
    """A checkpoint that a test may damage."""
    return Path(shutil.copytree(zoo("deepseek-ocr"), tmp_path / "copy"))


def load(zoo: Callable[[str], Path], name: str, **options: object) -> Codec:
    return load_codec(ZOO[name][1], zoo(name), **options)


def pages(mode: Mode, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, mode.px, mode.px), dtype=np.uint8)


def prompt(codec: Codec, mode: Mode, question: int) -> list[int]:
    return [*codec.prompt_ids(mode, (64, 32)), *range(20, 20 + question)]


def image_features(codec: Codec, images: np.ndarray) -> list[torch.Tensor]:
    """What transformers itself makes of the images."""
    pixels = ((torch.from_numpy(images).float() / 255 - 0.5) / 0.5)[:, None].expand(-1, 3, -1, -1).to(torch.bfloat16)
    with torch.no_grad():
        output = codec.model.get_image_features(**codec.family.vision_inputs(pixels, codec.config), return_dict=True)
    return list(output.pooler_output)


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
    with torch.no_grad():
        logits = codec.forward_logits(features, prompts, [written[0], written[1][:2]])
    assert [len(rows) for rows in logits] == [len(written[0]) + 1, 3]
    for rows, ids in zip(logits, written, strict=True):
        assert rows[:-1].argmax(-1).tolist() == ids[: len(rows) - 1]


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


def test_pixel_statistics_come_from_the_checkpoint_where_the_preset_says_so(copy) -> None:
    (copy / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}))
    stated = load_codec(ZOO["deepseek-ocr"][1], copy)._pixel_table
    found = load_codec(replace(ZOO["deepseek-ocr"][1], image_mean=None), copy)._pixel_table
    assert stated[:, 255].tolist() == [1.0, 1.0, 1.0]
    torch.testing.assert_close(found[:, 255].float(), torch.tensor([3.0, 2.0, 4 / 3]), atol=0.01, rtol=0)


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


def test_loading_half_a_model_leaves_the_other_half_out(zoo) -> None:
    def size(**options: str) -> int:
        return sum(weight.numel() for weight in load(zoo, "deepseek-ocr", **options).model.parameters())

    vision = sum(weight.numel() for weight in load(zoo, "deepseek-ocr").model.model.vision_tower.parameters())
    assert size(parts="decoder") == size(parts="both") - vision
    assert vision < size(parts="encoder") < vision + 2000


def test_unlimited_ocr_keeps_its_windows_and_deepseek_ocr_has_none(zoo) -> None:
    assert load(zoo, "unlimited-ocr").config.text_config.layer_types == ["reference_sliding_attention"] * 2
    assert load(zoo, "deepseek-ocr").config.text_config.layer_types == ["full_attention"] * 2


def rewrite(directory: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = directory / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, {"format": "pt"})


def renamed(weights: dict[str, torch.Tensor], name: str) -> None:
    weights[f"{name[:-2]}{name[-1]}{name[-2]}"] = weights.pop(name)  # weigth


def narrowed(weights: dict[str, torch.Tensor], name: str) -> None:
    weights[name] = weights[name][:-1].contiguous()


@pytest.mark.parametrize(
    ("parts", "weight", "named"),
    [
        ("both", "lm_head.weight", "lm_head.weight"),
        ("both", "model.layers.1.mlp.experts.2.up_proj.weight", "experts.gate_up_proj"),
        ("decoder", "model.layers.0.self_attn.q_proj.weight", "layers.0.self_attn.q_proj.weight"),
        ("encoder", "model.sam_model.blocks.1.attn.qkv.weight", "layers.1.attn.qkv.weight"),
        ("encoder", "model.projector.layers.weight", "multi_modal_projector.weight"),
        ("decoder", "model.image_newline", "image_newline"),
    ],
)
@pytest.mark.parametrize("damage", ["missing", "renamed", "narrowed"])
def test_a_weight_that_is_not_there_is_named(copy, parts, weight, named, damage) -> None:
    changes = {
        "missing": lambda weights: weights.pop(weight),
        "renamed": lambda w: renamed(w, weight),
        "narrowed": lambda w: narrowed(w, weight),
    }
    rewrite(copy, changes[damage])
    with pytest.raises(CheckpointError, match=named.replace(".", r"\.")):
        load_codec(ZOO["deepseek-ocr"][1], copy, parts=parts)


def test_the_published_model_type_would_have_drawn_weights_anew(zoo) -> None:
    with pytest.raises(CheckpointError, match=r"weights missing: .* and \d+ more"):
        load_codec(replace(ZOO["deepseek-ocr"][1], model_type=None), zoo("deepseek-ocr"))


def test_a_half_downloaded_file_is_refused(copy) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_codec(ZOO["deepseek-ocr"][1], copy)


def test_pins_hold(copy, tmp_path) -> None:
    preset = ZOO["deepseek-ocr"][1]
    found = load_checkpoint(preset, copy)
    assert found.id == "deepseek-ocr"
    assert found.revision == f"sha256:{found.content_hash[:16]}" and found.content_hash == hash_weights(copy)
    assert load_checkpoint(preset, copy, revision=found.revision, content_hash=found.content_hash).revision == found.revision
    with pytest.raises(CheckpointError, match=f"codec.content_hash is pinned to {'0' * 64}, but .* holds {found.content_hash}"):
        load_checkpoint(replace(preset, content_hash="0" * 64), copy)
    with pytest.raises(CheckpointError, match="codec.revision is pinned to abc"):
        load_checkpoint(preset, copy, revision="abc")
    rewrite(copy, lambda weights: weights["lm_head.weight"].add_(1))
    assert hash_weights(copy) != found.content_hash

    downloaded = copy / ".cache" / "huggingface" / "download"
    downloaded.mkdir(parents=True)
    (downloaded / "config.json.metadata").write_text("0123abc\netag\n1.0\n")
    assert load_checkpoint(preset, copy, revision="0123abc").revision == "0123abc"
    snapshot = Path(shutil.copytree(copy, tmp_path / "models--x" / "snapshots" / "4567def"))
    with pytest.raises(CheckpointError, match="pinned to 0123abc, but .* holds 4567def"):
        load_checkpoint(preset, snapshot, revision="0123abc")


def test_the_content_hash_is_what_two_shell_commands_print(copy) -> None:
    import subprocess

    rewrite(copy, lambda weights: save_file({"more": torch.ones(2)}, copy / "another.safetensors"))
    printed = subprocess.run(
        f"cd '{copy}' && LC_ALL=C sha256sum *.safetensors | sha256sum", shell=True, capture_output=True, text=True, check=True
    )
    assert hash_weights(copy) == printed.stdout.split()[0]


def test_absent_weights_name_the_command_that_gets_them(tmp_path, monkeypatch, copy) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    command = "hf download deepseek-ai/DeepSeek-OCR --revision 9f30c71f441d010e5429c532364a86705536c53a"
    with pytest.raises(CheckpointError, match=f"{command}`, or `--set codec.path="):
        load_codec("deepseek-ocr")
    with pytest.raises(CheckpointError, match="set codec.path to a folder"):
        load_codec("deepseek-ocr", tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="'auto' has no checkpoint of its own: set codec.path"):
        load_codec("auto")
    (copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no weights \(\*\.safetensors\) in"):
        load_codec("deepseek-ocr", copy)


def test_remote_code_runs_only_when_asked_for(copy) -> None:
    marker = copy / "ran"
    (copy / "configuration_own.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Own: pass\n")
    (copy / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.Own"}}))
    with pytest.raises(CheckpointError, match="no configuration that transformers"):
        load_codec("auto", copy)
    assert not marker.exists()


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
