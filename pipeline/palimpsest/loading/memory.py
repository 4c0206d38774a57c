"""`Memory`: conversations as memory samples, old turns as visual tokens, counted in the consumer's vocabulary.

The ids of a sample, S being the ids that an architecture puts around an image (none in some):

    BOS  [ S image ids S | text ]…  reply EOS

Segments keep the order of the row, oldest first; the last one ends with "assistant: ". Labels are the ids of the reply and its
EOS, -100 everywhere else.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from palimpsest.corpus.sample_sets import published_samples
from palimpsest.corpus.units import CommitRecord
from palimpsest.errors import UsageError
from palimpsest.loading.consumer import Consumer, consumer
from palimpsest.loading.packing import IGNORED, Example
from palimpsest.loading.pages import COUNTED, TOKEN_COLUMNS, digest_of, lost, tried
from palimpsest.loading.shard_cache import ShardCache
from palimpsest.loading.shard_rows import READ_ERRORS, OpenShards
from palimpsest.loading.source import STREAMS, WINDOW_BYTES, Reading, Rows
from palimpsest.loading.tokens import give_tokens
from palimpsest.schemas import SAMPLES, VISUAL
from palimpsest.storage.opening import open_store
from palimpsest.storage.stable_json import Damaged

if TYPE_CHECKING:
    from palimpsest.codecs.adapter import Codec


class OverBudget(UsageError):
    """What must be answered, and the reply, take more ids than the budget."""


class Memory(Rows):
    """Samples of a published set of conversations.

    Args:
        uri: where `palimpsest conversations` wrote it.
        tokenizer: of the consumer, see `consumer`; a sample then has `example` (ids, labels, tokens). Without it, a sample has
            `segments`, each with its text or its `tokens`, and `target_text`.
        budget: ids of context at most, in the consumer's vocabulary; the oldest segments are dropped until it fits, and
            `dropped_segments` counts them. Where None, segments are as they were composed, with the budget of DeepSeek's
            tokenizer.
        number: of the published version; the newest where None.
        seed, streams, window_bytes, cache, cache_bytes, codec: as for `Pages`.

    Raises:
        UsageError: nothing is published; a budget without a tokenizer.
        OverBudget (when read): the newest segment alone exceeds the budget.
        NotACorpus, NoSuchObject, Damaged.
    """

    def __init__(
        self,
        uri: str | Path,
        *,
        tokenizer: Any = None,
        budget: int | None = None,
        number: int | None = None,
        seed: int = 0,
        streams: int = STREAMS,
        window_bytes: int = WINDOW_BYTES,
        cache: str | Path | None = None,
        cache_bytes: int = 16 << 30,
        codec: Codec | None = None,
    ) -> None:
        self.uri, self.budget, self.codec = str(uri), budget, codec
        if budget is not None and tokenizer is None:
            raise UsageError(f"Memory(budget={budget}) counts in the consumer's ids: pass its tokenizer")
        self.consumer: Consumer | None = None if tokenizer is None else consumer(tokenizer)
        store = open_store(uri)
        published = published_samples(store, number)
        self._number = published.number
        self.units: list[CommitRecord] = [unit for unit in published.units if unit.samples is not None]
        self._digest = digest_of("\n".join(f"{unit.unit_id} {unit.counts.samples_committed}" for unit in self.units))
        self._cache = None if cache is None else ShardCache(cache, cache_bytes)
        self._opened: tuple[int, OpenShards] | None = None
        sizes = np.array([unit.samples.rows for unit in self.units if unit.samples], np.int64)
        stored = sum(shard.bytes for unit in self.units for shard in unit.shards) + sum(
            u.samples.bytes for u in self.units if u.samples
        )
        super().__init__(sizes, stored, seed=seed, streams=streams, window_bytes=window_bytes)

    def __repr__(self) -> str:
        return f"set {self._number} of {self.uri}"

    @property
    def version(self) -> int:
        return self._number

    def rows_digest(self) -> int:
        return self._digest

    def filter_digest(self) -> int:
        return 0

    def check(self) -> None:
        if not self.rows:
            raise UsageError(f"{self} has no samples")

    def load(self, section: int, rows: Sequence[int], reading: Reading) -> list[dict[str, Any] | None]:
        unit = self.units[section]
        return [self._load(unit, row, reading) for row in rows]

    def _load(self, unit: CommitRecord, row: int, reading: Reading) -> dict[str, Any] | None:
        assert unit.samples is not None
        shards = [unit.samples, *unit.shards]

        def forget() -> None:
            for shard in shards:
                self._shards_open.forget(shard)

        try:
            return tried(lambda: self._read(unit, row), reading, forget)
        except READ_ERRORS as error:
            lost(error, f"sample {row} of {unit.samples.key}", 1, reading)
            return None

    def _read(self, unit: CommitRecord, row: int) -> dict[str, Any]:
        """A row of SAMPLES, each visual segment with its page's payload."""
        assert unit.samples is not None
        sample = self._shards_open.get(unit.samples).read([row], SAMPLES.names, payload=False)[0]
        for segment in sample["segments"]:
            if segment["kind"] == VISUAL:
                segment["page"] = self._page(unit, segment)
        return sample

    def _page(self, unit: CommitRecord, segment: dict[str, Any]) -> dict[str, Any]:
        shard, row = segment["page_shard"], segment["page_row"]
        if not 0 <= shard < len(unit.shards) or not 0 <= row < unit.shards[shard].rows:
            raise Damaged(f"unit {unit.unit_id} has no row {row} in page shard {shard}")
        page = self._shards_open.get(unit.shards[shard]).read([row], ("page_id", "mode", *COUNTED, *TOKEN_COLUMNS), payload=True)[
            0
        ]
        if page["tokens_sha256"] != segment["tokens_sha256"]:
            key = unit.shards[shard].key
            raise Damaged(f"row {row} of {key} is not the page that the sample shows: its tokens_sha256 differs")
        return page

    @property
    def _shards_open(self) -> OpenShards:
        if self._opened is None or self._opened[0] != os.getpid():  # a forked worker must not share its parent's streams
            self._opened = (os.getpid(), OpenShards(open_store(self.uri), self._cache, self.index_bytes))
        return self._opened[1]

    def finish(self, item: dict[str, Any]) -> dict[str, Any]:
        segments = []
        for segment in item["segments"]:
            page = segment.get("page")
            tokens = {} if page is None else give_tokens(page, as_stored=False, codec=self.codec)
            known = {name: value for name, value in segment.items() if name != "page"}
            vision = {} if page is None else {"num_vision_tokens": page["num_vision_tokens"], "mode": page["mode"]}
            segments.append({**known, **vision, **tokens})
        sample = {**item, "segments": segments}
        if self.consumer is None:
            return sample
        parts, dropped = self._within_budget(sample, [self._ids(segment, self.consumer) for segment in segments])
        sample["segments"] = segments[dropped:]
        return {**sample, "dropped_segments": dropped, "example": _example(sample, parts[dropped:], self.consumer)}

    @staticmethod
    def _ids(segment: dict[str, Any], reader: Consumer) -> list[int]:
        if segment["kind"] == VISUAL:
            image = reader.image(segment["num_vision_tokens"], segment["num_context_tokens"])
            return [*image, *reader.encode(segment["text"])] if segment["text"] else image  # the text is the page's errata
        return reader.encode(segment["text"])

    def _within_budget(self, sample: dict[str, Any], parts: list[list[int]]) -> tuple[list[list[int]], int]:
        """The ids of the segments, and how many of the oldest do not fit."""
        if self.budget is None:
            return parts, 0
        left = self.budget
        for dropped in range(len(parts), 0, -1):
            left -= len(parts[dropped - 1])
            if left < 0:
                if dropped == len(parts):
                    raise OverBudget(
                        f"sample {sample['sample_id']}: its newest segment has {len(parts[-1])} ids of the consumer's "
                        f"vocabulary, budget = {self.budget}; use a larger one"
                    )
                return parts, dropped
        return parts, 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}


def _example(sample: dict[str, Any], parts: Sequence[list[int]], reader: Consumer) -> Example:
    ids = [] if reader.bos_id is None else [reader.bos_id]
    images, precisions, visual = [], [], [segment for segment in sample["segments"] if segment["kind"] == VISUAL]
    for segment, part in zip(sample["segments"], parts, strict=True):
        if segment["kind"] == VISUAL:
            images.append((len(ids) + part.index(reader.image_id), part.count(reader.image_id)))
        weight = segment["num_text_tokens"]
        precisions.append((1.0 if segment["kind"] != VISUAL else segment["precision"], weight))
        ids += part
    reply = [*reader.encode(sample["target_text"]), reader.eos_id]
    known = [(precision, weight) for precision, weight in precisions if precision is not None]
    total = sum(weight for _, weight in known)
    return Example(
        id=sample["sample_id"],
        ids=(*ids, *reply),
        labels=(*[IGNORED] * len(ids), *reply),
        tokens=tuple(segment["tokens"] for segment in visual),
        modes=tuple(segment["mode"] for segment in visual),
        images=tuple(images),
        precision=sum(precision * weight for precision, weight in known) / total if total else float("nan"),
    )
