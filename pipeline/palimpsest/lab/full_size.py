"""A codec of full DeepSeek-OCR size with random weights: nothing has to be downloaded to measure how fast it is.

Its output head is made of its own embeddings in another order, so that every token has a successor that wins by far more than
rounding: what it writes is then the same in bfloat16 however it is computed, and a chain that never repeats. How long a pass
takes does not depend on what is written.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import UnlimitedOcrConfig, UnlimitedOcrForConditionalGeneration

from palimpsest.codecs.adapter import Codec
from palimpsest.codecs.checkpoint import Checkpoint
from palimpsest.codecs.modes import Mode
from palimpsest.codecs.presets import find_preset

FIRST_ID = 16  # ids below are special
STRIDE = 7919  # from a token to its successor; a prime, so that the chain passes all tokens


def full_config() -> UnlimitedOcrConfig:
    """DeepSeek-OCR v1 (arXiv 2510.18234): SAM-base, CLIP-L, DeepSeek-3B-MoE of 12 layers, 64 experts, 6 of them active."""
    return UnlimitedOcrConfig(text_config={"layer_types": ["full_attention"] * 12})


def tiny_config() -> UnlimitedOcrConfig:
    """The same architecture, small enough for a test."""
    sam: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "mlp_dim": 64,
        "output_channels": 16,
    }
    sam |= {"global_attn_indexes": [2], "downsample_channels": [16, 32]}
    mixer = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text: dict[str, Any] = {
        "vocab_size": 1024,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text |= {"num_key_value_heads": 2, "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    text |= {"layer_types": ["full_attention"] * 2}
    return UnlimitedOcrConfig(vision_config={"sam_config": sam, "encoder_config": mixer}, text_config=text, image_token_id=3)


def random_codec(config: UnlimitedOcrConfig, device: str, dtype: torch.dtype, seed: int = 0) -> Codec:
    """A codec with weights drawn on `device`."""
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = UnlimitedOcrForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    model.requires_grad_(False).eval()
    embeddings: Any = model.get_input_embeddings().weight
    head: Any = model.get_output_embeddings().weight
    for name, weight in model.named_parameters():
        if weight.ndim > 1 or "newline" in name or "separator" in name:
            weight.normal_(std=0.02)
    embeddings.normal_()
    head.zero_()
    order = torch.arange(_chain(config), device=device)
    head[_ids(config, (order + STRIDE) % len(order))] = embeddings[_ids(config, order)]
    preset = replace(find_preset("deepseek-ocr"), name="random weights", repo_id=None, revision=None)
    return Codec(preset, Checkpoint(model, preset.name, f"seed {seed}", "", Path()))


def prompt(codec: Codec, mode: Mode, page: int) -> list[int]:
    """Image ids between a beginning and a question that differs from page to page."""
    bos = codec.config.text_config.bos_token_id
    first = _ids(codec.config, torch.tensor([page * 31 % _chain(codec.config)]))
    return [bos, *[codec.image_token_id] * mode.num_context_tokens, *first.tolist()]


def chain(codec: Codec, prompt_ids: list[int], count: int) -> list[int]:
    """The `count` ids that the codec writes after a prompt."""
    size = _chain(codec.config)
    place = torch.arange(size)[_ids(codec.config, torch.arange(size)) == prompt_ids[-1]]
    return _ids(codec.config, (place + STRIDE * torch.arange(1, count + 1)) % size).tolist()  # type: ignore[no-any-return]


def useful_flop(config: Any, px: int) -> dict[str, float]:
    """Floating-point operations that a page of `px` pixels needs: two for each multiplication, products and attentions only.

    Windows count without padding, the patch embedding with one channel; norms, activations and position terms do not count.
    """
    sam, mixer = config.vision_config.sam_config, config.vision_config.encoder_config
    side = px // sam.patch_size
    positions, tokens, width = side**2, side**2 // 16 + 1, sam.hidden_size
    dense = positions * sam.num_hidden_layers * (4 * width**2 + 2 * width * sam.mlp_dim) + positions * sam.patch_size**2 * width
    whole = len(set(sam.global_attn_indexes) & set(range(sam.num_hidden_layers)))
    window = sum(min(sam.window_size, side - start) ** 2 for start in range(0, side, sam.window_size))
    across = sum(min(sam.window_size, side - start) for start in range(0, side, sam.window_size))
    assert across == side
    attention = 2 * width * (whole * positions**2 + (sam.num_hidden_layers - whole) * window**2)
    neck = positions * (width * sam.output_channels + 9 * sam.output_channels**2)
    narrow, wide = sam.downsample_channels
    convolutions = 9 * (positions // 4 * sam.output_channels * narrow + positions // 16 * narrow * wide)
    second = tokens * mixer.num_hidden_layers * (4 * mixer.hidden_size**2 + 2 * mixer.hidden_size * mixer.intermediate_size)
    second += 2 * mixer.num_hidden_layers * tokens**2 * mixer.hidden_size
    projection = (tokens - 1) * (wide + mixer.hidden_size) * config.text_config.hidden_size
    parts: dict[str, float] = {
        "sam_layers": dense,
        "sam_attention": attention,
        "neck": neck + convolutions,
        "second": second + projection,
    }
    return {name: 2.0 * value for name, value in parts.items()}


def _chain(config: Any) -> int:
    """Tokens in the chain: all but the special ones and the image's, and a number that STRIDE does not divide."""
    size: int = config.text_config.vocab_size - FIRST_ID - 1
    return size - (size % STRIDE == 0)


def _ids(config: Any, positions: torch.Tensor) -> torch.Tensor:
    """Ids at positions of the chain; the image's is left out."""
    ids = positions + FIRST_ID
    return ids + (ids >= config.image_token_id) * (config.image_token_id >= FIRST_ID)
