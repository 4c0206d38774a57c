"""The inputs of transformers' architectures besides pixels and ids.

`get_image_features` and `mm_encoder_outputs` are the same everywhere; how pixels are laid out, which rows of the output are
constants of the checkpoint, and which extra arguments say where the image lies, is not. One `Family` per convention; adding an
architecture that follows one of them is a line in `FAMILIES`, and an unknown one is tried with plain pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from palimpsest.codecs.modes import MODES, Mode
from palimpsest.errors import UsageError

Arguments = dict[str, Any]


def _plain_pixels(pixels: Tensor, config: PreTrainedConfig) -> Arguments:
    return {"pixel_values": pixels}


def _sized_pixels(pixels: Tensor, config: PreTrainedConfig) -> Arguments:
    return {"pixel_values": pixels, "image_sizes": torch.full((len(pixels), 2), pixels.shape[-1], device=pixels.device)}


def _patches(pixels: Tensor, config: PreTrainedConfig) -> Arguments:
    """Qwen-VL's layout: flat patches `[n * side^2, channels * time * patch^2]`, those of one merged token side by side."""
    vision = config.vision_config
    n, channels, px, _ = pixels.shape
    patch, merge, side = vision.patch_size, vision.spatial_merge_size, px // vision.patch_size
    blocks = pixels.reshape(n, channels, side // merge, merge, patch, side // merge, merge, patch)
    blocks = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)  # n, rows, columns, merge, merge, channels, (time,) patch, patch
    blocks = blocks.expand(-1, -1, -1, -1, -1, -1, vision.temporal_patch_size, -1, -1)
    return {"pixel_values": blocks.reshape(n * side * side, -1), "image_grid_thw": _grid(n, side, pixels.device)}


def _flat_patches(pixels: Tensor, config: PreTrainedConfig) -> Arguments:
    """PaddleOCR-VL's layout: patches `[n * side^2, channels, patch, patch]`, row by row."""
    patch = config.vision_config.patch_size
    n, channels, px, _ = pixels.shape
    side = px // patch
    patches = pixels.reshape(n, channels, side, patch, side, patch).permute(0, 2, 4, 1, 3, 5)
    grid = _grid(n, side, pixels.device)
    return {"pixel_values": patches.reshape(n * side * side, channels, patch, patch), "image_grid_thw": grid}


def _nothing(ids: Tensor, image: Tensor, counts: list[int], config: PreTrainedConfig) -> Arguments:
    return {}


def _grids_and_types(ids: Tensor, image: Tensor, counts: list[int], config: PreTrainedConfig) -> Arguments:
    merge = config.vision_config.spatial_merge_size
    grids = torch.cat([_grid(1, isqrt(count) * merge, ids.device) for count in counts])
    return {"image_grid_thw": grids, "mm_token_type_ids": image.long()}


def _token_types(ids: Tensor, image: Tensor, counts: list[int], config: PreTrainedConfig) -> Arguments:
    return {"token_type_ids": image.long()}


def _grid(n: int, side: int, device: torch.device) -> Tensor:
    return torch.tensor([[1, side, side]], device=device).repeat(n, 1)


def _square(name: str, token_px: int, side: int) -> Mode:
    return Mode(name, token_px * side, side, side * side, side * side)


