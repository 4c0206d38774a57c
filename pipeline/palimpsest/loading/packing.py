"""`Packed`: samples as sequences of a fixed length, in the consumer's vocabulary.

A page is `[image ids] text EOS` and its loss is on the text; without visual tokens it is `text EOS`. A memory sample is as
memory.py lays it out. Whole samples are put into a sequence as long as they fit, and the next one begins with the sample that did
not: nothing is cut, and a stream's cursor is that of its first sample that is not delivered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from palimpsest.errors import UsageError
from palimpsest.loading.consumer import Consumer, consumer
from palimpsest.loading.source import Cursor, Damage, Item, Reading, Source

OnLong = Literal["fail", "skip"]
IGNORED = -100
NO_SEGMENT = 0


@dataclass(frozen=True)
class Example:
    """A sample as ids.

    Attributes:
        labels: of the same length as `ids`, IGNORED where there is no loss.
        tokens: the visual tokens of each image in order, bfloat16 `[num_vision_tokens, dim]`, with the mode of each in `modes`.
        images: (first place in `ids`, number of rows) of each image: where visual tokens go.
        precision: of what its context kept, nan where unknown.
    """

    id: str
    ids: tuple[int, ...]
    labels: tuple[int, ...]
    tokens: tuple[Tensor, ...] = ()
    modes: tuple[str, ...] = ()
    images: tuple[tuple[int, int], ...] = ()
    precision: float = float("nan")


class TooLong(UsageError):
    """A sample is longer than a sequence."""


class Packed(Source):
    """Sequences of `length` ids, from Pages, Memory or a Mix of them.

    A sequence is a dict: `input_ids`, `labels` (not shifted; the first id of a sample has none), `segment_ids` (1, 2, … by
    sample, 0 for padding), `position_ids` (they begin again with each sample), int64 `[length]`; `loss_mask` and `visual_mask`,
    bool `[length]` (the latter where visual tokens go); `tokens` and `modes`, as in `Example`; `ids`, the samples in it, and
    `precision`, float32 `[length]`: that of each id's sample.

    Args:
        length: ids of a sequence.
        tokenizer: see `consumer`; a source that has its own needs none.
        on_long: a sample that is longer than `length` is an error ("fail"), or is left out and reported in the loader's `damage`
            ("skip"). Nothing is truncated.
    """

    def __init__(self, source: Source, length: int, tokenizer: Any = None, *, on_long: OnLong = "fail") -> None:
        super().__init__()
        if on_long not in get_args(OnLong):
            raise UsageError(f"on_long = {on_long!r}: choose {', '.join(get_args(OnLong))}")
        if length < 2:
            raise UsageError(f"packed({length}): at least 2 ids")
        known = tokenizer if tokenizer is not None else getattr(source, "consumer", None)
        if known is None:
            raise UsageError("packed(length, tokenizer): Pages need the consumer's tokenizer")
        self.source, self.length, self.on_long = source, length, on_long
        self.consumer: Consumer = consumer(known)
        self.streams, self.endless = source.streams, source.endless

    def identity(self) -> list[dict[str, int]]:
        return self.source.identity()

    def adopt(self, identity: Sequence[dict[str, int]]) -> None:
        self.source.adopt(identity)

    def check(self) -> None:
        self.source.check()

    def start(self, epoch: int) -> Cursor:
        return self.source.start(epoch)

    def end(self, stream: int, epoch: int) -> Cursor:
        return self.source.end(stream, epoch)

    def epoch(self, cursor: Cursor) -> int:
        return self.source.epoch(cursor)

    def stream(self, number: int, cursor: Cursor, reading: Reading) -> Iterator[tuple[Item, Cursor]]:
        waiting: list[Example] = []
        filled, behind = 0, cursor
        for item, after in self.source.stream(number, cursor, reading):
            example = example_of(self.source.finish(item), self.consumer)
            if len(example.ids) > self.length:
                self._too_long(example, reading)
                behind = after
                continue
            if filled + len(example.ids) > self.length:
                yield waiting, behind
                waiting, filled = [], 0
            waiting.append(example)
            filled += len(example.ids)
            behind = after
        if waiting:
            yield waiting, behind

    def _too_long(self, example: Example, reading: Reading) -> None:
        problem = f"sample {example.id} has {len(example.ids)} ids, a sequence has length = {self.length}"
        if self.on_long == "fail":
            raise TooLong(f"{problem}: use longer sequences, or on_long='skip'")
        reading.damage.append(Damage(example.id, 1, problem))

    def finish(self, item: list[Example]) -> dict[str, Any]:
        ids = torch.full((self.length,), self.consumer.pad_id)
        labels = torch.full((self.length,), IGNORED)
        segments, positions = torch.full((self.length,), NO_SEGMENT), torch.zeros(self.length, dtype=torch.long)
        precision = torch.full((self.length,), float("nan"))
        visual = torch.zeros(self.length, dtype=torch.bool)
        at = 0
        for number, example in enumerate(item, start=1):
            stop = at + len(example.ids)
            ids[at:stop] = torch.tensor(example.ids)
            labels[at:stop] = torch.tensor(example.labels)
            labels[at] = IGNORED  # the id before it is of another sample
            segments[at:stop], positions[at:stop] = number, torch.arange(stop - at)
            precision[at:stop] = example.precision
            for first, rows in example.images:
                visual[at + first : at + first + rows] = True
            at = stop
        return {
            "input_ids": ids,
            "labels": labels,
            "segment_ids": segments,
            "position_ids": positions,
            "loss_mask": labels != IGNORED,
            "visual_mask": visual,
            "precision": precision,
            "tokens": [rows for example in item for rows in example.tokens],
            "modes": [mode for example in item for mode in example.modes],
            "ids": [example.id for example in item],
        }


def example_of(sample: Any, reader: Consumer) -> Example:
    """A sample of Pages or Memory as ids.

    Raises:
        UsageError: a page as image or int8: the consumer reads tokens or text.
    """
    if isinstance(sample, dict) and isinstance(sample.get("example"), Example):
        found: Example = sample["example"]
        return found
    give = sample["give"]
    if give not in ("tokens", "text"):
        raise UsageError(f"page {sample['page_id']} is given as {give!r}; packing takes give = 'tokens' or 'text'")
    precision = float("nan") if sample["precision"] is None else sample["precision"]
    text = [*reader.encode(sample["text"]), reader.eos_id]
    if give == "text":
        return Example(sample["page_id"], tuple(text), tuple(text), precision=1.0)
    image = reader.image(sample["num_vision_tokens"], sample["num_context_tokens"])
    where = (image.index(reader.image_id), image.count(reader.image_id))
    labels = (*[IGNORED] * len(image), *text)
    return Example(sample["page_id"], (*image, *text), labels, (sample["tokens"],), (sample["mode"],), (where,), precision)
