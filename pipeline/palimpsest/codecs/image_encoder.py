"""Page images -> visual tokens: the fast encoder where the architecture fits, else the encoder of transformers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from palimpsest.codecs.families import Family, deeper_layers
from palimpsest.codecs.fast.deepencoder import DeepEncoder, unfit
from palimpsest.codecs.fast.runner import FastEncoder, probe_page
from palimpsest.codecs.modes import Mode
from palimpsest.errors import UsageError

_log = logging.getLogger(__name__)

Fast = Literal["auto", "on", "off"]
LARGEST_ERROR = 0.05  # mean error of the fast encoder's tokens over their mean size; measured in bfloat16: 0.005


class ImageEncoder:
    """The encoder half of a codec.

    Args:
        codec_id: of the codec, for messages.
        model: of transformers; may lack its decoder.
        family: the conventions of the architecture.
        statistics: mean and standard deviation of each channel, on pixels scaled to 0..1.
        fast: "auto" takes the fast encoder where the architecture fits, "on" refuses where it does not, "off" never takes it.

    Raises:
        ValueError: for another value of `fast`.
    """

    def __init__(
        self, codec_id: str, model: Any, family: Family, statistics: tuple[Sequence[float], Sequence[float]], fast: Fast
    ) -> None:
        if fast not in get_args(Fast):
            raise UsageError(f"codec.fast = {fast!r}: choose one of {', '.join(get_args(Fast))}")
        self.codec_id, self.model, self.family, self.statistics, self.fast = codec_id, model, family, statistics, fast
        self.token_dim: int = model.config.get_text_config().hidden_size * (1 + deeper_layers(model.config))

    @torch.no_grad()
    def encode(self, images: np.ndarray, mode: Mode) -> Tensor:
        """Visual tokens of page images.

        Args:
            images: gray, uint8 `[n, px, px]`, white is 255; all of `mode`.

        Returns:
            bfloat16 `[n, mode.num_vision_tokens, token_dim]` on the model's device, without newline and separator rows.

        Raises:
            ValueError: for another dtype or size, or a mode in which the model gives another number of tokens.
        """
        if images.dtype != np.uint8 or images.shape[1:] != (mode.px, mode.px):
            raise UsageError(
                f"images are {images.dtype} {list(images.shape)}, mode {mode.name!r} takes uint8 [n, {mode.px}, {mode.px}]"
            )
        if not len(images):
            return torch.empty(0, mode.num_vision_tokens, self.token_dim, dtype=torch.bfloat16, device=self.model.device)
        if encoder := self._trusted_encoder(mode):
            tokens = encoder.encode(images, mode.px).to(torch.bfloat16)
            self._expect(tokens.shape[1], mode.num_vision_tokens, "tokens", mode)
            return tokens
        return self.plain_tokens(images, mode)

    @torch.no_grad()
    def plain_tokens(self, images: np.ndarray, mode: Mode) -> Tensor:
        """The same from the encoder of transformers."""
        rows = torch.stack(list(self.image_rows(images)))
        self._expect(rows.shape[1], mode.num_context_tokens, "rows", mode)
        if self.family.separator:
            rows = rows[:, :-1]
        if self.family.newline:
            rows = rows.unflatten(1, (mode.grid, mode.grid + 1))[:, :, :-1].flatten(1, 2)
        return rows.to(torch.bfloat16)

    def image_rows(self, images: np.ndarray) -> Sequence[Tensor]:
        """`get_image_features(…).pooler_output` of gray images `[n, px, px]`: one `[rows, token_dim]` per image."""
        pixels = self.pixel_table[:, torch.from_numpy(images).to(self.model.device).int()].transpose(0, 1)
        output = self.model.get_image_features(**self.family.vision_inputs(pixels, self.model.config), return_dict=True)
        deeper = getattr(output, "deepstack_features", None)
        if deeper:  # of Qwen3-VL: its decoder adds them to its first layers, so they are stored with the tokens
            return [torch.cat(layers, dim=-1) for layers in zip(output.pooler_output, *deeper, strict=True)]
        return output.pooler_output

    @cached_property
    def pixel_table(self) -> Tensor:
        """Normalised value of each gray level in each channel, `[3, 256]` in the model's dtype."""
        mean, std = self.statistics
        gray = (torch.arange(256) / 255 - torch.tensor(mean)[:, None]) / torch.tensor(std)[:, None]
        return gray.to(self.model.device, self.model.dtype)

    @cached_property
    def fast_encoder(self) -> FastEncoder | None:
        """The fast encoder, or None where transformers' encodes.

        Raises:
            ValueError: where `fast` is "on" and the architecture does not fit.
        """
        reason = "codec.fast is off" if self.fast == "off" else unfit(self.model)
        if reason is None:
            mean, std = self.statistics
            encoder = FastEncoder(DeepEncoder(self.model, tuple(mean), tuple(std)))
            _log.info("codec %s encodes with the encoder %s", self.codec_id, encoder.description)
            return encoder
        self._give_up(reason)
        return None

    @property
    def description(self) -> str:
        """One line for people: the encoder in use, and why."""
        return encoder.description if (encoder := self.fast_encoder) else f"transformers ({self._plain_reason})"

    def _trusted_encoder(self, mode: Mode) -> FastEncoder | None:
        """The fast encoder, compared with transformers' on one page before its first use in a mode on a GPU.

        A kernel may be wrong on an untested device, and noise looks like tokens.
        """
        encoder = self.fast_encoder
        if encoder is not None and encoder.gpu and mode.px not in encoder.trusted:
            page = probe_page(mode.px)
            error = encoder.trust(page, mode.px, self.plain_tokens(page, mode))
            if error > LARGEST_ERROR:
                self._give_up(f"its tokens differ by {error:.3g} in mode {mode.name!r}, {encoder.description}")
                self.fast_encoder = None
        return self.fast_encoder

    def _give_up(self, reason: str) -> None:
        if self.fast == "on":
            raise UsageError(f"codec.fast = 'on': codec {self.codec_id!r} cannot take the fast encoder: {reason}")
        self._plain_reason = reason
        _log.info("codec %s encodes with transformers: %s", self.codec_id, reason)

    def _expect(self, count: int, promised: int, unit: str, mode: Mode) -> None:
        if count != promised:
            raise UsageError(f"codec {self.codec_id!r} gives {count} {unit} in mode {mode.name!r}, which promises {promised}")
