"""A random checkpoint of the embedded kind, small enough for every test: it reads nothing, but it always reads the same."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import UnlimitedOcrConfig, UnlimitedOcrForConditionalGeneration

from palimpsest.codecs.embedded.vocabulary import BOS, EOS, FIRST_CELL, IMAGE, PADDING, SYMBOLS, vocabulary_size

DIM = 32


def write_tiny_codec(directory: Path, seed: int = 0) -> Path:
    """Write a checkpoint that `codec.name = "embedded"` loads with `codec.path = directory`; returns the directory."""
    sam = {
        "hidden_size": 16,
        "output_channels": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 512,
        "patch_size": 16,
        "window_size": 8,
        "global_attn_indexes": (),
        "mlp_dim": 16,
        "downsample_channels": (8, 16),
    }
    mixer = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 112,
        "patch_size": 14,
    }
    decoder = {
        "vocab_size": vocabulary_size(),
        "hidden_size": DIM,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "mlp_layer_types": ["dense"] * 2,
        "layer_types": ["full_attention"] * 2,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PADDING,
    }
    torch.manual_seed(seed)
    model = UnlimitedOcrForConditionalGeneration(
        UnlimitedOcrConfig(vision_config={"sam_config": sam, "encoder_config": mixer}, text_config=decoder, image_token_id=IMAGE)
    )
    for weight in model.parameters():  # wide enough that what is written depends on the page and varies
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3)
    model.get_input_embeddings().weight.data.normal_()
    head = model.get_output_embeddings().weight.data
    head[FIRST_CELL + len(SYMBOLS) :] = head[IMAGE] = 0  # it writes characters
    model.to(torch.bfloat16).save_pretrained(directory)
    return directory


def write_short_codec(directory: Path) -> Path:
    """The same, but it soon ends what it writes, so that verifying a page takes a few passes."""
    from safetensors.torch import load_file, save_file

    write_tiny_codec(directory)
    weights = load_file(directory / "model.safetensors")
    weights["lm_head.weight"][EOS] *= 3
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    return directory
