"""One page: what was written, what was read back, and the difference between them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from palimpsest.corpus.shards import open_shard
from palimpsest.corpus.snapshots import Snapshot
from palimpsest.errors import UsageError
from palimpsest.schemas import SHARD
from palimpsest.storage.object_store import ObjectStore
from palimpsest.storage.stable_json import Damaged
from palimpsest.verification.fidelity import Span, diff_spans

RenderPage = Callable[[dict[str, Any]], np.ndarray | None]
"""A row of the contract -> its page image, uint8 `[px, px]`, or None for a page that has none.

Drawing a page again from its text is cheaper than keeping its image.
"""

SHOWN = [name for name in SHARD.names if name not in ("tokens", "token_scales")]
_SHORT = 3  # equal characters between two differences that are shown as part of them


class NoSuchPage(UsageError):
    """No page of the snapshot, or more than one, has this id; the message shows what there is."""


@dataclass(frozen=True, kw_only=True)
class PageView:
    """A page to look at.

    Attributes:
        row: the columns of the row contract, token payloads left out.
        image: uint8 `[px, px]`, or None where the page has none.
        text: what was written.
        decoded: what was read back; None for a page that was never decoded.
        spans: the alignment of the two, empty where `decoded` is None.
    """

    row: dict[str, Any]
    image: np.ndarray | None
    text: str
    decoded: str | None
    spans: tuple[Span, ...]

    @property
    def ratio(self) -> float | None:
        """Text tokens per context token, 1 for a page kept as text; None for one without text."""
        spent = self.row["num_context_tokens"]
        return self.row["num_text_tokens"] / spent if spent else None

    @property
    def token_grid(self) -> int | None:
        """Visual tokens per side of the image, where they form a square. The report's template reads it."""
        side = int(np.sqrt(self.row["num_vision_tokens"] or 0))
        return side if side and side * side == self.row["num_vision_tokens"] else None


def page_view(store: ObjectStore, snapshot: Snapshot, page_id: str, render_page: RenderPage) -> PageView:
    """The page with this id, or with the only id that begins like this.

    Raises:
        NoSuchPage: for an id that no page has, or a beginning that several share.
        NoSuchObject, Damaged.
    """
    found: dict[str, dict[str, Any]] = {}
    for row in _rows_where(store, snapshot, lambda ids: pc.starts_with(ids, pattern=page_id)):
        if row["page_id"] == page_id:
            return view(row, render_page)
        found[row["page_id"]] = row
        if len(found) > 4:
            break
    if len(found) == 1:
        return view(found.popitem()[1], render_page)
    if found:
        raise NoSuchPage(f"page id {page_id!r} is the beginning of several: {', '.join(sorted(found))}")
    total = snapshot.totals.pages_committed
    raise NoSuchPage(f"page id {page_id!r}: snapshot {snapshot.number} has {total} pages, and none of them begins like this")


def find_rows(store: ObjectStore, snapshot: Snapshot, page_ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """The rows of several pages by id, without their token payloads; ids that no page has are left out.

    Raises:
        NoSuchObject, Damaged.
    """
    requested = pa.array(sorted(page_ids), pa.string())
    rows: dict[str, dict[str, Any]] = {}
    for row in _rows_where(store, snapshot, lambda ids: pc.is_in(ids, value_set=requested)):
        rows.setdefault(row["page_id"], row)
        if len(rows) == len(requested):
            break
    return rows


def view(row: dict[str, Any], render_page: RenderPage) -> PageView:
    """The view of a row that has the columns SHOWN.

    Raises:
        ValueError: when `render_page` returns something that is no square grey image.
    """
    image = render_page(row)
    if image is not None and (image.dtype != np.uint8 or image.ndim != 2 or image.shape[0] != image.shape[1]):
        raise UsageError(f"the image of page {row['page_id']} is {image.dtype} {list(image.shape)}, expected uint8 [px, px]")
    text, decoded = row["text"] or "", row["decoded_text"]
    if decoded is None and row["exact"]:
        decoded = text
    spans = () if decoded is None else tuple(diff_spans(text, decoded))
    return PageView(row=row, image=image, text=text, decoded=decoded, spans=spans)


def readable(spans: Collection[Span]) -> list[Span]:
    """The same alignment for the eye: differences with fewer than three equal characters between them become one."""
    out: list[Span] = []
    waiting: Span | None = None  # a short equal piece that follows a difference
    for span in spans:
        if span.tag == "equal":
            if out and out[-1].tag != "equal" and len(span.reference) < _SHORT:
                waiting = span
            else:
                out.append(span)
            continue
        if waiting is None:
            out.append(span)
        else:
            before = out.pop()
            reference = before.reference + waiting.reference + span.reference
            out.append(Span("replace", reference, before.decoded + waiting.decoded + span.decoded))
            waiting = None
    return out if waiting is None else [*out, waiting]


def head(spans: Collection[Span], limit: int) -> tuple[list[Span], bool]:
    """The spans up to about `limit` characters of the reference or of what was read, and whether anything was left out."""
    out: list[Span] = []
    left = limit
    for span in spans:
        if left <= 0:
            return out, True
        size = max(len(span.reference), len(span.decoded))
        if size > left:
            return [*out, Span(span.tag, span.reference[:left], span.decoded[:left])], True
        out.append(span)
        left -= size
    return out, False


def _rows_where(store: ObjectStore, snapshot: Snapshot, matches: Callable[[pa.Array], pa.Array]) -> Iterator[dict[str, Any]]:
    """Rows whose page id matches. Of row groups without one, only the ids are read."""
    for unit in snapshot.units:
        for shard in unit.shards:
            with open_shard(store, shard) as stream:
                try:
                    file = pq.ParquetFile(stream)
                    for group in range(file.num_row_groups):
                        hits = matches(file.read_row_group(group, columns=["page_id"], use_threads=False)["page_id"])
                        if pc.any(hits).as_py():
                            yield from file.read_row_group(group, columns=SHOWN, use_threads=False).filter(hits).to_pylist()
                except (pa.ArrowException, OSError) as error:
                    raise Damaged(f"{store.uri(shard.key)} is not readable as Parquet: {error}") from error
