"""A page and a document of a published corpus, as read back."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from palimpsest.codecs.presets import find_preset
from palimpsest.codecs.token_storage import NONE, DamagedTokens, PackedTokens, find_storage
from palimpsest.codecs.token_storage.rows import refuse_other_codec, stored_tokens
from palimpsest.corpus.codebooks import read_codebook
from palimpsest.corpus.row_filter import UnknownColumn
from palimpsest.pages.layouts.registry import layout_of_row
from palimpsest.schemas import SHARD
from palimpsest.storage.stable_json import Damaged

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from palimpsest.codecs.adapter import Codec
    from palimpsest.storage.object_store import ObjectStore


class Page:
    """One row of the row contract: every column is an attribute (`page.text`, `page.tier`, `page.precision`, …).

    The column `tokens` holds the bytes as stored; as an attribute it is the method that unpacks them.
    """

    __slots__ = ("_row", "_rows", "_store")

    def __init__(self, rows: pa.Table, row: int, store: ObjectStore | None = None) -> None:
        self._rows, self._row, self._store = rows, row, store  # the store holds the codebook of tokens stored as pq

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in SHARD.names:
            raise AttributeError(str(UnknownColumn(name, SHARD.names)))
        return self._value(name)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *SHARD.names]

    def __repr__(self) -> str:
        return f"<Page {self.page_id} ({self.tier}): {self.text[:40]!r}>"

    def _value(self, name: str) -> Any:
        return self._rows[name][self._row].as_py()

    def to_dict(self) -> dict[str, Any]:
        """All columns by name, `tokens` as stored bytes."""
        return {name: self._value(name) for name in SHARD.names}

    def image(self) -> Image | None:
        """The page image, rendered again from the text: PIL, mode "L", `image_px` square. None for a page kept as text."""
        from PIL import Image

        pixels = render_row({name: self._value(name) for name in RENDERED})
        return None if pixels is None else Image.fromarray(pixels)

    def tokens(self, codec: Codec | None = None) -> np.ndarray | None:
        """The visual tokens, dequantised: float32 `[num_vision_tokens, token_dim]`. None for a page kept as text.

        numpy has no bfloat16; the values are bfloat16's, so that `torch.from_numpy(page.tokens()).bfloat16()` loses nothing.

        Args:
            codec: of a corpus without stored tokens, whose pages are encoded again; from `palimpsest.load_codec`. None means the
                codec that comes with Palimpsest.

        Raises:
            DamagedTokens: the stored bytes do not have the recorded hash or length.
            Damaged: the corpus's codebook is missing or damaged.
            CodecMismatch: the page is encoded again, and the codec is another than the row's.
        """
        payload = self._value("tokens")
        if payload is None:
            if self.token_dtype != NONE:
                return None
            return encoded_again({name: self._value(name) for name in AGAIN}, codec).float().numpy()
        found = hashlib.sha256(payload).hexdigest()
        if found != self.tokens_sha256:
            raise DamagedTokens(f"page {self.page_id}: its tokens have sha256 {found}, the row says {self.tokens_sha256}")
        packed = PackedTokens(payload=payload, scales=self.token_scales)
        self._read_codebook()
        bits = find_storage(self.token_dtype).unpack_bits([packed], self.num_vision_tokens, self.token_dim)[0]
        return (bits.astype(np.uint32) << 16).view(np.float32)

    def decode(self, codec: Codec | None = None) -> str:
        """The text that the codec reads from the stored tokens; for a page kept as text, that text.

        Args:
            codec: from `palimpsest.load_codec`. None means the codec that comes with Palimpsest: a name or path in a corpus is
                never loaded.

        Raises:
            CodecMismatch: the tokens are of another codec or revision.
            DamagedTokens: as `tokens`.
        """
        if self._value("mode") is None:
            return str(self.text)
        codec = codec or embedded()
        row = self._rows.slice(self._row, 1)
        refuse_other_codec((self.codec, self.codec_revision), (codec.id, codec.revision))
        mode, grid = codec.mode(self.mode), (self.grid_w, self.grid_h)
        if self.token_dtype == NONE:
            tokens = encoded_again({name: self._value(name) for name in AGAIN}, codec)[None]
        else:
            self._read_codebook()
            tokens = stored_tokens(row, mode, codec)
        if codec.preset.reader:
            return codec.decode_ids(codec.read_cells(tokens, grid)[0])
        longest = 2 * len(codec.encode_text(self.text, mode, grid)) + 64  # a decoder that repeats itself ends here
        return codec.decode_ids(codec.generate(codec.features(tokens, mode), [codec.prompt_ids(mode, grid)], longest)[0])

    def _read_codebook(self) -> None:
        if self._store is not None:
            read_codebook(self._store, self.token_dtype)


@dataclass(frozen=True, kw_only=True)
class Document:
    """One document, assembled from its pages.

    Attributes:
        text: the normalised text, without pages that were forgotten or that a condition excluded.
        pages: number of its `num_pages` that it contains.
        num_text_tokens, num_context_tokens: sums over these pages.
    """

    doc_id: str
    source_uri: str
    source_version: str
    source_id: str | None
    timestamp: datetime | None
    importance: float | None
    text_class: str
    num_pages: int
    pages: int
    text: str
    num_text_tokens: int
    num_context_tokens: int


_OF_DOCUMENT = ("doc_id", "source_uri", "source_version", "source_id", "timestamp", "importance", "text_class", "num_pages")
DOCUMENT_COLUMNS = (*_OF_DOCUMENT, "page_number", "text", "num_text_tokens", "num_context_tokens")


def documents_of(tables: Iterable[pa.Table]) -> Iterator[Document]:
    """The documents whose pages are in these rows (of DOCUMENT_COLUMNS), in the order of their first pages there."""
    pages: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for table in tables:
        for row in table.to_pylist():
            pages[row["doc_id"]].append(row)
    for rows in pages.values():
        rows.sort(key=lambda row: row["page_number"])
        yield Document(
            **{name: rows[0][name] for name in _OF_DOCUMENT},
            pages=len(rows),
            text="".join(row["text"] for row in rows),
            num_text_tokens=sum(row["num_text_tokens"] or 0 for row in rows),
            num_context_tokens=sum(row["num_context_tokens"] or 0 for row in rows),
        )


MAX_PX = 4096
"""Largest side of a page image that is drawn for a row of a corpus: such a row is untrusted."""
RENDERED = ("page_id", "text", "text_class", "image_px", "layout", "grid_w", "grid_h", "codec")


def render_row(row: Mapping[str, Any]) -> np.ndarray | None:
    """The image of a stored page, rendered again from its text: uint8 `[px, px]`, or None in tier text.

    Raises:
        Damaged: the row has sizes that no page has, or a layout or font that this machine lacks.
    """
    if row["image_px"] is None:
        return None
    name = f"page {ascii(row.get('page_id', ''))[:80]}"
    if not 0 < row["image_px"] <= MAX_PX:
        raise Damaged(f"{name}: an image of {row['image_px']:,} pixels a side; a corpus has at most {MAX_PX:,}")
    try:
        layout = layout_of_row(row, find_preset(row["codec"] or "").alphabet)
    except ValueError as error:
        raise Damaged(f"{name}: {error}") from error
    page = next(layout.paginate(row["text"] or "", row["text_class"] or ""), None)
    if page is None:
        raise Damaged(f"{name} has an image and no text")
    return layout.render([row["text"]], [page.drawing], row["image_px"])[0]


AGAIN = (*RENDERED, "mode", "codec_revision")
"""Columns of a row that is encoded again."""


def encoded_again(row: Mapping[str, Any], codec: Codec | None = None) -> Tensor:
    """The tokens of a row of storage none: its page drawn and encoded, bfloat16 `[num_vision_tokens, token_dim]` on the CPU.

    Args:
        row: with the columns AGAIN.
        codec: with its encoder; None means the codec that comes with Palimpsest: a name or path in a corpus is never loaded.

    Raises:
        CodecMismatch: the row's tokens are of another codec or revision.
        Damaged: as `render_row`.
    """
    codec = codec or embedded()
    refuse_other_codec((row["codec"], row["codec_revision"]), (codec.id, codec.revision))
    image = render_row(row)
    if image is None:
        raise Damaged(f"page {ascii(row.get('page_id', ''))[:80]} has a mode and no image")
    return codec.encode(image[None], codec.mode(row["mode"]))[0].cpu()


@lru_cache(maxsize=1)
def embedded() -> Codec:
    """The codec that comes with Palimpsest, on the CPU, with both halves: loaded once per process."""
    from palimpsest.codecs.adapter import load_codec

    return load_codec("embedded", parts="both")
