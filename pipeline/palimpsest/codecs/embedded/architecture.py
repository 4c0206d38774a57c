"""The embedded codec's configuration, and an initialisation from which it learns to read on a CPU.

Small in every direction but one: the visual tokens are wide (512), because one of them holds 32 to 128 characters: 16 patches of
32 channels each, so that the 16x compressor can keep every patch whole.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from palimpsest.codecs.embedded.vocabulary import BOS, EOS, IMAGE, PADDING, vocabulary_size

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import UnlimitedOcrConfig, UnlimitedOcrForConditionalGeneration

TOKEN_DIM = 1024
PATCH_DIM = 256
PATCH_CHANNELS = TOKEN_DIM // 16


def configuration() -> UnlimitedOcrConfig:
    from transformers import UnlimitedOcrConfig

    return UnlimitedOcrConfig(
        vision_config={
            "sam_config": {
                "hidden_size": PATCH_DIM,
                "output_channels": PATCH_CHANNELS,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "image_size": 512,
                "patch_size": 16,
                "window_size": 8,
                "global_attn_indexes": (),
                "mlp_dim": 1024,
                "hidden_act": "quick_gelu",
                "downsample_channels": (4 * PATCH_CHANNELS, TOKEN_DIM),
                "initializer_range": 0.02,
            },
            "encoder_config": {
                "hidden_size": TOKEN_DIM,
                "intermediate_size": 512,
                "num_hidden_layers": 1,
                "num_attention_heads": 16,
                "image_size": 8 * 14,
                "patch_size": 14,
            },
        },
        text_config={
            "vocab_size": vocabulary_size(),
            "hidden_size": TOKEN_DIM,
            "intermediate_size": 768,
            "num_hidden_layers": 3,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "mlp_layer_types": ["dense"] * 3,
            "layer_types": ["full_attention"] * 3,
            "tie_word_embeddings": False,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "pad_token_id": PADDING,
        },
        image_token_id=IMAGE,
        tie_word_embeddings=False,
    )


def fresh_model(seed: int) -> UnlimitedOcrForConditionalGeneration:
    """A model that has learned nothing, float32.

    The compressor begins as a rearrangement: the two strided convolutions take each 4x4 block of patches to one token, channel by
    channel, and the projector passes it on. What is read from a token is then as learnable as what is read from a patch, and the
    mixing encoder only has to improve on it. Position embeddings begin as sinusoids of the page coordinates. The decoder's
    embeddings begin as large as what its layers add, so that an id is not drowned by what it looks at.
    """
    import torch
    from transformers import UnlimitedOcrForConditionalGeneration

    torch.manual_seed(seed)
    model = UnlimitedOcrForConditionalGeneration(configuration())
    tower = model.model.vision_tower
    with torch.no_grad():
        for conv in (tower.sam_encoder.proj.conv1, tower.sam_encoder.proj.conv2):
            channels = conv.weight.shape[1]
            conv.weight.mul_(0.1)
            for index, (dy, dx) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
                conv.weight[index * channels : (index + 1) * channels, :, 1 + dy, 1 + dx] += torch.eye(channels)
        projector = model.model.multi_modal_projector.weight
        projector.mul_(0.25)
        projector[:, TOKEN_DIM:] += torch.eye(TOKEN_DIM)
        positions = tower.vision_encoder.embeddings.position_embedding.weight
        positions[1:] = _sinusoids(8, positions.shape[1]) * 0.3
        decoder = model.model.language_model
        decoder.embed_tokens.weight.mul_(25.0)
        for layer in decoder.layers:
            layer.self_attn.o_proj.weight.mul_(0.4)
            layer.mlp.down_proj.weight.mul_(0.4)
        tower.sam_encoder.pos_embed.copy_((_sinusoids(32, PATCH_DIM) * 0.1).view(1, 32, 32, PATCH_DIM))
    return model


def _sinusoids(side: int, dim: int) -> Tensor:
    """Sines and cosines of page coordinates, `[side * side, dim]`."""
    import torch

    frequencies = torch.logspace(0, math.log10(side), dim // 4) * math.pi / side
    angles = (torch.arange(side) + 0.5)[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], 1)
    y, x = axis[:, None].expand(side, side, -1), axis[None].expand(side, side, -1)
    return torch.cat([y, x], -1).reshape(side * side, dim)
