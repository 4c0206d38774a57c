"""The stages: plain classes that map one Arrow table to others. They know nothing of Ray; `flow.py` chains them.

    Read -> Paginate -> Render -> Encode -> Verify -> Write

Rows of a kind other than "page" (quarantined records, duplicates, ends of units) pass through every stage untouched.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import JobConfig
from pipeline.memory import keep_freed_memory
from pipeline.pages.grid import Grid
from pipeline.pages.normalise import normalise
from pipeline.pages.pagination import DocumentPage, layout_fingerprint, page_id, paginate, render
from pipeline.pages.text_class import classify
from pipeline.plan import PlannedUnit
from pipeline.records import IMAGES, PAGES, QUARANTINE_BYTES, SHARD, TOKENS, VERDICTS, conform
from pipeline.sources.config import SourceConfig
from pipeline.sources.documents import Reason, utf8
from pipeline.sources.tables import read_unit_tables

if TYPE_CHECKING:
    from pipeline.codecs.adapter import Codec
    from pipeline.codecs.modes import Mode
    from pipeline.verification.reading import Decoded

UNITS = pa.schema([pa.field("unit", pa.string(), nullable=False)])
WRITTEN = pa.schema(
    [
        pa.field("unit_id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("payload", pa.string()),
        pa.field("record", pa.binary()),
    ]
)
TEXT_TIER = "text"
_PAGE_BUFFER = 256  # pages of a document that are kept while its pages are counted


class Read:
    """UNITS -> DOCUMENTS, streamed."""

    def __init__(self, config: SourceConfig) -> None:
        self.config = config

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        for text in table["unit"].to_pylist():
            planned = PlannedUnit.from_json(text)
            left_out = frozenset(planned.left_out)
            yield from read_unit_tables(planned.unit, self.config, unit_id=planned.unit_id, left_out=left_out, max_rows=1024)


class Paginate:
    """DOCUMENTS -> PAGES: normalise, lay out, count tokens, choose the tier."""

    def __init__(self, config: JobConfig, grid: Grid, px: int) -> None:
        self.config, self.grid, self.px = config, grid, px
        self.layout = layout_fingerprint(grid)

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        batch: list[dict[str, Any]] = []
        for document in table.to_pylist():
            if document["kind"] != "document":
                document.pop("text")
                batch.append(document)
            else:
                for row in self._rows(document):
                    batch.append(row)
                    if len(batch) >= self.config.placement.render_batch:
                        yield self._table(batch)
                        batch = []
        if batch:
            yield self._table(batch)

    def _rows(self, document: dict[str, Any]) -> Iterator[dict[str, Any]]:
        raw = document.pop("text")
        text = normalise(raw)
        first: list[DocumentPage] = []
        num_pages = 0
        for page in paginate(text, self.grid):
            num_pages += 1
            if num_pages <= _PAGE_BUFFER:
                first.append(page)
        if not num_pages:
            detail = "nothing is left of the text after normalising"
            record = utf8(raw)[:QUARANTINE_BYTES]
            yield {**document, "kind": "quarantined", "reason": str(Reason.EMPTY_TEXT), "detail": detail, "record": record}
            return
        pages = first if num_pages <= _PAGE_BUFFER else paginate(text, self.grid)
        text_class = document["text_class"] or classify(text[:20_000])
        for number, page in enumerate(pages):
            yield {
                **document,
                "kind": "page",
                "text_class": text_class,
                "page_id": page_id(document["doc_id"], number, self.layout),
                "page_number": number,
                "num_pages": num_pages,
                "char_start": page.char_start,
                "char_end": page.char_end,
                "text": text[page.char_start : page.char_end],
                **self._tier(page),
            }

    def _tier(self, page: DocumentPage) -> dict[str, Any]:
        length = page.char_end - page.char_start
        size = {"grid_h": self.grid.rows, "grid_w": self.grid.columns}
        covered = page.escaped <= self.config.layout.max_escaped_share * length
        readable = page.script == "grid" or self.grid.alphabet == "unicode"
        if covered and readable:
            mode = self.config.tiers.mode
            return {"tier": mode, "mode": mode, "image_px": self.px, "cells": page.cells, "lines": page.lines, **size}
        if readable:
            detail = f"{page.escaped} of {length} characters need an escape"
        else:
            detail = f"a script that needs shaping is not in the alphabet {self.grid.alphabet!r}"
        return {"tier": TEXT_TIER, "reason": "not_covered", "detail": detail, **size}

    def _table(self, rows: list[dict[str, Any]]) -> pa.Table:
        from pipeline.codecs.text_tokens import TEXT_TOKENIZER, count_tokens

        pages = [row for row in rows if row["kind"] == "page"]
        for row, count in zip(pages, count_tokens([row["text"] for row in pages]), strict=True):
            row["num_text_tokens"], row["text_tokenizer"] = count, TEXT_TOKENIZER
        return _table(rows, PAGES, "paginate")


class Render:
    """PAGES -> IMAGES."""

    def __init__(self, grid: Grid, px: int) -> None:
        self.grid, self.px = grid, px

    def __call__(self, table: pa.Table) -> pa.Table:
        drawn = table.filter(pc.equal(table["image_px"], self.px)).select(["char_start", "char_end", "cells", "lines"])
        pages = [DocumentPage(**row, escaped=0) for row in drawn.to_pylist()]
        images = iter(render(pages, self.grid, self.px))
        column = [None if px is None else next(images).tobytes() for px in table["image_px"].to_pylist()]
        table = table.drop_columns(["cells", "lines"]).append_column("image", pa.array(column, pa.large_binary()))
        return conform(table, IMAGES, "render")


class Model:
    """What Encode and Verify share: a codec, loaded once per worker."""

    parts: Any = "both"

    def __init__(self, config: JobConfig, fingerprint: str) -> None:
        import torch

        from pipeline.codecs.adapter import load_codec

        keep_freed_memory()
        self.config, self.fingerprint = config, fingerprint
        if config.placement.threads_per_worker:
            torch.set_num_threads(config.placement.threads_per_worker)
        self.codec: Codec = load_codec(config.codec.name, config.codec.path, **codec_options(config), parts=self.parts)

    def step(self, batch: int) -> int:
        """Pages per call of the model: `batch`, but one on a CPU. A batch gains nothing there, and the last bits of a product
        depend on how many rows it has, so that a page's tokens would depend on which pages happen to arrive beside it."""
        return 1 if self.codec.device.type == "cpu" else batch


