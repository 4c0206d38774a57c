"""Batched, drafted, exact greedy decoding.

One forward pass over [prompt | draft] gives the decoder's argmax after every prefix. Up to the first disagreement the greedy
output *is* the draft (by induction); at the disagreement the model's token is taken, the draft re-aligned, and the next pass
goes on from the cache.

The batch is ragged: every page keeps another number of tokens per pass. So the cache is never cropped. Each of its columns
carries its place in the page's sequence, or −1 where a token was rejected (or is padding); a query at place q sees the columns
at places 0 … q. Columns may stand in any order, which also makes it cheap to drop finished pages and rejected columns once they
are the larger part.

What "exact" means: token for token what `generate(do_sample=False)` without n-gram bans, penalties or suppressed tokens returns,
up to rounding. A pass over many tokens and one over a single token add the same numbers in another order. On small random models
with logits near 6 the two differ by up to 2e-5 in float32, where only a true tie can flip, and by up to 0.15 in bfloat16, where
about one token in 150 did flip; `Decoded.near_ties` counts the tokens where that could happen. There neither result is the more
right one: plain bfloat16 `generate` depends on its batch in the same way. Decode in float32 where equality must be certain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from pipeline.verification.drafting import Drafter
from pipeline.verification.reading import Cut, Decoded, DraftedPage, Stop

HEAD_BYTES = 256 << 20  # of logits held at once
NEAR_TIE = {
    torch.float32: 64
}  # margins within this many rounding steps of the best logit are near ties; measured errors: 28 and …
NEAR_TIE_HALF = 8  # … in half precision, whose sums are kept in float32, 3
LAYER_TYPES = ("full_attention", "sliding_attention", "reference_sliding_attention")
ATTENTION = ("sdpa", "eager")


class Decoder(Protocol):
    """What decoding needs of a codec."""

    @property
    def model(self) -> PreTrainedModel:
        """A `…ForConditionalGeneration` of transformers, in eval mode."""

    @property
    def image_token_id(self) -> int:
        """The id that stands for one visual token in a prompt."""

    @property
    def eos_ids(self) -> set[int]:
        """Ids that end the output."""


ImageInputs = Callable[[list[Tensor]], dict[str, Any]]


def image_list(features: list[Tensor]) -> dict[str, Any]:
    """Stored visual tokens as forward arguments; the list that UnlimitedOcr, Qwen-VL and most architectures expect."""
    return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=features)}}  # type: ignore[arg-type]


def image_tensor(features: list[Tensor]) -> dict[str, Any]:
    """The same as one tensor `[sum T, D]`, for architectures that do not take a list (Gemma 3)."""
    return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=torch.cat(features))}}


@torch.inference_mode()
def decode(
    decoder: Decoder,
    pages: Sequence[DraftedPage],
    *,
    image_inputs: ImageInputs = image_list,
    bidirectional_images: bool = False,
    head_bytes: int = HEAD_BYTES,
) -> list[Decoded]:
    """Greedy output of every page of one batch, in order.

    Args:
        decoder: model and special ids.
        pages: a batch that fits into memory: the first pass is as wide as the longest prompt plus draft.
        image_inputs: how this architecture's forward takes stored visual tokens.
        bidirectional_images: visual tokens of one image see each other (Gemma 3), as the model's own masks do.
        head_bytes: bound of the logits in memory at once; changes nothing else.

    Raises:
        ValueError: for layers or an attention implementation that masks cannot express, a prompt whose image ids do not match its
            visual tokens, an image id in a draft, or a limit below 1.
    """
    if not pages:
        return []
    for number, page in enumerate(pages):
        _check(page, number, decoder)
    batch = _Batch(decoder, pages, bidirectional_images, head_bytes)
    batch.step([[*row.page.prompt_ids, *row.draft] for row in batch.rows], **image_inputs([page.features for page in pages]))
    while any(row.live for row in batch.rows):
        batch.compact()
        batch.step([[row.pending, *row.draft] if row.live else [] for row in batch.rows])
    return [row.result() for row in batch.all_rows]


@dataclass(slots=True)
class _Row:
    """One page's progress."""

    page: DraftedPage
    drafter: Drafter = field(init=False)
    stored: int = 0  # places of the page that the cache holds
    passes: int = 0
    margins: list[float] = field(default_factory=list)
    near: list[bool] = field(default_factory=list)
    stopped: Stop | None = None
    cut: Cut | None = None

    def __post_init__(self) -> None:
        self.drafter = Drafter(self.page.draft_ids)

    @property
    def live(self) -> bool:
        return self.stopped is None

    @property
    def draft(self) -> list[int]:
        return self.drafter.draft[: self.page.limit - len(self.drafter.output) - 1]

    @property
    def pending(self) -> int:
        return self.drafter.output[-1]

    def accept(self, best: list[int], margins: list[float], near: list[bool], eos_ids: set[int]) -> int:
        """Take the model's choices after each drafted prefix; returns how many drafted tokens stay in the cache."""
        draft, self.passes = self.draft, self.passes + 1
        agreed = next((k for k, token in enumerate(draft) if best[k] != token), len(draft))
        taken = best[: agreed + 1]
        end = next((k + 1 for k, token in enumerate(taken) if token in eos_ids), None)
        taken = taken[:end]
        self.margins += margins[: len(taken)]
        self.near += near[: len(taken)]
        self.drafter.accept(taken, agreed)
        output = self.drafter.output
        self.cut = next((cut for watch in self.page.watches if (cut := watch(output))), None)
        if self.cut:
            self.stopped = "early"
        elif end:
            self.stopped = "eos"
        elif len(output) >= self.page.limit:
            self.stopped = "length"
            self.cut = Cut(length=len(output), reason="length", detail=f"no end within {len(output)} tokens")
        return min(agreed, len(taken))

    def result(self) -> Decoded:
        assert self.stopped is not None
        ids = self.drafter.output[: self.cut.length if self.cut else None]
        return Decoded(
            ids=tuple(ids),
            passes=self.passes,
            disagreements=self.drafter.disagreements,
            stopped=self.stopped,
            cut=self.cut,
            min_margin=min(self.margins[: len(ids)], default=float("inf")),
            near_ties=sum(self.near[: len(ids)]),
        )


