"""Batched, drafted, exact greedy decoding.

One forward pass over [prompt | draft] gives the decoder's argmax after every prefix. Up to the first disagreement the greedy
output *is* the draft (by induction). At the disagreement the model's token is taken, the draft is corrected and re-aligned, and
the next pass resumes from the cache.

First passes are grouped by length, with a bounded number of tokens at once. Then all pages continue together, each with a draft
of its own length at its own positions (`slots`). The output of a page does not depend on the other pages of its batch. The host's
work per page and pass is a few array operations, one upload and one download.

"Exact" means: token for token the result of `generate(do_sample=False)` without n-gram bans, penalties or suppressed tokens, up
to rounding. A pass over many tokens and one over a single token add the same numbers in another order. On small random models
with logits near 6 the two differ by up to 2e-5 in float32, where only a true tie can flip. In bfloat16 they differ by up to 0.15,
where about one token in 150 did flip; `Decoded.near_ties` counts the tokens where this could happen. Neither result is more
correct there: plain bfloat16 `generate` depends on its batch in the same way. Decode in float32 if equality must be certain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from palimpsest.errors import UsageError
from palimpsest.verification.drafting import Drafter
from palimpsest.verification.masks import Masks
from palimpsest.verification.reading import Cut, Decoded, DraftedPage, Stop
from palimpsest.verification.slots import GROWTH, Slots

HEAD_BYTES = {"cpu": 256 << 20, "cuda": 2 << 30}  # of logits in memory at once, as float32
FIRST_TOKENS = {"cpu": 32_768, "cuda": 65_536}  # of a first pass, padding included, unless a single page has more
PASS_COST = {"cpu": 16, "cuda": 128}  # price of a pass, in drafted tokens (measured on the embedded codec; estimated)
NEAR_TIE = {torch.float32: 64}  # margins within this many rounding steps of the best logit are near ties; measured: 28 and …
NEAR_TIE_HALF = 8  # … in half precision, whose sums are kept in float32, 3


class Decoder(Protocol):
    """The decoder half of a codec, with the traits of its architecture, so that no caller can forget one."""

    @property
    def model(self) -> PreTrainedModel:
        """A `…ForConditionalGeneration` of transformers, in eval mode."""

    @property
    def image_token_id(self) -> int:
        """The placeholder id of one visual token in a prompt."""

    @property
    def eos_ids(self) -> set[int]:
        """Ids that end the output."""

    @property
    def bidirectional_images(self) -> bool:
        """Visual tokens of one image see each other (Gemma 3), as in the model's own masks."""

    def image_inputs(self, features: list[Tensor]) -> dict[str, Any]:
        """Stored visual tokens of several pages, each `[T, D]`, as arguments of the model's forward."""

    def positions(self, prompt: Sequence[int]) -> Tensor | None:
        """Rotary positions `[axes, len(prompt)]` of a prompt with one image; None for 0 … len(prompt) − 1."""


