"""`Codec`: page images -> visual tokens -> what a decoder reads, for any architecture that takes `mm_encoder_outputs`.

*Tokens* are what is stored: the encoder's rows for one page, `[num_vision_tokens, dim]`. *Features* are what the decoder gets,
`[num_context_tokens, dim]`: the tokens and the newline and separator rows, which are constants of the checkpoint. Both are
bfloat16, and features equal `get_image_features(…).pooler_output` of a bfloat16 model bit for bit, or up to rounding where the
fast encoder takes the place of transformers' (`codecs.fast`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib import import_module
from math import isqrt
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from palimpsest.codecs.checkpoint import Checkpoint, Parts, load_checkpoint
from palimpsest.codecs.dialects import Dialect, find_dialect
from palimpsest.codecs.families import deeper_layers, family_of, image_brackets
from palimpsest.codecs.image_encoder import Fast, ImageEncoder
from palimpsest.codecs.modes import Mode, find_mode
from palimpsest.codecs.presets import CodecPreset, find_preset, image_statistics
from palimpsest.codecs.prompting import Brackets, Prompting, prompt_around
from palimpsest.codecs.target import PlainTarget, TargetFormat, named_target, read_tokenizer
from palimpsest.errors import UsageError


class Codec:
    """An encoder and the decoder that reads its tokens: one checkpoint at one revision.

    Attributes:
        id, revision: the columns `codec` and `codec_revision`.
        modes: the resolutions it knows.
        token_dim: width of a token.
        model: the transformers model; a half that was not loaded is None in it.
        encoder: images -> tokens.
        image_token_id: stands for one visual token in a prompt.
        eos_ids: ids that end the output.
        bidirectional_images: visual tokens of one image see each other in the decoder.
    """

    def __init__(self, preset: CodecPreset, checkpoint: Checkpoint, fast: Fast = "auto") -> None:
        self.preset, self.checkpoint = preset, checkpoint
        self.model: Any = checkpoint.model
        self.id, self.revision = checkpoint.id, checkpoint.revision
        self.config = self.model.config
        self.family = family_of(self.config)
        text = self.config.get_text_config()
        self.layers = 1 + deeper_layers(self.config)
        self.token_dim: int = text.hidden_size * self.layers
        self.image_token_id: int = self.config.image_token_id
        self.eos_ids = _eos_ids(self.model)
        self.bidirectional_images = self.family.bidirectional_images
        self.encoder = ImageEncoder(self.id, self.model, self.family, self._image_statistics(), fast)
        self._container = self.family.container
        self._forget_generation_settings()
        self.modes = preset.modes or self.family.modes(self.config) or (self._measured_mode(),)

    @property
    def device(self) -> torch.device:
        return self.model.device

    def mode(self, name: str) -> Mode:
        """The codec's mode of that name.

        Raises:
            ValueError: when it has none, with the choices.
        """
        return find_mode(name, self.modes)

    # images -> tokens -> features

    def encode(self, images: np.ndarray, mode: Mode) -> Tensor:
        """Visual tokens of page images; see `ImageEncoder.encode` for shapes and errors."""
        return self.encoder.encode(images, mode)

    def features(self, tokens: Tensor, mode: Mode) -> list[Tensor]:
        """The decoder's input for stored tokens: the constant rows put back.

        Args:
            tokens: bfloat16 `[n, mode.num_vision_tokens, token_dim]`.

        Returns:
            n tensors, bfloat16 `[mode.num_context_tokens, token_dim]`, on the codec's device.

        Raises:
            ValueError: for tokens of another mode or codec.
        """
        if tokens.shape[1:] != (mode.num_vision_tokens, self.token_dim):
            own = f"[n, {mode.num_vision_tokens}, {self.token_dim}]"
            raise UsageError(f"tokens are {list(tokens.shape)}, codec {self.id!r} in mode {mode.name!r} has {own}")
        rows = tokens.to(self.device)
        base = self.model.base_model
        if self.family.newline:
            newlines = base.image_newline.to(rows.dtype).expand(len(rows), mode.grid, 1, -1)
            rows = torch.cat([rows.unflatten(1, (mode.grid, mode.grid)), newlines], dim=2).flatten(1, 2)
        if self.family.separator:
            rows = torch.cat([rows, base.view_separator.to(rows.dtype).expand(len(rows), 1, -1)], dim=1)
        return list(rows)

    # what the decoder is asked and answers

    @cached_property
    def dialect(self) -> Dialect:
        """The markup that this codec's decoder writes around the text."""
        return find_dialect(self.preset.dialect)

    @cached_property
    def target(self) -> TargetFormat:
        """How this codec's decoder writes a page.

        Raises:
            ValueError: when the checkpoint has no tokenizer.json and the preset no format of its own.
        """
        if self.preset.target:
            return named_target(self.preset.target)
        start, end = image_brackets(self.config)
        tokenizer, directory = read_tokenizer(self.checkpoint.directory), self.checkpoint.directory
        brackets = Brackets(start, self.image_token_id, end)
        around = prompt_around(tokenizer, directory, self.preset, brackets, self.config.get_text_config().bos_token_id)
        return PlainTarget(tokenizer, around, image_token_id=self.image_token_id, eos_id=min(self.eos_ids))

    def prompt_ids(self, mode: Mode, grid: tuple[int, int]) -> list[int]:
        """Prompt for a page of `grid = (columns, rows)` cells, with `mode.num_context_tokens` image ids."""
        return self.target.prompt(*grid, mode)

    def encode_text(self, text: str, mode: Mode, grid: tuple[int, int]) -> list[int]:
        """Ids that the decoder should write for `text` on a page of `grid = (columns, rows)` cells, end-of-sequence included."""
        return self.target.encode(text, *grid, mode)

    def conventions(self, text: str, mode: Mode, grid: tuple[int, int]) -> list[list[int]]:
        """Ids for `text` in the other conventions in which this decoder may write it, for `DraftedPage.conventions`."""
        return [self.target.encode(other, *grid, mode) for other in self.dialect.conventions(text)]

    def decode_ids(self, ids: Sequence[int]) -> str:
        """The text that written ids spell."""
        return self.target.decode(ids)

    def read_cells(self, tokens: Tensor, grid: tuple[int, int]) -> list[list[int]]:
        """The ids that the codec's cell reader reads: all cells of each page in one pass, for `decode_ids`.

        Args:
            tokens: bfloat16 `[n, num_vision_tokens, token_dim]`, as stored.

        Raises:
            ValueError: when the codec has no cell reader.
        """
        return self._reader.read(tokens.to(self.device), *grid)

    def sensitivity(self, tokens: Tensor, grid: tuple[int, int]) -> np.ndarray | None:
        """What an error in a token costs the codec's cell reader, float64 `[token_dim, token_dim]`; None where it has none.

        Args:
            tokens: bfloat16 `[n, num_vision_tokens, token_dim]` of pages of this grid.
        """
        try:
            reader = self._reader
        except UsageError:
            return None
        return np.asarray(reader.sensitivity(tokens.to(self.device), *grid).numpy())

    @cached_property
    def _reader(self) -> Any:
        if not self.preset.reader:
            raise UsageError(f"verification.reader = 'cells': codec {self.id!r} has no cell reader; choose 'generative'")
        module, _, name = self.preset.reader.partition(":")
        return getattr(import_module(module), name)(self.checkpoint.directory, self.model.dtype, self.device)

    def image_inputs(self, features: list[Tensor]) -> dict[str, Any]:
        """Features of several pages as an argument of `model.forward` and `model.generate`."""
        if self.layers > 1:  # deeper features of the image come beside its tokens
            width = self.config.get_text_config().hidden_size
            tokens, *deeper = zip(*(rows.split(width, dim=1) for rows in features), strict=True)
            output: Any = SimpleNamespace(pooler_output=list(tokens), deepstack_features=[list(layer) for layer in deeper])
            return {"mm_encoder_outputs": {"image": output}}
        pooled: Any = torch.cat(features) if self._container == "tensor" else features
        return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=pooled)}}

    def decoder_inputs(self, features: list[Tensor], prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Arguments of `model.forward` and `model.generate` for a ragged batch, padded on the left.

        Args:
            features: one per page, `[T_i, token_dim]`; pages of different modes may be mixed where the architecture takes a list.
            prompts: ids, each with exactly T_i image ids.

        Raises:
            ValueError: when image ids and features do not match, naming the page.
        """
        for number, (rows, prompt) in enumerate(zip(features, prompts, strict=True)):
            if (count := list(prompt).count(self.image_token_id)) != len(rows):
                raise UsageError(f"prompt {number} holds {count} image ids for {len(rows)} visual tokens")
        width = max(map(len, prompts))
        ids = torch.tensor([[self._pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=self.device)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=self.device)
        where = self.family.text_inputs(ids, ids == self.image_token_id, [len(rows) for rows in features], self.config)
        return {"input_ids": ids, "attention_mask": mask, **where, **self.image_inputs(features)}

    def positions(self, prompt: Sequence[int]) -> Tensor | None:
        """Rotary positions `[axes, len(prompt)]` of a prompt with one image; None where the architecture has one axis."""
        if not self.family.axes:
            return None
        ids = torch.tensor([list(prompt)], device=self.device)
        image = ids == self.image_token_id
        where = self.family.text_inputs(ids, image, [int(image.sum())], self.config)
        return self.model.base_model.get_rope_index(ids, **where)[0][:, 0]

    @torch.no_grad()
    def generate(self, features: list[Tensor], prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        """Plain greedy decoding, one forward pass per token: what verification must equal. No bans, penalties or sampling.

        Returns:
            the written ids of each page, the end-of-sequence id last where it was reached.
        """
        written: list[list[int]] = [[] for _ in prompts]
        for group in self._batches(prompts):
            inputs = self.decoder_inputs([features[page] for page in group], [prompts[page] for page in group])
            ids = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)[:, inputs["input_ids"].shape[1] :]
            for page, row in zip(group, ids.tolist(), strict=True):
                written[page] = _until_end(row, self.eos_ids)
        return written

    def _batches(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Pages that may be padded to one batch: all, unless the decoder has reference sliding windows.

        transformers 5.23 counts padding as part of their reference, so that a padded page reads differently than alone.
        """
        layers = getattr(self.config.get_text_config(), "layer_types", None) or ()
        if "reference_sliding_attention" not in layers:
            return [list(range(len(prompts)))]
        groups: dict[int, list[int]] = {}
        for page, prompt in enumerate(prompts):
            groups.setdefault(len(prompt), []).append(page)
        return list(groups.values())

    # what the checkpoint says about itself

    @torch.no_grad()
    def _measured_mode(self) -> Mode:
        """The one mode of an architecture that `families` does not know: one white page of its configured size is encoded."""
        px = getattr(self.config.vision_config, "image_size", None)
        if not isinstance(px, int):
            raise UsageError(
                f"model_type {self.config.model_type!r}: its image size cannot be found; add it to codecs/families.py"
            )
        rows = self.encoder.image_rows(np.full((1, px, px), 255, np.uint8))
        self._container = "tensor" if isinstance(rows, Tensor) else "list"
        count = len(rows[0])
        return Mode("base", px, isqrt(count), count, count)

    def _image_statistics(self) -> tuple[Sequence[float], Sequence[float]]:
        mean, std = self.preset.image_mean, self.preset.image_std
        return image_statistics(self.checkpoint.directory) if mean is None or std is None else (mean, std)

    @property
    def _pad_id(self) -> int:
        pad = self.config.get_text_config().pad_token_id
        return pad if pad is not None and pad != self.image_token_id else min(self.eos_ids)

    def _forget_generation_settings(self) -> None:
        """n-gram bans, penalties and sampling of generation_config.json would change what is read."""
        self.model.generation_config = GenerationConfig(eos_token_id=sorted(self.eos_ids), pad_token_id=self._pad_id)


def load_codec(
    name: str | CodecPreset,
    path: str | Path | None = None,
    *,
    revision: str | None = None,
    content_hash: str | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: str = "cpu",
    parts: Parts = "both",
    trust_remote_code: bool = False,
    fast: Fast = "auto",
    prompting: Prompting | None = None,
) -> Codec:
    """The codec called `name` (or of a preset), ready to use, its decoder asked as `asking` says.

    See `load_checkpoint`, `Prompting` and `Codec` for the arguments and errors.
    """
    preset = (prompting or Prompting()).of(find_preset(name) if isinstance(name, str) else name)
    checkpoint = load_checkpoint(
        preset,
        path,
        revision=revision,
        content_hash=content_hash,
        dtype=dtype,
        device=device,
        parts=parts,
        trust_remote_code=trust_remote_code,
    )
    return Codec(preset, checkpoint, fast)


def _until_end(ids: list[int], eos_ids: set[int]) -> list[int]:
    end = next((index for index, token in enumerate(ids) if token in eos_ids), len(ids) - 1)
    return ids[: end + 1]


def _eos_ids(model: PreTrainedModel) -> set[int]:
    """From generation_config.json, or else from the decoder's configuration."""
    generation = getattr(model, "generation_config", None)
    for holder in (generation, model.config.get_text_config(), model.config):
        eos = getattr(holder, "eos_token_id", None)
        if eos is not None:
            return {eos} if isinstance(eos, int) else set(eos)
    raise UsageError(f"model_type {model.config.model_type!r}: no eos_token_id in generation_config.json or config.json")