class Encode(Model):
    """IMAGES -> TOKENS, as they will be stored."""

    parts = "encoder"

    def __call__(self, table: pa.Table) -> pa.Table:
        from pipeline.codecs.token_storage import pack

        rows = table.num_rows
        columns: dict[str, list[Any]] = {name: [None] * rows for name in _token_columns()}
        step = self.step(self.config.placement.encode_batch)
        for name, places in _by_mode(table):
            mode = self.codec.mode(name)
            for start in range(0, len(places), step):
                some = places[start : start + step]
                images = np.stack([_image(table["image"][place], mode.px) for place in some])
                packed = pack(self.config.storage.tokens, self.codec.encode(images, mode))
                for place, page in zip(some, packed, strict=True):
                    values = {
                        "num_vision_tokens": mode.num_vision_tokens,
                        "num_context_tokens": mode.num_context_tokens,
                        "tokens": page.payload,
                        "token_dim": self.codec.token_dim,
                        "token_dtype": self.config.storage.tokens,
                        "token_scales": page.scales,
                        "tokens_sha256": page.sha256,
                        "codec": self.codec.id,
                        "codec_revision": self.codec.revision,
                    }
                    for key, value in values.items():
                        columns[key][place] = value
        columns["fingerprint"] = [self.fingerprint if kind == "page" else None for kind in table["kind"].to_pylist()]
        tokens = {name: pa.array(values, TOKENS.field(name).type) for name, values in columns.items()}
        return conform(_with(table.drop_columns(["image"]), tokens), TOKENS, "encode")


