"""Memory samples for a decoder: ids, labels, and embeddings with visual tokens in their places.

The layout of a sample's ids, S being the ids that the architecture puts around an image (none in some):

    BOS  [ S image × num_context_tokens S | text ]…  reply EOS

Segments stand in the order of the row, oldest first; the last one ends with "assistant: ". Where something was dropped, nothing
stands. Labels are the ids of the reply and its EOS, -100 everywhere else. Text is cut by the codec's own tokenizer; the embedded
codec, which has none, writes one id for each cell.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from palimpsest.codecs.token_storage.rows import stored_tokens
from palimpsest.corpus.sample_sets import MemoryUnit, newest_set, open_set, read_set, read_unit
from palimpsest.corpus.shards import open_shard
from palimpsest.pages.grid import Grid, lay_out
from palimpsest.schemas import VISUAL
from palimpsest.storage.object_store import ObjectStore
from palimpsest.storage.opening import open_store
from palimpsest.storage.stable_json import Damaged

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.codecs.adapter import Codec

IGNORED = -100
GROUPS_HELD = 16  # row groups of pages


@dataclass(frozen=True)
class Example:
    """One sample, ready to be batched.

    Attributes:
        ids, labels: of the same length.
        features: bfloat16 `[num_context_tokens, dim]` of each visual segment, newline and separator rows put back.
    """

    sample_id: str
    ids: tuple[int, ...]
    labels: tuple[int, ...]
    features: tuple[Tensor, ...]


class PageShelf:
    """The pages of a unit by their place; a few row groups are held.

    Raises (everywhere): NoSuchObject, Damaged.
    """

    def __init__(self, store: ObjectStore, unit: MemoryUnit, *, verify: bool = False) -> None:
        self.store, self.unit, self.verify = store, unit, verify
        self._files: dict[int, tuple[pq.ParquetFile, list[int]]] = {}
        self._groups: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()

    def row(self, shard: int, row: int, tokens_sha256: str) -> pa.Table:
        """One row of the row contract, checked to be the one that is meant."""
        if not 0 <= shard < len(self.unit.pages) or not 0 <= row < self.unit.pages[shard].rows:
            raise Damaged(f"unit {self.unit.unit_id} has no row {row} in page shard {shard}")
        key = self.store.uri(self.unit.pages[shard].key)
        try:
            file, starts = self._file(shard)
            group = bisect.bisect_right(starts, row) - 1
            table = self._group(shard, group, file).slice(row - starts[group], 1)
        except (pa.ArrowException, OSError) as error:
            raise Damaged(f"{key} is not readable as Parquet: {error}") from error
        if table["tokens_sha256"][0].as_py() != tokens_sha256:
            raise Damaged(f"row {row} of {key} is not the page that the sample shows: its tokens_sha256 differs")
        return table

    def _file(self, shard: int) -> tuple[pq.ParquetFile, list[int]]:
        if shard not in self._files:
            stream = open_shard(self.store, self.unit.pages[shard], verify=self.verify)
            file = pq.ParquetFile(stream, page_checksum_verification=True)
            starts = [0]
            for group in range(file.metadata.num_row_groups):
                starts.append(starts[-1] + file.metadata.row_group(group).num_rows)
            self._files[shard] = (file, starts)
        return self._files[shard]

    def _group(self, shard: int, group: int, file: pq.ParquetFile) -> pa.Table:
        key = (shard, group)
        if key not in self._groups:
            self._groups[key] = file.read_row_group(group, use_threads=False)
            while len(self._groups) > GROUPS_HELD:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]


def iter_samples(
    place: str, number: int | None = None, columns: Sequence[str] | None = None, *, verify: bool = False
) -> Iterator[tuple[MemoryUnit, dict[str, Any]]]:
    """The samples of a published set, the newest where no number is given: (their unit, row), streamed.

    Raises:
        ValueError: for a place where nothing is published.
        NotACorpus, NoSuchObject, Damaged.
    """
    store = open_store(place)
    open_set(store)
    published = newest_set(store) if number is None else read_set(store, number)
    if published is None:
        raise ValueError(f"{place!r} has no published set yet: run `palimpsest conversations … --out {place}` to its end")
    for name in published.units:
        unit = read_unit(store, name)
        if unit.samples is None:
            continue
        with open_shard(store, unit.samples, verify=verify) as stream:
            try:
                for batch in pq.ParquetFile(stream, page_checksum_verification=True).iter_batches(16, columns=columns):
                    for row in batch.to_pylist():
                        yield unit, row
            except (pa.ArrowException, OSError) as error:
                raise Damaged(f"{store.uri(unit.samples.key)} is not readable as Parquet: {error}") from error


class MemoryLoader:
    """Goes through a published set and gives examples for `codec`, which must be the one that wrote the tokens.

    Args:
        verify: compare the hash of every object with its record before it is read; those of tokens are always compared.

    Raises (when gone through): CodecMismatch, DamagedTokens, and what `iter_samples` raises.
    """

    def __init__(self, place: str, codec: Codec, number: int | None = None, *, verify: bool = False) -> None:
        self.place, self.codec, self.number, self.verify = place, codec, number, verify
        self.prompt = PromptIds(codec)

    def __iter__(self) -> Iterator[Example]:
        shelf: PageShelf | None = None
        for unit, row in iter_samples(self.place, self.number, verify=self.verify):
            if shelf is None or shelf.unit.unit_id != unit.unit_id:
                shelf = PageShelf(open_store(self.place), unit, verify=self.verify)
            yield self.example(row, shelf)

    def example(self, row: dict[str, Any], shelf: PageShelf) -> Example:
        """The example of one row of SAMPLES."""
        ids, features = [*self.prompt.bos], []
        for segment in row["segments"]:
            if segment["kind"] != VISUAL:
                ids += self.prompt.text(segment["text"])
                continue
            mode = self.codec.mode(segment["tier"])
            page = shelf.row(segment["page_shard"], segment["page_row"], segment["tokens_sha256"])
            features += self.codec.features(stored_tokens(page, mode, self.codec), mode)
            ids += self.prompt.image(mode.num_context_tokens)
        reply = [*self.prompt.text(row["target_text"]), self.prompt.eos]
        labels = (*([IGNORED] * len(ids)), *reply)
        return Example(row["sample_id"], (*ids, *reply), labels, tuple(features))


class PromptIds:
    """Ids of texts and images in a codec's vocabulary."""

    def __init__(self, codec: Codec) -> None:
        from palimpsest.codecs.families import image_brackets
        from palimpsest.codecs.target import PlainTarget

        self.codec = codec
        self.before, self.after = image_brackets(codec.config)
        self.eos = min(codec.eos_ids)
        bos = codec.config.get_text_config().bos_token_id
        self.bos = [bos] if bos is not None and codec.preset.bos else []
        self._tokenizer = codec.target.tokenizer if isinstance(codec.target, PlainTarget) else None

    def image(self, num_context_tokens: int) -> list[int]:
        return [*self.before, *[self.codec.image_token_id] * num_context_tokens, *self.after]

    def text(self, text: str) -> list[int]:
        if self._tokenizer is not None:
            return list(self._tokenizer.encode(text, add_special_tokens=False).ids)
        from palimpsest.codecs.embedded.target import ALPHABET
        from palimpsest.codecs.embedded.vocabulary import cell_ids
        from palimpsest.pages.characters import BLANK, END

        ids: list[int] = []
        for page in lay_out(text, Grid(64, 32, ALPHABET)):
            ids += cell_ids(page.cells[(page.cells != BLANK) & (page.cells != END)]).tolist()
        return ids