class _Batch:
    """The pages in flight: one cache, one row per page that is still in it."""

    def __init__(self, decoder: Decoder, pages: Sequence[DraftedPage], bidirectional_images: bool, head_bytes: int) -> None:
        self.model, self.eos_ids, self.image_id = decoder.model, decoder.eos_ids, decoder.image_token_id
        self.device, self.head_bytes, self.bidirectional = self.model.device, head_bytes, bidirectional_images
        self.masks = _Masks(self.model)
        self.all_rows = [_Row(page) for page in pages]
        self.rows = self.all_rows
        self.cache = DynamicCache()  # without a config every layer keeps all columns: windows are cut by the masks
        self.places = torch.empty(len(pages), 0, dtype=torch.long, device=self.device)
        self.prompts = self._tensor([[len(page.prompt_ids)] for page in pages])
        starts = [0 if page.positions is None else int(page.positions.max()) + 1 - len(page.prompt_ids) for page in pages]
        self.shifts = self._tensor([[start] for start in starts])

    def step(self, inputs: list[list[int]], **image_inputs: Any) -> None:
        """One forward pass: append `inputs` to each row, score the draft at its end, keep what the model agrees with."""
        width = max(map(len, inputs))
        ids = self._tensor([row + [0] * (width - len(row)) for row in inputs])
        lengths = self._tensor([[len(row)] for row in inputs])
        steps = torch.arange(width, device=self.device).expand(len(inputs), -1)
        stored = self._tensor([[row.stored] for row in self.rows])
        queries = torch.where(steps < lengths, stored + steps, -1)
        self.places = torch.cat([self.places, queries], dim=1)
        blocks = self._blocks(ids) if self.bidirectional and image_inputs else None
        hidden = self.model.base_model(
            input_ids=ids,
            attention_mask=self.masks.build(queries.clamp(min=0), self.places, self.prompts, blocks),
            position_ids=self._positions(queries.clamp(min=0), first=bool(image_inputs)),
            past_key_values=self.cache,
            use_cache=True,
            **image_inputs,
        ).last_hidden_state
        scored = [len(row.draft) + 1 if row.live else 0 for row in self.rows]
        wanted = (steps < lengths) & (steps >= lengths - self._tensor([[count] for count in scored]))
        best, margins, near = ([piece.tolist() for piece in part.split(scored)] for part in self._choose(hidden[wanted]))
        for number, (row, count) in enumerate(zip(self.rows, scored, strict=True)):
            if count:
                kept = row.accept(best[number], margins[number], near[number], self.eos_ids)
                row.stored += len(inputs[number]) - (count - 1) + kept
        held = self._tensor([[row.stored if row.live else 1] for row in self.rows])  # one: a row that sees nothing becomes NaN
        self.places = torch.where(self.places < held, self.places, -1)

    def compact(self) -> None:
        """Drop finished pages and rejected columns when they fill more than half of the cache."""
        rows = [number for number, row in enumerate(self.rows) if row.live]
        width = max(self.rows[number].stored for number in rows)
        if 2 * len(rows) * width > self.places.numel():
            return
        chosen = self._tensor(rows)
        columns = (self.places[chosen] < 0).int().argsort(dim=1, stable=True)[:, :width]
        layers: list[Any] = self.cache.layers
        for layer in layers:
            if layer.is_initialized:
                index = columns[:, None, :, None]
                layer.keys = layer.keys[chosen].gather(2, index.expand(-1, layer.keys.shape[1], -1, layer.keys.shape[3]))
                layer.values = layer.values[chosen].gather(2, index.expand(-1, layer.values.shape[1], -1, layer.values.shape[3]))
        self.places = self.places[chosen].gather(1, columns)
        self.prompts, self.shifts = self.prompts[chosen], self.shifts[chosen]
        self.rows = [self.rows[number] for number in rows]

    def _choose(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Best id, margin to the second best logit and "is a near tie" for hidden states `[n, H]`, in chunks of bounded size.

        Softcapping and scaling of logits, which some models put behind the head, keep their order and are left out.
        """
        head = self.model.get_output_embeddings()
        chunk = max(1, self.head_bytes // (4 * head.weight.shape[0]))
        steps = NEAR_TIE.get(hidden.dtype, NEAR_TIE_HALF)
        best, margins, near = [], [], []
        for part in hidden.split(chunk):
            logits = head(part)
            top = logits.topk(2).values.float()
            best.append(logits.argmax(-1))
            margins.append(top[:, 0] - top[:, 1])
            near.append(margins[-1] <= steps * torch.finfo(logits.dtype).eps * top.abs().amax(-1))
        return torch.cat(best).cpu(), torch.cat(margins).cpu(), torch.cat(near).cpu()

    def _positions(self, places: Tensor, *, first: bool) -> Tensor:
        """Rotary positions `[rows, n]`, or `[axes, rows, n]` where a page states its prompt's own."""
        positions = places + self.shifts
        stated = [row.page.positions for row in self.rows]
        axes = next((p.shape[0] for p in stated if p is not None and p.ndim == 2), None)
        if axes is not None:
            positions = positions.expand(axes, -1, -1).clone()
        if first:
            for number, prompt in enumerate(stated):
                if prompt is None:
                    continue
                positions[..., number, : prompt.shape[-1]] = prompt.to(self.device)
        return positions

    def _blocks(self, ids: Tensor) -> Tensor:
        """A number for each run of image ids, −1 elsewhere, `[rows, n]`."""
        image = ids == self.image_id
        starts = image & ~torch.nn.functional.pad(image, (1, 0))[:, :-1]
        return torch.where(image, starts.cumsum(1), -1)

    def _tensor(self, values: list) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)