class Verify(Model):
    """TOKENS -> VERDICTS: read back what is stored and compare."""

    parts = "decoder"

    def __call__(self, table: pa.Table) -> pa.Table:
        from pipeline.verification.control import is_sampled

        settings = self.config.verification
        tiers, ids = table["tier"].to_pylist(), table["page_id"].to_pylist()
        kinds = table["kind"].to_pylist()
        columns: dict[str, list[Any]] = {name: [None] * table.num_rows for name in _verdict_columns()}
        for place, (kind, tier) in enumerate(zip(kinds, tiers, strict=True)):
            if kind == "page":
                columns["status"][place] = "text" if tier == TEXT_TIER else "unverified"
        reasons, details = table["reason"].to_pylist(), table["detail"].to_pylist()
        step = self.step(self.config.placement.verify_batch)
        for name, places in _by_mode(table):
            chosen = [place for place in places if is_sampled(f"verify {ids[place]}", settings.share)]
            for start in range(0, len(chosen), step):
                some = chosen[start : start + step]
                for place, verdict in zip(some, self.verdicts(table.take(some), name), strict=True):
                    values = asdict(verdict)
                    reasons[place], details[place] = values.pop("reason"), values.pop("detail")
                    for key, value in values.items():
                        columns[key][place] = value
        verdicts = {key: pa.array(values, VERDICTS.field(key).type) for key, values in columns.items()}
        carried = {"reason": pa.array(reasons, pa.string()), "detail": pa.array(details, pa.string())}
        return conform(_with(_with(table, carried), verdicts), VERDICTS, "verify")

    def verdicts(self, table: pa.Table, mode_name: str) -> Sequence[Any]:
        """Verdicts on rows with tokens, all of one mode."""
        from pipeline.verification.control import is_sampled
        from pipeline.verification.verdict import judge

        settings, mode = self.config.verification, self.codec.mode(mode_name)
        tokens = stored_tokens(table, mode, self.codec)
        controlled = [
            place for place, name in enumerate(table["page_id"].to_pylist()) if is_sampled(name, settings.control_share)
        ]
        texts = table["text"].to_pylist()
        grids = list(zip(table["grid_w"].to_pylist(), table["grid_h"].to_pylist(), strict=True))
        read_back = self._read_cells if settings.reader == "cells" else self._read_generative
        read, controls = read_back(tokens, mode, texts, grids, controlled)
        blanks: list[str | None] = [None] * len(texts)
        for place, page in zip(controlled, controls, strict=True):
            blanks[place] = self.codec.decode_ids(page.ids)
        decoded = [self.codec.decode_ids(page.ids) for page in read]
        return judge(texts, decoded, read, target_precision=settings.target_precision, blank_texts=blanks)

    def _read_generative(
        self, tokens: Any, mode: Mode, texts: list[str], grids: list[tuple[int, int]], controlled: list[int]
    ) -> tuple[list[Decoded], list[Decoded]]:
        """What the decoder writes for each page, and for the controlled ones from an empty page's tokens."""
        from pipeline.verification.control import blanked
        from pipeline.verification.early_stop import EarlyStop, stable_prefix
        from pipeline.verification.greedy import decode
        from pipeline.verification.loops import LoopWatch
        from pipeline.verification.reading import DraftedPage

        codec, settings = self.codec, self.config.verification
        pages = []
        for text, features, grid in zip(texts, codec.features(tokens, mode), grids, strict=True):
            draft, prompt = codec.encode_text(text, mode, grid), codec.prompt_ids(mode, grid)
            watches: tuple[Any, ...] = (LoopWatch(draft),)
            if settings.early_stop and settings.target_precision:
                watches += (EarlyStop(text, settings.target_precision, lambda ids: stable_prefix(codec.decode_ids(ids))),)
            positions = codec.positions(prompt)
            pages.append(DraftedPage(features=features, prompt_ids=prompt, draft_ids=draft, positions=positions, watches=watches))
        controls = []
        for place in controlled:
            watch = LoopWatch(pages[place].draft_ids)
            controls.append(blanked(pages[place], codec.features(self._blank(mode), mode)[0], (watch,)))
        read = decode(
            codec, [*pages, *controls], image_inputs=codec.image_inputs, bidirectional_images=codec.bidirectional_images
        )
        return read[: len(pages)], read[len(pages) :]

    def _read_cells(
        self, tokens: Any, mode: Mode, texts: list[str], grids: list[tuple[int, int]], controlled: list[int]
    ) -> tuple[list[Decoded], list[Decoded]]:
        """The same by the codec's cell reader: one pass for all cells of a page, and nothing to draft."""
        from pipeline.verification.reading import Decoded

        def read(tokens: Any, places: Sequence[int]) -> list[Decoded]:
            ids: dict[int, list[int]] = {}
            for grid in {grids[place] for place in places}:
                some = [at for at, place in enumerate(places) if grids[place] == grid]
                ids.update(zip(some, self.codec.read_cells(tokens[some], grid), strict=True))
            return [Decoded(ids=tuple(ids[at]), passes=1, disagreements=0, stopped="eos") for at in range(len(places))]

        controls = read(self._blank(mode).expand(len(controlled), -1, -1), controlled) if controlled else []
        return read(tokens, range(len(texts))), controls

    def _blank(self, mode: Mode) -> Any:
        """Tokens of an empty page, bfloat16 `[1, num_vision_tokens, token_dim]`, through the token storage like any other."""
        from pipeline.codecs.adapter import load_codec
        from pipeline.codecs.token_storage import pack, unpack

        if mode.name not in self._blanks:
            encoder = load_codec(self.config.codec.name, self.config.codec.path, **codec_options(self.config), parts="encoder")
            storage = self.config.storage.tokens
            packed = pack(storage, encoder.encode(np.full((1, mode.px, mode.px), 255, np.uint8), mode))
            self._blanks[mode.name] = unpack(storage, packed, mode.num_vision_tokens, encoder.token_dim)
        return self._blanks[mode.name]

    @cached_property
    def _blanks(self) -> dict[str, Any]:
        return {}


