"""Attention masks from positions, for layer types whose reach depends on positions alone."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedModel

from palimpsest.errors import UsageError
from palimpsest.verification.packing import Packed, install

LAYER_TYPES = ("full_attention", "sliding_attention", "reference_sliding_attention")
ATTENTION = ("sdpa", "eager")
BY_TYPE = ("unlimited_ocr", "deepseek_ocr2")  # model types whose decoder takes masks by layer type as they are, None for causal
Mask: TypeAlias = Tensor | dict[str, Tensor] | dict[str, None]


class Masks:
    """The masks of one decoder.

    Raises:
        ValueError: masks cannot express the layers or the attention implementation.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config.get_text_config(decoder=True)
        self.types = set(getattr(config, "layer_types", None) or ["full_attention"])
        unknown = sorted(self.types.difference(LAYER_TYPES))
        if unknown:
            name = type(model).__name__
            raise UsageError(f"layer_types of {name} contain {unknown}; drafted decoding can mask {list(LAYER_TYPES)} only")
        attention = config._attn_implementation
        if attention not in ATTENTION:
            raise UsageError(
                f"attn_implementation is {attention!r}; drafted decoding needs masks: choose one of {list(ATTENTION)}"
            )
        self.window = getattr(config, "sliding_window", None)
        self.additive = attention == "eager"
        self.by_type = model.config.model_type in BY_TYPE
        self.dtype = model.dtype
        self.packs = self.by_type and not self.additive  # in those models nothing reads the mask before attention
        if self.packs:
            install()

    def causal(self) -> Mask | None:
        """The argument for "every token sees those before it" in a first pass, padded on the right; None if a mask is needed.

        Without a mask the fastest kernels compute attention, and only over the visible tokens.
        """
        if self.by_type and self.types == {"full_attention"} and not self.additive:
            return {"full_attention": None}
        return None

    def build(self, queries: Tensor, indices: Tensor, prompts: Tensor, blocks: Tensor | None = None) -> Mask:
        """Masks `[rows, 1, queries, columns]`, one per layer type if there are others than full attention.

        Args:
            queries: position of each query, `[rows, n]`. A padding query is at position 0 and sees only the first token, so that
                its values stay finite.
            indices: position of each column, `[columns]`.
            prompts: length of each prompt, `[rows, 1]`.
            blocks: a number for each run of tokens that see each other, −1 elsewhere, `[rows, n]`.
        """
        q, k = queries[:, None, :, None], indices
        full = k <= q
        masks = {"full_attention": full}
        if self.window is not None:
            near = q - k < self.window
            masks["sliding_attention"] = full & near
            masks["reference_sliding_attention"] = full & (near | (k < prompts[:, :, None, None]))
        if blocks is not None:
            together = (blocks[:, None, :, None] == blocks[:, None, None, :]) & (blocks >= 0)[:, None, :, None]
            masks = {name: mask | together for name, mask in masks.items()}
        masks = {name: self._finish(masks[name]) for name in self.types}
        return masks["full_attention"] if self.types == {"full_attention"} and not self.by_type else masks

    def packed(self, queries: Tensor, indices: Tensor, prompts: Tensor, slots: Tensor) -> dict[str, Packed]:
        """`build` for packed tokens; `slots` as in `Packed.indices`."""
        masks = self.build(queries, indices, prompts)
        assert self.packs and isinstance(masks, dict)
        return {name: Packed(mask, slots) for name, mask in masks.items() if mask is not None}

    def _finish(self, allowed: Tensor) -> Tensor:
        if not self.additive:
            return allowed
        lowest = torch.finfo(self.dtype).min
        return torch.zeros(allowed.shape, dtype=self.dtype, device=allowed.device).masked_fill_(~allowed, lowest)