class _Masks:
    """Attention masks from places, for the layer types whose reach a place can tell."""

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config.get_text_config(decoder=True)
        self.types = set(getattr(config, "layer_types", None) or ["full_attention"])
        unknown = sorted(self.types.difference(LAYER_TYPES))
        if unknown:
            name = type(model).__name__
            raise ValueError(f"layer_types of {name} contain {unknown}; drafted decoding can mask {list(LAYER_TYPES)} only")
        attention = config._attn_implementation
        if attention not in ATTENTION:
            raise ValueError(
                f"attn_implementation is {attention!r}; drafted decoding needs masks: choose one of {list(ATTENTION)}"
            )
        self.window = getattr(config, "sliding_window", None)
        self.additive = attention == "eager"
        self.dtype = model.dtype

    def build(self, queries: Tensor, places: Tensor, prompts: Tensor, blocks: Tensor | None) -> Tensor | dict[str, Tensor]:
        """Masks `[rows, 1, queries, columns]`, one per layer type if there are others than full attention.

        A padding query stands at place 0 and sees the first token only, so that its values stay finite.
        """
        q, k = queries[:, None, :, None], places[:, None, None, :]
        full = (k >= 0) & (k <= q)
        masks = {"full_attention": full}
        if self.window is not None:
            near = q - k < self.window
            masks["sliding_attention"] = full & near
            masks["reference_sliding_attention"] = full & (near | (k < prompts[:, :, None, None]))
        if blocks is not None:
            together = (blocks[:, None, :, None] == blocks[:, None, None, :]) & (blocks >= 0)[:, None, :, None]
            masks = {name: mask | together for name, mask in masks.items()}
        masks = {name: self._finish(masks[name]) for name in self.types}
        return masks["full_attention"] if self.types == {"full_attention"} else masks

    def _finish(self, allowed: Tensor) -> Tensor:
        if not self.additive:
            return allowed
        lowest = torch.finfo(self.dtype).min
        return torch.zeros(allowed.shape, dtype=self.dtype, device=allowed.device).masked_fill_(~allowed, lowest)


def _check(page: DraftedPage, number: int, decoder: Decoder) -> None:
    images, tokens = list(page.prompt_ids).count(decoder.image_token_id), page.features.shape[0]
    if images != tokens:
        raise ValueError(f"page {number}: the prompt has {images} image ids for {tokens} visual tokens; they must be equal")
    if decoder.image_token_id in page.draft_ids:
        raise ValueError(f"page {number}: the draft contains the image id {decoder.image_token_id}; a reference text has none")
    if page.limit < 1:
        raise ValueError(f"page {number}: max_new_tokens is {page.limit}; it must be at least 1")
    if page.positions is not None and page.positions.shape[-1] != len(page.prompt_ids):
        raise ValueError(f"page {number}: {page.positions.shape[-1]} positions for a prompt of {len(page.prompt_ids)} tokens")
