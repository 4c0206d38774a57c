"""Tiny random checkpoints of eleven kinds, which the tests of codecs load."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    DeepseekOcr2Config,
    DeepseekOcr2ForConditionalGeneration,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GlmOcrConfig,
    GlmOcrForConditionalGeneration,
    GotOcr2Config,
    GotOcr2ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LightOnOcrConfig,
    LightOnOcrForConditionalGeneration,
    PaddleOCRVLConfig,
    PaddleOCRVLForConditionalGeneration,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    UnlimitedOcrConfig,
    UnlimitedOcrForConditionalGeneration,
)

from palimpsest.codecs.adapter import Codec, load_codec
from palimpsest.codecs.modes import Mode
from palimpsest.codecs.presets import CodecPreset, find_preset

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


def qwen3() -> PreTrainedModel:
    """Its decoder reads deeper features of the image in its first layer."""
    rope = dict(rope_type="default", mrope_section=[2, 3, 3], rope_theta=1e4)
    vision = {**PATCHED, "deepstack_visual_indexes": [0], "num_position_embeddings": 16}
    text = {**TEXT, "rope_parameters": rope, "head_dim": 16}
    config = Qwen3VLConfig(vision_config=vision, text_config=text, vision_start_token_id=5, vision_end_token_id=6, **SPECIAL)
    return Qwen3VLForConditionalGeneration(config)


def paddle() -> PreTrainedModel:
    rope = dict(rope_type="default", mrope_section=[2, 3, 3], rope_theta=1e4)
    vision = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, image_size=56, patch_size=14)
    config = PaddleOCRVLConfig(
        vision_config=vision,
        text_config={**TEXT, "rope_parameters": rope, "head_dim": 16},
        vision_start_token_id=5,
        vision_end_token_id=6,
        **SPECIAL,
    )
    return PaddleOCRVLForConditionalGeneration(config)


def internvl() -> PreTrainedModel:
    vision = dict(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, image_size=[56, 56], patch_size=[14, 14]
    )
    config = InternVLConfig(
        vision_config=vision, text_config={**TEXT, "model_type": "qwen2"}, image_token_id=IMAGE, image_seq_length=4
    )
    return InternVLForConditionalGeneration(config)


def got_ocr() -> PreTrainedModel:
    vision = dict(
        hidden_size=16,
        output_channels=8,
        num_hidden_layers=2,
        num_attention_heads=1,
        image_size=256,
        patch_size=16,
        window_size=2,
    )
    vision |= dict(global_attn_indexes=[1], mlp_dim=16)
    config = GotOcr2Config(
        vision_config=vision, text_config={**TEXT, "model_type": "qwen2"}, image_token_index=IMAGE, image_seq_length=16
    )
    return GotOcr2ForConditionalGeneration(config)


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
    "qwen3": (qwen3, replace(AUTO, modes=(tokens("tiny", 64, 4), tokens("small", 128, 16)))),
    "paddleocr": (paddle, replace(AUTO, modes=MERGED)),
    "internvl": (internvl, AUTO),
    "got-ocr": (got_ocr, AUTO),
}


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


def load(zoo: Callable[[str], Path], name: str, **options: object) -> Codec:
    return load_codec(ZOO[name][1], zoo(name), **options)