def collate(codec: Codec, examples: Sequence[Example]) -> dict[str, Any]:
    """A batch, padded on the right: `input_ids`, `attention_mask`, `labels` [n, L], and the features as the codec's forward takes
    them (`mm_encoder_outputs`, positions where the architecture needs them): `codec.model(**batch)` gives the loss."""
    import torch

    ids, mask, labels = _padded(codec, examples)
    features = [rows for example in examples for rows in example.features]
    batch: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    if not features:
        return batch
    images = ids == codec.image_token_id
    batch |= codec.family.text_inputs(ids, images, [len(rows) for rows in features], codec.config)
    return batch | codec.image_inputs([rows.to(torch.bfloat16) for rows in features])


def collate_embeddings(codec: Codec, examples: Sequence[Example]) -> dict[str, Tensor]:
    """The same batch as `inputs_embeds` [n, L, dim], for decoders that are to read these tokens without being the codec's own.

    The embedding of text is the codec's; architectures with several position axes still need `input_ids` for them.
    """
    import torch

    ids, mask, labels = _padded(codec, examples)
    embeds = codec.model.get_input_embeddings()(ids)
    features = [rows for example in examples for rows in example.features]
    if features:
        images = (ids == codec.image_token_id)[..., None].expand_as(embeds)
        embeds = embeds.masked_scatter(images, torch.cat(features).to(embeds.device, embeds.dtype))
    return {"inputs_embeds": embeds, "attention_mask": mask, "labels": labels}


def _padded(codec: Codec, examples: Sequence[Example]) -> tuple[Any, Any, Any]:
    import torch

    width = max(len(example.ids) for example in examples)
    pad = codec.config.get_text_config().pad_token_id
    pad = min(codec.eos_ids) if pad is None or pad == codec.image_token_id else pad

    def rows(name: str, fill: int) -> Tensor:
        found = [[*getattr(example, name), *[fill] * (width - len(example.ids))] for example in examples]
        return torch.tensor(found, device=codec.device)

    mask = torch.tensor([[1] * len(example.ids) + [0] * (width - len(example.ids)) for example in examples], device=codec.device)
    return rows("ids", pad), mask, rows("labels", IGNORED)