class Write:
    """VERDICTS -> shards in the store; returns WRITTEN rows, which is all that the driver sees.

    A store that cannot be written is told in such a row too: an exception would come out of Ray as a page of its own frames.
    """

    def __init__(self, out: str, row_group_bytes: int) -> None:
        self.out, self.row_group_bytes = out, row_group_bytes

    def __call__(self, table: pa.Table) -> pa.Table:
        from pipeline.store.object_store import StoreError, open_store

        store = open_store(self.out)
        rows: list[dict[str, Any]] = []
        for unit_id in pc.unique(table["unit_id"]).to_pylist():
            try:
                rows += self._unit(store, unit_id, table.filter(pc.equal(table["unit_id"], unit_id)))
            except StoreError as error:
                rows.append(_written(unit_id, "failed", {"error": str(error)}))
        return pa.Table.from_pylist(rows, WRITTEN)

    def _unit(self, store: Any, unit_id: str, table: pa.Table) -> Iterator[dict[str, Any]]:
        from pipeline.store.shards import new_attempt, write_shards

        pages = table.filter(pc.equal(table["kind"], "page"))
        if pages.num_rows:
            shards = write_shards(
                store, pages.select(SHARD.names), unit_id=unit_id, attempt=new_attempt(), row_group_bytes=self.row_group_bytes
            )
            yield _written(unit_id, "written", {"shards": [asdict(shard) for shard in shards], **_page_counts(pages)})
        for kind in ("duplicate", "quarantined", "unit_end"):
            of_kind = table.filter(pc.equal(table["kind"], kind))
            if kind == "duplicate" and of_kind.num_rows:
                yield _written(unit_id, kind, {"rows": of_kind.num_rows})
            elif kind == "unit_end":
                yield from (_written(unit_id, kind, json.loads(counts)) for counts in of_kind["counts"].to_pylist())
            elif kind == "quarantined":
                columns = ["unit_id", "source_uri", "source_version", "source_id", "doc_id", "reason", "detail", "record"]
                for row in of_kind.select(columns).to_pylist():
                    record = row.pop("record")
                    yield {**_written(unit_id, kind, row), "record": record}


