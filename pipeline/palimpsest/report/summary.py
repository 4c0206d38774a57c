"""One pass over a snapshot: everything that its report says in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from palimpsest.codecs.token_storage import find_storage
from palimpsest.corpus.codebooks import read_codebooks
from palimpsest.corpus.shards import TEXT_TIER
from palimpsest.corpus.snapshots import Snapshot, iter_tables
from palimpsest.corpus.units import Counts
from palimpsest.report.measures import Group, Measures, over
from palimpsest.report.quarantine import Quarantine, read_quarantine
from palimpsest.report.rate_control import Trials, rate_control
from palimpsest.storage.object_store import ObjectStore

POINTS = 250  # pages of each class and mode that the plot shows
WORST = 20  # worst pages of the whole corpus that are named
TEXT_PAGES = 3
MAX_CLASSES = 40  # a corpus whose class column holds something else must not fill the memory
OTHER = "(other classes)"
UNNAMED = "(none)"
_MEASURED = [
    *("page_id", "text", "text_class", "tier", "mode", "status", "reason", "tried", "text_tokenizer"),
    *("num_text_tokens", "num_context_tokens", "num_vision_tokens", "token_dim"),
    *("codec", "codec_revision", "fingerprint", "token_dtype"),
    *("precision", "word_precision", "set_precision", "exact", "decoder_passes", "blank_precision", "errata"),
]
_MAKERS = ("codec", "codec_revision", "fingerprint", "token_dtype")


@dataclass(frozen=True, kw_only=True)
class PagePoint:
    """A decoded page as a point: its honest compression ratio and its precision."""

    page_id: str
    text_class: str
    mode: str
    ratio: float
    precision: float


@dataclass(frozen=True, kw_only=True)
class Maker:
    """Pages that were made in the same way."""

    codec: str
    codec_revision: str
    fingerprint: str
    token_dtype: str
    pages: int


@dataclass(frozen=True, kw_only=True)
class Exhibits:
    """Pages and curves that are drawn.

    Attributes:
        points: of each class and mode at most POINTS pages, those of the smallest page ids (hashes, so a fair sample).
        curves: (class, mode) -> precisions that occur, ascending, and the pages that have each.
        worst, best: the page of each class with the lowest and the highest precision.
        worst_pages: the WORST pages with the lowest precision, that one first.
        text_pages: ids of the first TEXT_PAGES pages that are kept as text.
    """

    points: tuple[PagePoint, ...]
    curves: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]
    worst: dict[str, PagePoint]
    best: dict[str, PagePoint]
    worst_pages: tuple[PagePoint, ...] = ()
    text_pages: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A snapshot in numbers.

    Attributes:
        counts: what went into the snapshot's units and what came out.
        by_*: pages.
        groups: one of each class and mode, ordered by class, then by tokens per page.
        modes: the same of each mode, all classes together.
        visual: all pages that are kept as visual tokens.
        context_ratio: text tokens over what a context spends for the whole corpus, pages kept as text counted at their own price.
        shard_bytes: Parquet as stored, everything included.
        text_bytes_per_text_token: what the plain text would take in UTF-8.
        makers: by falling number of pages.
    """

    corpus: str
    snapshot: int
    run_id: str
    pages: int
    counts: Counts
    by_tier: dict[str, int]
    by_mode: dict[str, int]
    by_status: dict[str, int]
    by_class: dict[str, int]
    by_reason: dict[str, int]
    trials: Trials
    groups: tuple[Group, ...]
    modes: tuple[Group, ...]
    visual: Group
    text_tokens: int
    context_ratio: float | None
    shard_bytes: int
    shard_bytes_per_text_token: float | None
    text_bytes_per_text_token: float | None
    quarantine: Quarantine
    makers: tuple[Maker, ...]
    tokenizers: dict[str, int]
    exhibits: Exhibits

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers; without the exhibits and the quarantined records."""
        shown = {name: value for name, value in self.__dict__.items() if name not in ("exhibits", "quarantine")}
        rate = rate_control(self.modes, self.trials)
        return {**_plain(shown), "quarantine": dict(self.quarantine.reasons), "rate_control": rate and asdict(rate)}


def summarise(store: ObjectStore, snapshot: Snapshot) -> Summary:
    """Read a snapshot once, shard by shard. Token payloads are not read: their size follows from their type.

    Raises:
        NoSuchObject, Damaged: for a shard that is gone or unreadable.
        ValueError: for pages of a token type that this version does not know.
    """
    census = _Census()
    for table in iter_tables(store, snapshot, _MEASURED):
        read_codebooks(store, table["token_dtype"])  # a codebook says how many bytes its tokens have
        census.add(table)
    return census.summary(store, snapshot)


class _Census:
    """The state of the pass."""

    def __init__(self) -> None:
        self.counters: dict[str, Counter[str]] = {name: Counter() for name in ("tier", "mode", "status", "text_class", "reason")}
        self.classes: set[str] = set()
        self.trials = Trials()
        self.tokenizers: Counter[str] = Counter()
        self.makers: Counter[tuple[str, ...]] = Counter()
        self.measures: dict[tuple[str, str], Measures] = {}
        self.points: dict[tuple[str, str], pa.Table] = {}
        self.extremes: dict[tuple[str, str], pa.Table] = {}
        self.worst: dict[tuple[str, str], pa.Table] = {}
        self.text_pages: list[str] = []

    def add(self, table: pa.Table) -> None:
        table = self._labelled(table)
        self.trials.add(table.select(["tier", "tried"]))
        for name, counter in self.counters.items():
            counter.update(value for value in table[name].to_pylist() if value is not None)
        as_text = table.filter(pc.equal(table["tier"], TEXT_TIER))["page_id"].to_pylist()
        self.text_pages = sorted((*self.text_pages, *as_text))[:TEXT_PAGES]
        self.tokenizers.update(value for value in table["text_tokenizer"].to_pylist() if value is not None)
        made = table.filter(pc.is_valid(table["codec"])).select(_MAKERS)
        self.makers.update(tuple(value or "" for value in row.values()) for row in made.to_pylist())
        for key, part in _parts(table):
            self.measures.setdefault(key, Measures()).add(part)
            judged = part.filter(pc.and_(pc.is_valid(part["precision"]), pc.is_valid(part["ratio"])))
            judged = judged.select(["page_id", "text_class", "mode", "ratio", "precision"])
            if judged.num_rows:
                self._keep(self.points, key, judged, POINTS, [("page_id", "ascending")])
                by_id = ("page_id", "ascending")
                self._keep(self.extremes, ("worst", key[0]), judged, 1, [("precision", "ascending"), by_id])
                self._keep(self.worst, ("", ""), judged, WORST, [("precision", "ascending"), by_id])
                most = [("precision", "descending"), ("ratio", "descending"), by_id]
                self._keep(self.extremes, ("best", key[0]), judged, 1, most)

    def _labelled(self, table: pa.Table) -> pa.Table:
        """The table with a name for every class and mode, and what follows from other columns; texts replaced by their size."""
        classes = [self._class(name) for name in pc.fill_null(table["text_class"], UNNAMED).to_pylist()]
        text = pc.equal(table["tier"], TEXT_TIER)
        mode = pc.if_else(text, TEXT_TIER, pc.coalesce(table["mode"], table["tier"]))
        context = pc.if_else(pc.greater(table["num_context_tokens"], 0), table["num_context_tokens"], None)
        columns = {
            **{name: table[name] for name in table.column_names if name != "text"},
            "text_class": pa.chunked_array([pa.array(classes, pa.string())]),
            "mode": mode,
            "text_bytes": pc.fill_null(pc.binary_length(table["text"]), 0),
            "payload_bytes": _payload_bytes(table),
            "ratio": pc.divide(pc.cast(table["num_text_tokens"], pa.float64()), pc.cast(context, pa.float64())),
        }
        return pa.table(columns)

    def _class(self, name: str) -> str:
        if name not in self.classes and len(self.classes) < MAX_CLASSES:
            self.classes.add(name)
        return name if name in self.classes else OTHER

    @staticmethod
    def _keep(kept: dict[tuple[str, str], pa.Table], key: tuple[str, str], rows: pa.Table, count: int, order: list[Any]) -> None:
        """The first `count` rows in `order` of what was kept and `rows`."""
        both = pa.concat_tables([kept[key], rows]) if key in kept else rows
        kept[key] = both.sort_by(order).slice(0, count).combine_chunks()

    def summary(self, store: ObjectStore, snapshot: Snapshot) -> Summary:
        def cost(measures: Measures) -> float:  # of a page; pages kept as text last
            return measures.counts["num_vision_tokens"] / measures.counts["pages"] or float("inf")

        by_mode: dict[str, Measures] = {}
        for (_, mode), measures in sorted(self.measures.items()):
            by_mode[mode] = by_mode.get(mode, Measures()) + measures
        modes = sorted(by_mode, key=lambda mode: (cost(by_mode[mode]), mode))
        keys = sorted(self.measures, key=lambda key: (key[0], modes.index(key[1])))
        everything = sum(by_mode.values(), Measures()).counts
        visual = sum((measures for mode, measures in by_mode.items() if mode != TEXT_TIER), Measures()).group("all", "all")
        shard_bytes = sum(shard.bytes for unit in snapshot.units for shard in unit.shards)
        extremes = {key: PagePoint(**table.to_pylist()[0]) for key, table in self.extremes.items()}
        return Summary(
            corpus=store.uri("corpus.json").removesuffix("corpus.json").rstrip("/\\"),
            snapshot=snapshot.number,
            run_id=snapshot.run_id,
            pages=everything["pages"],
            counts=snapshot.totals,
            **{f"by_{name.removeprefix('text_')}": dict(counter.most_common()) for name, counter in self.counters.items()},
            trials=self.trials,
            groups=tuple(self.measures[key].group(*key) for key in keys),
            modes=tuple(by_mode[mode].group("all", mode) for mode in modes),
            visual=visual,
            text_tokens=everything["num_text_tokens"],
            context_ratio=over(everything["num_text_tokens"], everything["num_context_tokens"]),
            shard_bytes=shard_bytes,
            shard_bytes_per_text_token=over(shard_bytes, everything["num_text_tokens"]),
            text_bytes_per_text_token=over(everything["text_bytes"], everything["num_text_tokens"]),
            quarantine=read_quarantine(store, snapshot),
            makers=tuple(
                Maker(**dict(zip(_MAKERS, made, strict=True)), pages=pages) for made, pages in self.makers.most_common()
            ),
            tokenizers=dict(self.tokenizers.most_common()),
            exhibits=Exhibits(
                points=tuple(PagePoint(**row) for key in keys if key in self.points for row in self.points[key].to_pylist()),
                curves={key: self.measures[key].curve() for key in keys if self.measures[key].histogram},
                worst={name: point for (kind, name), point in sorted(extremes.items()) if kind == "worst"},
                best={name: point for (kind, name), point in sorted(extremes.items()) if kind == "best"},
                text_pages=tuple(self.text_pages),
                worst_pages=tuple(PagePoint(**row) for table in self.worst.values() for row in table.to_pylist()),
            ),
        )


def _parts(table: pa.Table) -> Iterator[tuple[tuple[str, str], pa.Table]]:
    """The table's rows by class and mode."""
    for name, mode in sorted(set(zip(table["text_class"].to_pylist(), table["mode"].to_pylist(), strict=True))):
        same = pc.and_(pc.equal(table["text_class"], name), pc.equal(table["mode"], mode))
        yield (name, mode), table.filter(same)


def _payload_bytes(table: pa.Table) -> pa.ChunkedArray:
    """Bytes of each page's tokens and scales, int64 `[rows]`: what `fsck` holds the stored ones to."""
    sizes = np.zeros(table.num_rows, np.int64)
    for dtype, dim in set(zip(table["token_dtype"].to_pylist(), table["token_dim"].to_pylist(), strict=True)):
        if dtype is None or dim is None:
            continue
        same = pc.and_(pc.equal(table["token_dtype"], dtype), pc.equal(table["token_dim"], dim))
        tokens = pc.fill_null(pc.if_else(same, table["num_vision_tokens"], 0), 0).to_numpy().astype(np.int64)
        sizes += tokens * find_storage(dtype).bytes_per_token(dim)
    return pa.chunked_array([pa.array(sizes)])


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value