@torch.inference_mode()
def decode(
    decoder: Decoder,
    pages: Sequence[DraftedPage],
    *,
    head_bytes: int | None = None,
    first_tokens: int | None = None,
    pass_cost: int | None = None,
    revise: bool = True,
) -> list[Decoded]:
    """Greedy output of every page of one batch, in order.

    Args:
        decoder: the model and the traits of its architecture.
        pages: a batch whose keys and values fit into memory together.
        head_bytes: bound of the logits in memory at once, by default the device's; changes nothing else.
        first_tokens: bound of the tokens in one first pass, padding included; by default the device's.
        pass_cost: price of a pass in drafted tokens, which bounds the drafts; by default the device's.
        revise: adopt the model's corrections of a draft after a disagreement. Like `pass_cost`, it changes only the number of
            passes.

    Raises:
        ValueError: masks cannot express the layers or the attention implementation, the image ids of a prompt do not match its
            visual tokens, a draft contains an image id, or a limit is below 1.
    """
    if not pages:
        return []
    for number, page in enumerate(pages):
        _check(page, number, decoder)
    kind = "cpu" if decoder.model.device.type == "cpu" else "cuda"
    cost, most, head_limit = pass_cost or PASS_COST[kind], first_tokens or FIRST_TOKENS[kind], head_bytes or HEAD_BYTES[kind]
    rows = [
        _Row(
            page,
            number,
            decoder.positions(page.prompt_ids),
            Drafter(page.draft_ids, page.conventions, pass_cost=cost, revise=revise),
        )
        for number, page in enumerate(pages)
    ]
    rows.sort(key=lambda row: -row.length)  # stable: pages of one length stay in order
    batch = _Batch(decoder, rows, head_limit)
    start = 0
    while start < len(rows):
        stop = min(len(rows), start + max(1, most // rows[start].length))
        batch.first(start, stop, decoder.image_inputs([row.page.features for row in rows[start:stop]]))
        start = stop
    while any(row.live for row in batch.rows):
        batch.compact()
        batch.next()
    return [row.result() for row in sorted(rows, key=lambda row: row.number)]


@dataclass(slots=True)
class _Row:
    """One page's progress."""

    page: DraftedPage
    number: int
    positions: Tensor | None  # rotary positions of the prompt; the output continues at their maximum plus one
    drafter: Drafter
    stored: int = 0  # positions of the page that are in the cache
    passes: int = 0
    margins: list[np.ndarray] = field(default_factory=list)
    near: list[np.ndarray] = field(default_factory=list)
    stopped: Stop | None = None
    cut: Cut | None = None

    @property
    def live(self) -> bool:
        return self.stopped is None

    @property
    def draft(self) -> np.ndarray:
        return self.drafter.draft[: self.page.limit - len(self.drafter.output) - 1]

    @property
    def length(self) -> int:
        """Tokens of the first pass."""
        return len(self.page.prompt_ids) + len(self.draft)

    def accept(self, draft: np.ndarray, best: np.ndarray, margins: np.ndarray, near: np.ndarray, eos: np.ndarray) -> int:
        """Take the model's choices after each drafted prefix; returns the number of drafted tokens that stay in the cache."""
        self.passes += 1
        differing = np.flatnonzero(best[: len(draft)] != draft)
        agreed = int(differing[0]) if len(differing) else len(draft)
        ends = np.flatnonzero(np.isin(best[: agreed + 1], eos))
        count = int(ends[0]) + 1 if len(ends) else agreed + 1
        self.margins.append(margins[:count])
        self.near.append(near[:count])
        self.drafter.accept(best[:count].tolist(), agreed, best)
        output = self.drafter.output
        self.cut = next((cut for watch in self.page.watches if (cut := watch(output))), None)
        if self.cut:
            self.stopped = "early"
        elif len(ends):
            self.stopped = "eos"
        elif len(output) >= self.page.limit:
            self.stopped = "length"
            self.cut = Cut(length=len(output), reason="length", detail=f"no end within {len(output)} tokens")
        return min(agreed, count)

    def result(self) -> Decoded:
        assert self.stopped is not None
        ids = self.drafter.output[: self.cut.length if self.cut else None]
        margins, near = np.concatenate(self.margins)[: len(ids)], np.concatenate(self.near)[: len(ids)]
        return Decoded(
            ids=tuple(ids),
            passes=self.passes,
            disagreements=self.drafter.disagreements,
            stopped=self.stopped,
            cut=self.cut,
            min_margin=float(margins.min(initial=np.inf)),
            near_tie_indices=tuple(np.flatnonzero(near).tolist()),
        )


class _Batch:
    """The pages in flight: one cache, one row per page that is still in it."""

    def __init__(self, decoder: Decoder, rows: list[_Row], head_bytes: int) -> None:
        self.model, self.image_id, self.eos = decoder.model, decoder.image_token_id, np.array(sorted(decoder.eos_ids))
        self.device, self.head_bytes, self.bidirectional = self.model.device, head_bytes, decoder.bidirectional_images
        self.masks, self.rows = Masks(self.model), rows
        self.slots = Slots(len(rows), rows[0].length + GROWTH)
        self.cache = self.slots.cache()
        self.prompts = torch.tensor([[len(row.page.prompt_ids)] for row in rows], device=self.device)
        stated = [(row.positions, len(row.page.prompt_ids)) for row in rows]
        starts = [[0 if positions is None else int(positions.max()) + 1 - length] for positions, length in stated]
        self.shifts = torch.tensor(starts, device=self.device)
        self.packs = self.masks.packs and not any(positions is not None for positions, _ in stated)

    def first(self, start: int, stop: int, image_inputs: dict[str, Any]) -> None:
        """The first pass of some rows: prompt and draft, padded on the right."""
        rows = self.rows[start:stop]
        inputs = [np.concatenate((np.asarray(row.page.prompt_ids, np.int64), row.draft)) for row in rows]
        ids, lengths = _padded(inputs)
        step = np.arange(ids.shape[1])
        scored = [len(row.draft) + 1 for row in rows]
        ids_d, scored_at = self._upload(ids, _ends(lengths, scored, ids.shape[1]))
        indices = torch.arange(ids.shape[1], device=self.device)
        blocks = self._blocks(ids_d) if self.bidirectional else None
        mask = self.masks.causal() if blocks is None else None
        if mask is None:
            queries = torch.from_numpy(np.where(step < lengths[:, None], step, 0)).to(self.device)
            mask = self.masks.build(queries, indices, self.prompts[start:stop], blocks)
        positions = self._positions(indices.expand(len(rows), -1), start, stop)
        for number, row in enumerate(rows):
            if (prompt := row.positions) is not None:
                positions[..., number, : prompt.shape[-1]] = prompt.to(self.device)
        self.slots.filling = (start, stop)
        for row in rows:
            row.stored = len(row.page.prompt_ids) + len(row.draft)
        self._forward(rows, scored, ids_d, scored_at, mask, positions, **image_inputs)

    def next(self) -> None:
        """One more pass of all rows: each one's last token and its draft."""
        inputs = [np.concatenate(([row.drafter.output[-1]], row.draft)) if row.live else _NOTHING for row in self.rows]
        ids, lengths = _padded(inputs)
        stored = np.array([row.stored for row in self.rows])
        step = np.arange(ids.shape[1])
        inside = step < lengths[:, None]
        indices = np.where(inside, stored[:, None] + step, 0)
        width = int((stored + lengths).max())
        self.slots.grow(width)
        spare = self.slots.columns - 1
        flat = np.arange(len(self.rows))[:, None] * self.slots.columns + np.where(inside, indices, spare)
        scored_at = np.flatnonzero(inside)
        for row, count in zip(self.rows, lengths.tolist(), strict=True):
            row.stored += count
        columns = torch.arange(width, device=self.device)
        self.slots.filling, self.slots.width = None, width
        if self.packs:  # the tokens of all pages in one row: no layer but attention sees padding
            some = self._upload(ids.ravel()[scored_at], flat.ravel()[scored_at], indices.ravel()[scored_at], scored_at, indices)
            ids_d, self.slots.flat, positions, slots, queries = some
            mask: Any = self.masks.packed(queries, columns, self.prompts, slots)
            self._forward(self.rows, lengths.tolist(), ids_d[None], None, mask, positions[None])
            return
        ids_d, queries, flat_d, scored_d = self._upload(ids, indices, flat, scored_at)
        self.slots.flat = flat_d.flatten()
        mask = self.masks.build(queries, columns, self.prompts)
        self._forward(self.rows, lengths.tolist(), ids_d, scored_d, mask, self._positions(queries, 0, len(self.rows)))

    def _forward(
        self,
        rows: list[_Row],
        scored: list[int],
        ids: Tensor,
        scored_at: Tensor | None,
        mask: Any,
        positions: Tensor,
        **image_inputs: Any,
    ) -> None:
        """One forward pass; each live row takes the model's choices at its last `scored` tokens: `scored_at`, or all if None."""
        hidden = self.model.base_model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=self.cache, use_cache=True, **image_inputs
        ).last_hidden_state
        hidden = hidden.flatten(0, 1)
        chosen = self._choose(hidden if scored_at is None else hidden.index_select(0, scored_at))
        best, margins, near = chosen[0].astype(np.int64), chosen[1], chosen[2] > 0
        start = 0
        for row, count in zip(rows, scored, strict=True):
            if count:
                part, start = slice(start, start + count), start + count
                draft = row.draft
                row.stored += row.accept(draft, best[part], margins[part], near[part], self.eos) - len(draft)

    def compact(self) -> None:
        """Drop finished pages when they are half of the rows."""
        live = [number for number, row in enumerate(self.rows) if row.live]
        if 2 * len(live) > len(self.rows):
            return
        chosen = torch.tensor(live, device=self.device)
        self.slots.keep(chosen)
        self.prompts, self.shifts = self.prompts[chosen], self.shifts[chosen]
        self.rows = [self.rows[number] for number in live]

    def _choose(self, hidden: Tensor) -> np.ndarray:
        """Best id, margin to the second best logit and "is a near tie" for hidden states `[n, H]`, float32 `[3, n]`.

        Computed in chunks of bounded size. Softcapping and scaling of logits, which some models apply after the head, keep the
        order and are omitted. Ids are exact in float32 up to 2^24.
        """
        head = self.model.get_output_embeddings()
        chunk = max(1, self.head_bytes // (4 * head.weight.shape[0]))
        steps = NEAR_TIE.get(hidden.dtype, NEAR_TIE_HALF)
        parts = []
        for part in hidden.split(chunk):
            logits = head(part)
            best = logits.argmax(-1, keepdim=True)
            top = logits.gather(-1, best).float()
            second = logits.scatter_(-1, best, float("-inf")).amax(-1, keepdim=True).float()
            near = top - second <= steps * torch.finfo(logits.dtype).eps * torch.maximum(top.abs(), second.abs())
            parts.append(torch.cat([best.float(), top - second, near.float()], -1))
        return torch.cat(parts).T.cpu().numpy()

    def _positions(self, indices: Tensor, start: int, stop: int) -> Tensor:
        """Rotary positions `[rows, n]`, or `[axes, rows, n]` if a page gives its prompt's positions."""
        positions = indices + self.shifts[start:stop]
        stated = [row.positions for row in self.rows[start:stop]]
        axes = next((p.shape[0] for p in stated if p is not None and p.ndim == 2), None)
        return positions if axes is None else positions.expand(axes, -1, -1).clone()

    def _blocks(self, ids: Tensor) -> Tensor:
        """A number for each run of image ids, −1 elsewhere, `[rows, n]`."""
        image = ids == self.image_id
        starts = image & ~torch.nn.functional.pad(image, (1, 0))[:, :-1]
        return torch.where(image, starts.cumsum(1), -1)

    def _upload(self, *arrays: np.ndarray) -> list[Tensor]:
        """Arrays of integers on the device, in one copy."""
        whole = torch.from_numpy(np.concatenate([array.ravel() for array in arrays]))
        if self.device.type == "cuda":
            whole = whole.pin_memory()
        parts = whole.to(self.device, non_blocking=True).split([array.size for array in arrays])
        return [part.view(array.shape) for part, array in zip(parts, arrays, strict=True)]


_NOTHING = np.zeros(0, np.int64)


def _padded(rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of different length as one array, padded with zeros on the right, and their lengths."""
    lengths = np.array([len(row) for row in rows])
    ids = np.zeros((len(rows), lengths.max()), np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
    return ids, lengths


def _ends(lengths: np.ndarray, counts: Sequence[int], width: int) -> np.ndarray:
    """Flat indices of the last `counts` tokens of every row."""
    pieces = zip(lengths, counts, strict=True)
    return np.concatenate([row * width + np.arange(length - count, length) for row, (length, count) in enumerate(pieces)])


def _check(page: DraftedPage, number: int, decoder: Decoder) -> None:
    images, tokens = list(page.prompt_ids).count(decoder.image_token_id), page.features.shape[0]
    if images != tokens:
        raise UsageError(f"page {number}: the prompt has {images} image ids for {tokens} visual tokens; they must be equal")
    if decoder.image_token_id in page.draft_ids:
        raise UsageError(f"page {number}: the draft contains the image id {decoder.image_token_id}; a reference text has none")
    if page.limit < 1:
        raise UsageError(f"page {number}: max_new_tokens is {page.limit}; it must be at least 1")
