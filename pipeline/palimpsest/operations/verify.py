"""`palimpsest verify`: decode the stored tokens again, and compare the results with the recorded verdicts.

stored tokens -> decoder -> verdict, compared with the row's columns    is the corpus what it claims to be?
text -> page image -> encoder -> each token storage -> decoder          what does a storage lose? (`storages`)
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from palimpsest.codecs.token_storage import NONE, DamagedTokens, PackedTokens, find_storage, pack
from palimpsest.codecs.token_storage.pq import STORAGE, add_codebook
from palimpsest.codecs.token_storage.rows import refuse_other_codec, stored_tokens
from palimpsest.config import JobConfig
from palimpsest.corpus.codebooks import check_codebook, read_codebook
from palimpsest.corpus.page import render_row
from palimpsest.corpus.reader import published
from palimpsest.corpus.run_records import read_run
from palimpsest.corpus.snapshots import Snapshot, iter_shards
from palimpsest.flow.stages import Encode, Verify
from palimpsest.operations.codebooks import BATCH, PAGES, fit
from palimpsest.operations.progress import Progress
from palimpsest.pages.layouts.registry import make_layout
from palimpsest.report.findings import BASELINE, COUNTED, Findings, ReverifyResult
from palimpsest.schemas import BLANK
from palimpsest.storage.object_store import NoSuchObject, ObjectStore
from palimpsest.storage.stable_json import Damaged
from palimpsest.verification.control import is_sampled, sampled

if TYPE_CHECKING:
    from palimpsest.verification.verdict import Verdict

_READ_ROWS = 256
UNFITTED = STORAGE.name
_COLUMNS = [
    *("page_id", "text", "text_class", "tier", "mode", "image_px", "grid_h", "grid_w", "layout", "reason"),
    *("tokens", "token_dtype", "token_scales", "tokens_sha256", "codec", "codec_revision"),
    *("precision", "exact", "decoded_text", "num_vision_tokens", "num_text_tokens"),
]


def open_and_reverify(
    corpus: str,
    overrides: Sequence[str] = (),
    *,
    share: float = 1.0,
    storages: Sequence[str] = (),
    watch: Callable[[Progress], None] = lambda progress: None,
) -> ReverifyResult:
    """`reverify` the newest snapshot of a corpus, with the configuration that its run recorded and `key=value` overrides.

    Raises:
        ValueError: there is no published corpus, an override is bad, or `reverify` refuses a setting.
        UntrustedSetting: the corpus names a path, an address or a template that no override names.
    """
    store, snapshot = published(corpus)
    config = read_run(store, snapshot.run_id).job(overrides)
    return reverify(store, snapshot, config, share, storages, watch)


def reverify(
    store: ObjectStore,
    snapshot: Snapshot,
    config: JobConfig,
    share: float = 1.0,
    storages: Sequence[str] = (),
    watch: Callable[[Progress], None] = lambda progress: None,
) -> ReverifyResult:
    """Decode the stored tokens of a snapshot and compare the results, in constant memory.

    Args:
        watch: called after pages were checked.
        config: `codec`, `verification` and `placement` are used. Blank-page controls are decoded again too: a page with its
            control is a batch of two, and the last bits of a product depend on its number of rows.
        share: share of the pages, chosen by page id as a run chooses the pages that it verifies.
        storages: token storages whose decode loss is measured too; bf16 is always added, as the reference. pq is measured with
            the corpus's codebook, and where it has none, with one that is fitted to its first pages and not kept.

    Raises:
        CodecMismatch: a row's tokens are of another codec or revision than `config.codec`; nothing is decoded.
        Damaged: the codebook of `config` is missing or damaged.
        ValueError: the share is outside [0, 1], or a storage is unknown; the message lists the choices.
    """
    began = time.monotonic()
    tried = tuple(find_storage(name).name for name in dict.fromkeys((BASELINE, *storages))) if storages else ()
    is_sampled("", share)
    if config.storage.codebook:
        read_codebook(store, f"pq:{config.storage.codebook}")
    reader = _Reader(store, config, tried)
    codec = reader.verify.codec
    _refuse_other_codecs(store, snapshot, (codec.id, codec.revision))
    if UNFITTED in tried:
        reader.storages = [_codebook(store, snapshot, reader) if name == UNFITTED else name for name in tried]
    found, progress = Findings(), Progress(pages_total=snapshot.totals.rows, watch=watch)
    for table in _tables(store, snapshot, _COLUMNS, found.damage):
        _take_in(table, reader, share, found)
        progress.read(table.num_rows)
    return ReverifyResult(
        corpus=store.uri("corpus.json").rsplit("/", 1)[0],
        snapshot=snapshot.number,
        codec=codec.id,
        codec_revision=codec.revision,
        dtype=config.codec.dtype,
        share=share,
        rows=progress.pages,
        **{name: found.counts[name] for name in COUNTED},
        disagreements=tuple(found.disagreements),
        damages=tuple(found.damages),
        groups=tuple(found.groups()),
        storages=tuple(found.losses(codec.token_dim)),
        seconds=round(time.monotonic() - began, 3),
    )


def _refuse_other_codecs(store: ObjectStore, snapshot: Snapshot, reading: tuple[str, str]) -> None:
    for table in _tables(store, snapshot, ["codec", "codec_revision"], lambda page_id, what: None):  # damage is named later
        for row in table.group_by(["codec", "codec_revision"]).aggregate([]).to_pylist():
            if row["codec"] is not None:
                refuse_other_codec((row["codec"], row["codec_revision"]), reading)


def _tables(
    store: ObjectStore, snapshot: Snapshot, columns: Sequence[str], damage: Callable[[str | None, str], None]
) -> Iterator[pa.Table]:
    """The rows of all readable shards; `damage` is called for each other one, and reading continues with the next."""
    for unit in snapshot.units:
        for shard in unit.shards:
            try:
                yield from iter_shards(store, [shard], columns, batch_rows=_READ_ROWS)
            except (NoSuchObject, Damaged) as error:
                damage(None, str(error))


def _take_in(table: pa.Table, reader: _Reader, share: float, found: Findings) -> None:
    """Decode the sampled rows of a table, in batches of one mode and one storage."""
    found.counts["text_pages"] += pc.sum(pc.is_null(table["mode"])).as_py() or 0
    batches: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, (page_id, mode, dtype) in enumerate(
        zip(*(table[name].to_pylist() for name in ("page_id", "mode", "token_dtype")), strict=True)
    ):
        if mode is not None and is_sampled(f"verify {page_id}", share):
            batches[mode, dtype].append(index)
    for (mode, dtype), indices in batches.items():
        sound = []
        broken = reader.codebook_fault(dtype)
        for index in indices:
            what = broken or reader.damage(table.slice(index, 1), mode)
            if what is None:
                sound.append(index)
            else:
                found.damage(table["page_id"][index].as_py(), what)
        step = reader.verify.step(reader.verify.config.placement.verify_batch)
        for start in range(0, len(sound), step):
            rows = table.take(sound[start : start + step])
            if dtype == NONE or reader.storages:
                packed = reader.encoded(rows, mode)
                found.remade(reader.remade(rows, packed), len(rows))
            if dtype == NONE:
                rows = _with_tokens(rows, BASELINE, packed(BASELINE))
            found.compare(rows, reader.verdicts(rows, mode))
            if reader.storages:
                found.store(
                    rows, {name: reader.verdicts(_with_tokens(rows, name, packed(name)), mode) for name in reader.storages}
                )


def _codebook(store: ObjectStore, snapshot: Snapshot, reader: _Reader) -> str:
    """The storage pq with the codebook of the corpus, or one that is fitted to its first pages."""
    config = reader.verify.config
    if config.storage.codebook:
        return f"pq:{config.storage.codebook}"
    layout = make_layout(config.layout)
    seen: dict[str, None] = {}

    def texts() -> Iterator[tuple[str, str]]:
        for table in _tables(store, snapshot, ["text", "text_class", "mode"], lambda page_id, what: None):
            seen.update(dict.fromkeys(name for name in table["mode"].unique().to_pylist() if name is not None))
            visual = table.filter(pc.is_valid(table["mode"]))
            yield from zip(visual["text"].to_pylist(), visual["text_class"].to_pylist(), strict=True)

    first = list(islice(texts(), PAGES))
    codec = reader.encode.codec
    return add_codebook(
        fit(codec, layout, [codec.mode(name) for name in seen], first, config.storage.pq_bits, step=reader.encode.step(BATCH))
    )


class _Reader:
    """The decoder, and the encoder where storages are measured or blank-page controls are decoded."""

    def __init__(self, store: ObjectStore, config: JobConfig, storages: Sequence[str]) -> None:
        self.store, self.verify, self.storages = store, Verify(config, ""), storages
        self._codebooks: dict[str, str | None] = {}

    def codebook_fault(self, dtype: str | None) -> str | None:
        """The fault of the codebook of tokens of this dtype, or None."""
        if dtype is None:
            return None
        if dtype not in self._codebooks:
            self._codebooks[dtype] = check_codebook(self.store, dtype)
        return self._codebooks[dtype]

    @cached_property
    def encode(self) -> Encode:
        return Encode(self.verify.config, "")

    def verdicts(self, rows: pa.Table, mode_name: str) -> Sequence[Verdict]:
        """Verdicts on rows of a corpus, all of one mode and one storage."""
        ids = rows["page_id"].to_pylist()
        controlled = sampled(ids, self.verify.config.verification.control_share)
        blanks = self.encode.blanks(ids, mode_name) if controlled else [None] * len(ids)
        return self.verify.verdicts(rows.append_column("blank", pa.array(blanks, BLANK)), mode_name)

    def damage(self, row: pa.Table, mode: str) -> str | None:
        """The reason why a row's tokens cannot be decoded, or None."""
        if row["token_dtype"][0].as_py() == NONE:
            return self._undrawable(row)
        if row["tokens"].null_count:
            return f"no tokens on a page of mode {mode!r}"
        try:
            stored_tokens(row, self.verify.codec.mode(mode), self.verify.codec)
        except (DamagedTokens, ValueError) as error:  # also a token storage that does not exist
            return str(error)
        return None

    def _undrawable(self, row: pa.Table) -> str | None:
        """The reason why a page without stored tokens cannot be encoded again, or None."""
        try:
            return None if render_row(row.to_pylist()[0]) is not None else "a mode and no image"
        except Damaged as error:
            return str(error)

    def encoded(self, rows: pa.Table, mode_name: str) -> Callable[[str], list[PackedTokens]]:
        """Render and encode pages again; the function packs their tokens in a storage."""
        codec, step = self.encode.codec, self.encode.step(self.encode.config.placement.encode_batch)
        images = np.stack([image for row in rows.to_pylist() if (image := render_row(row)) is not None])
        mode = codec.mode(mode_name)
        batches = [codec.encode(images[start : start + step], mode) for start in range(0, len(images), step)]

        def packed(storage: str) -> list[PackedTokens]:
            return [page for tokens in batches for page in pack(storage, tokens)]

        return packed

    def remade(self, rows: pa.Table, packed: Callable[[str], list[PackedTokens]]) -> int:
        """The number of pages that gave the recorded tokens again; for storage none their hash is of bf16."""
        stored = rows["token_dtype"][0].as_py()
        recorded = rows["tokens_sha256"].to_pylist()
        pages = packed(BASELINE if stored == NONE else stored)
        return sum(page.sha256 == sha256 for page, sha256 in zip(pages, recorded, strict=True))


def _with_tokens(rows: pa.Table, storage: str, pages: Sequence[PackedTokens]) -> pa.Table:
    columns = {
        "tokens": [page.payload for page in pages],
        "token_scales": [page.scales for page in pages],
        "tokens_sha256": [page.sha256 for page in pages],
        "token_dtype": [storage] * len(pages),
    }
    for name, values in columns.items():
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, name, pa.array(values, rows.schema.field(at).type))
    return rows