def codec_options(config: JobConfig) -> dict[str, Any]:
    """Arguments of `load_codec` other than name, path and parts."""
    import torch

    device = config.codec.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return {
        "revision": config.codec.revision,
        "content_hash": config.codec.content_hash,
        "dtype": getattr(torch, config.codec.dtype),
        "device": device,
        "trust_remote_code": config.codec.trust_remote_code,
    }


def stored_tokens(table: pa.Table, mode: Any, codec: Codec) -> Any:
    """The visual tokens of rows of one mode and one storage, bfloat16 `[n, num_vision_tokens, token_dim]`.

    Raises:
        CodecMismatch: for tokens of another codec or revision.
        DamagedTokens: for a payload of the wrong length or hash.
    """
    from pipeline.codecs.token_storage import DamagedTokens, PackedTokens, refuse_other_codec, unpack

    pages = []
    for row in table.select(["page_id", "tokens", "token_scales", "tokens_sha256", "codec", "codec_revision"]).to_pylist():
        refuse_other_codec((row["codec"], row["codec_revision"]), (codec.id, codec.revision))
        page = PackedTokens(payload=row["tokens"], scales=row["token_scales"])
        if page.sha256 != row["tokens_sha256"]:
            said = row["tokens_sha256"]
            raise DamagedTokens(f"page {row['page_id']}: its tokens have sha256 {page.sha256}, the row says {said}")
        pages.append(page)
    return unpack(table["token_dtype"][0].as_py(), pages, mode.num_vision_tokens, codec.token_dim)


def _by_mode(table: pa.Table) -> Iterator[tuple[str, list[int]]]:
    """Places of the rows that have a mode, by mode, in order."""
    places: dict[str, list[int]] = {}
    for place, mode in enumerate(table["mode"].to_pylist()):
        if mode is not None:
            places.setdefault(mode, []).append(place)
    yield from places.items()


def _image(scalar: pa.Scalar, px: int) -> np.ndarray:
    return np.frombuffer(scalar.as_buffer(), np.uint8).reshape(px, px)


def _page_counts(pages: pa.Table) -> dict[str, int]:
    firsts = pages.filter(pc.equal(pages["page_number"], 0))
    return {
        "first_pages": firsts.num_rows,
        "pages_expected": pc.sum(firsts["num_pages"]).as_py() or 0,
        "pages": pages.num_rows,
        "text_tokens": pc.sum(pages["num_text_tokens"]).as_py() or 0,
        "context_tokens": pc.sum(pages["num_context_tokens"]).as_py() or 0,
    }


def _written(unit_id: str, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
    return {"unit_id": unit_id, "kind": kind, "payload": json.dumps(payload), "record": None}


def _token_columns() -> list[str]:
    return [name for name in TOKENS.names if name not in IMAGES.names]


def _verdict_columns() -> list[str]:
    return [name for name in VERDICTS.names if name not in TOKENS.names]


def _table(rows: list[dict[str, Any]], schema: pa.Schema, boundary: str) -> pa.Table:
    columns = {column.name: pa.array([row.get(column.name) for row in rows], column.type) for column in schema}
    return conform(pa.table(columns), schema, boundary)


def _with(table: pa.Table, columns: dict[str, pa.Array]) -> pa.Table:
    for name, column in columns.items():
        at = table.schema.get_field_index(name)
        table = table.append_column(name, column) if at < 0 else table.set_column(at, name, column)
    return table