def _merged_modes(config: PreTrainedConfig) -> tuple[Mode, ...]:
    """DeepSeek's sizes, cut down to whole tokens of merged patches."""
    vision = config.vision_config
    merge = getattr(config, "spatial_merge_size", None) or vision.spatial_merge_size
    token_px = vision.patch_size * merge
    return tuple(_square(mode.name, token_px, mode.px // token_px) for mode in MODES.values())


def _one_mode(config: PreTrainedConfig) -> tuple[Mode, ...]:
    count, px = config.mm_tokens_per_image, config.vision_config.image_size
    return (Mode("base", px, isqrt(count), count, count),)


def _sequence_modes(config: PreTrainedConfig) -> tuple[Mode, ...]:
    """The one size of an architecture that says how many tokens it makes of it."""
    px = config.vision_config.image_size
    count = config.image_seq_length
    return (Mode("base", px if isinstance(px, int) else px[0], isqrt(count), count, count),)


def _unknown_modes(config: PreTrainedConfig) -> tuple[Mode, ...]:
    return ()


@dataclass(frozen=True, kw_only=True)
class Family:
    """The conventions of some architectures.

    Attributes:
        vision_inputs: `(pixels [n, 3, px, px], config)` -> arguments of `get_image_features`.
        text_inputs: `(ids [n, L], image positions [n, L], visual tokens per image, config)` -> more arguments of the decoder.
        modes: resolutions for `config`, where a preset names none; () means that they have to be measured.
        newline: each row of the token grid ends in the constant `image_newline`.
        separator: the image ends in the constant `view_separator`.
        container: how `mm_encoder_outputs` holds several images.
        bidirectional_images: visual tokens of one image see each other in the decoder.
        axes: rotary positions have several axes, from the model's `get_rope_index`.
    """

    vision_inputs: Callable[[Tensor, PreTrainedConfig], Arguments] = _plain_pixels
    text_inputs: Callable[[Tensor, Tensor, list[int], PreTrainedConfig], Arguments] = _nothing
    modes: Callable[[PreTrainedConfig], tuple[Mode, ...]] = _unknown_modes
    newline: bool = False
    separator: bool = False
    container: Literal["list", "tensor"] = "list"
    bidirectional_images: bool = False
    axes: bool = False


_PATCHED = Family(vision_inputs=_patches, text_inputs=_grids_and_types, modes=_merged_modes, axes=True)

FAMILIES = {
    "unlimited_ocr": Family(newline=True, separator=True),
    "deepseek_ocr2": Family(separator=True),
    "qwen2_vl": _PATCHED,
    "qwen2_5_vl": _PATCHED,
    "glm4v": _PATCHED,
    "qwen3_vl": _PATCHED,
    "glm_ocr": _PATCHED,
    "paddleocr_vl": Family(vision_inputs=_flat_patches, text_inputs=_grids_and_types, modes=_merged_modes, axes=True),
    "internvl": Family(modes=_sequence_modes, container="tensor"),
    "got_ocr2": Family(modes=_sequence_modes, container="tensor"),
    "gemma3": Family(text_inputs=_token_types, modes=_one_mode, container="tensor", bidirectional_images=True),
    "lighton_ocr": Family(vision_inputs=_sized_pixels, modes=_merged_modes),
}
UNKNOWN = Family()


def family_of(config: PreTrainedConfig) -> Family:
    """The conventions of the architecture of `config`; plain pixels for an unknown one.

    Raises:
        ValueError: for an unknown architecture whose decoder reads more of the image than its visual tokens.
    """
    if deeper_layers(config) and config.model_type not in FAMILIES:
        raise UsageError(
            f"model_type {config.model_type!r}: its decoder also reads deeper features of the image (deepstack), and where is "
            f"unknown; choose one of {', '.join(FAMILIES)}"
        )
    return FAMILIES.get(config.model_type, UNKNOWN)


def deeper_layers(config: PreTrainedConfig) -> int:
    """Layers of the encoder whose features the decoder reads besides the visual tokens (Qwen3-VL); each is stored with them."""
    return len(getattr(config.vision_config, "deepstack_visual_indexes", None) or ())


def image_brackets(config: PreTrainedConfig) -> tuple[list[int], list[int]]:
    """Ids that the architecture puts before and behind an image in a prompt; empty where it has none."""
    start = _first(config, "vision_start_token_id", "image_start_token_id", "boi_token_index", "boi_token_id")
    end = _first(config, "vision_end_token_id", "image_end_token_id", "eoi_token_index", "eoi_token_id")
    return start, end


def _first(config: PreTrainedConfig, *names: str) -> list[int]:
    return [value for name in names if (value := getattr(config, name, None)) is not None][:1]
