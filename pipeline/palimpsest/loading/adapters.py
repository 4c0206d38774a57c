"""Batches for decoders: the codec's own model, or any other that takes `inputs_embeds`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from palimpsest.errors import UsageError
from palimpsest.loading.packing import IGNORED, Example

if TYPE_CHECKING:
    from palimpsest.codecs.adapter import Codec


def collate(codec: Codec, examples: Sequence[Example]) -> dict[str, Any]:
    """A batch for the codec's model, padded on the right: `codec.model(**batch)` gives the loss.

    Returns:
        `input_ids`, `attention_mask`, `labels` [n, L], and the features as the codec's forward takes them (`mm_encoder_outputs`,
        positions where the architecture needs them).
    """
    padded = _padded(examples, pad_id=min(codec.eos_ids), device=codec.device)
    features = features_of(codec, examples)
    if not features:
        return padded
    images = padded["input_ids"] == codec.image_token_id
    where = codec.family.text_inputs(padded["input_ids"], images, [len(rows) for rows in features], codec.config)
    return padded | where | codec.image_inputs(features)


def packed_inputs(codec: Codec, batch: dict[str, Any]) -> dict[str, Tensor]:
    """A batch of `Packed`, packed with this codec as tokenizer, for its model: `codec.model(**batch)` gives the loss.

    Returns:
        `inputs_embeds` [n, L, width] with the features in the rows of the images, and, as `packed_embeds`, an additive
        `attention_mask` [n, 1, L, L], `labels` and `position_ids` [n, L].

    Raises:
        UsageError: packed with another tokenizer, or the architecture takes features in more than one layer or positions of
            more than one dimension; `collate` takes those, unpacked.
    """
    modes = [mode for sequence in batch["modes"] for mode in sequence]
    tokens = [rows for sequence in batch["tokens"] for rows in sequence]
    features = [codec.features(rows[None], codec.mode(mode))[0] for rows, mode in zip(tokens, modes, strict=True)]
    ids, places = batch["input_ids"].to(codec.device), batch["visual_mask"].to(codec.device)
    counts = [len(rows) for rows in features]
    if sum(counts) != int(places.sum()):
        raise UsageError(
            f"{int(places.sum())} ids of visual tokens for {sum(counts)} rows: pack with the codec, `packed(length, codec)`"
        )
    if codec.layers > 1 or codec.family.text_inputs(ids, places, counts, codec.config):
        raise UsageError(f"{codec.revision}: this architecture cannot be packed; use collate with single samples")
    embeds = codec.model.get_input_embeddings()(ids)
    if features:
        embeds = _scattered(embeds, places, torch.cat(features).to(embeds.dtype))
    mask = segment_mask(batch["segment_ids"].to(codec.device), embeds.dtype)
    named = {name: batch[name].to(codec.device) for name in ("labels", "position_ids")}
    return {"inputs_embeds": embeds, "attention_mask": mask, **named}


def features_of(codec: Codec, examples: Sequence[Example]) -> list[Tensor]:
    """What the codec's decoder gets for each image of a batch, bfloat16 `[num_context_tokens, dim]`, newline and separator rows
    put back."""
    return [
        codec.features(tokens[None], codec.mode(mode))[0].to(torch.bfloat16)
        for example in examples
        for tokens, mode in zip(example.tokens, example.modes, strict=True)
    ]


def inputs_embeds(
    embed: torch.nn.Module, projector: torch.nn.Module, examples: Sequence[Example], pad_id: int = 0
) -> dict[str, Tensor]:
    """A batch for any decoder: `inputs_embeds` [n, L, width], `attention_mask`, `labels`, `position_ids` [n, L].

    Args:
        embed: the decoder's embedding of ids.
        projector: visual tokens `[T, dim]` -> `[T, width]`; gradients flow to it.

    Raises:
        UsageError: the projector gives another number of rows than the sample has ids for.
    """
    device = next(embed.parameters()).device
    padded = _padded(examples, pad_id=pad_id, device=device)
    images = [(row, *where) for row, example in enumerate(examples) for where in example.images]
    embeds = embed(padded.pop("input_ids"))
    tokens = [rows for example in examples for rows in example.tokens]
    positions = torch.arange(embeds.shape[1], device=device).expand(len(examples), -1)
    filled = _filled(embeds, projector, tokens, images)
    return {"inputs_embeds": filled, **padded, "position_ids": positions}


def packed_embeds(embed: torch.nn.Module, projector: torch.nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
    """The same for a batch of `Packed`, with an additive attention mask [n, 1, L, L] in which samples do not see each other.

    Raises:
        UsageError: as `inputs_embeds`.
    """
    device = next(embed.parameters()).device
    embeds = embed(batch["input_ids"].to(device))
    rows = [tokens for sequence in batch["tokens"] for tokens in sequence]
    places = batch["visual_mask"].to(device)
    if rows:
        embeds = _scattered(embeds, places, torch.cat([_projected(projector, tokens, embeds) for tokens in rows]))
    mask = segment_mask(batch["segment_ids"].to(device), embeds.dtype)
    named = {name: batch[name].to(device) for name in ("labels", "position_ids")}
    return {"inputs_embeds": embeds, "attention_mask": mask, **named}


def segment_mask(segment_ids: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """A causal additive mask [n, 1, L, L]: 0 where an id of the same sample comes before, the lowest number elsewhere. Padding
    sees itself only, so that no row is empty."""
    length = segment_ids.shape[1]
    same = (segment_ids[:, :, None] == segment_ids[:, None, :]) & (segment_ids[:, :, None] > 0)
    causal = torch.ones(length, length, dtype=torch.bool, device=segment_ids.device).tril()
    seen = (same & causal) | torch.eye(length, dtype=torch.bool, device=segment_ids.device)
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def _filled(
    embeds: Tensor, projector: torch.nn.Module, tokens: Sequence[Tensor], images: Sequence[tuple[int, int, int]]
) -> Tensor:
    if not tokens:
        return embeds
    places = torch.zeros(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
    for row, first, count in images:
        places[row, first : first + count] = True
    return _scattered(embeds, places, torch.cat([_projected(projector, rows, embeds) for rows in tokens]))


def _projected(projector: torch.nn.Module, tokens: Tensor, like: Tensor) -> Tensor:
    kind = next((parameter.dtype for parameter in projector.parameters()), like.dtype)
    projected: Tensor = projector(tokens.to(like.device, kind))
    return projected.to(like.dtype)


def _scattered(embeds: Tensor, places: Tensor, rows: Tensor) -> Tensor:
    if rows.shape != (int(places.sum()), embeds.shape[-1]):
        raise UsageError(
            f"the projector gives {list(rows.shape)} for {int(places.sum())} ids of visual tokens of width {embeds.shape[-1]}; a "
            "consumer that has another number of ids per page needs an `image` method of its own"
        )
    return embeds.masked_scatter(places[..., None].expand_as(embeds), rows)


def _padded(examples: Sequence[Example], pad_id: int, device: torch.device) -> dict[str, Tensor]:
    width = max(len(example.ids) for example in examples)

    def rows(name: str, fill: int) -> Tensor:
        padded = [[*getattr(example, name), *[fill] * (width - len(example.ids))] for example in examples]
        return torch.tensor(padded, device=device)

    mask = [[1] * len(example.ids) + [0] * (width - len(example.ids)) for example in examples]
    return {
        "input_ids": rows("ids", pad_id),
        "attention_mask": torch.tensor(mask, device=device),
        "labels": rows("labels", IGNORED),
    }
