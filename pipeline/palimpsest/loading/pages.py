"""`Pages`: the pages of one snapshot of a corpus, as visual tokens, images or text."""

from __future__ import annotations

import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from palimpsest.corpus.format import open_corpus
from palimpsest.corpus.page import RENDERED, render_row
from palimpsest.corpus.row_filter import Where, condition
from palimpsest.corpus.shards import ShardRecord
from palimpsest.corpus.snapshots import CHECKED, latest, read_snapshot
from palimpsest.errors import UsageError
from palimpsest.loading.shard_cache import ShardCache
from palimpsest.loading.shard_rows import AGAIN, READ_ERRORS, OpenShards, check_names
from palimpsest.loading.source import STREAMS, WINDOW_BYTES, Damage, Reading, Rows
from palimpsest.loading.tokens import give_tokens
from palimpsest.schemas import SHARD
from palimpsest.storage.object_store import NoSuchObject
from palimpsest.storage.opening import open_store
from palimpsest.storage.stable_json import Damaged

if TYPE_CHECKING:
    from palimpsest.codecs.adapter import Codec
    from palimpsest.storage.object_store import ObjectStore

Give = Literal["tokens", "int8", "image", "text"]
GIVES: tuple[Give, ...] = get_args(Give)
GiveOf = Callable[[dict[str, Any]], Give]
TRIES, PAUSE = 3, 0.2  # of a read that fails; seconds before the second, doubled after it
ORDERS, ORDERS_ROOM = 0.25, 2 << 20  # share of `index_bytes` for the order of rows in units, 9 bytes a row, and its least
_SAMPLE = (
    "page_id",
    "doc_id",
    "page_number",
    "tier",
    "mode",
    "status",
    "precision",
    "num_text_tokens",
    "num_context_tokens",
    "text",
)
COUNTED = ("num_text_tokens", "num_context_tokens")
TOKEN_COLUMNS = ("num_vision_tokens", "token_dim", "token_dtype", "codec", "codec_revision")
FORGOTTEN = "forgotten"


class Pages(Rows):
    """Samples of the pages of one snapshot.

    The order follows the text (source, slice, document, page), not the shards, so a re-tiered snapshot has the same order.

    Args:
        corpus: its path or URI.
        where: a filter over the columns of the row contract: a pyarrow expression, or its text as `Corpus.pages` takes it. Only
            the columns that it names are read for it, before any payload.
        give: "tokens" (bfloat16 `[num_vision_tokens, token_dim]`), "int8" (`tokens` int8 and `scales` float32
            `[num_vision_tokens]`), "image" (uint8 `[px, px]`, drawn from the text) or "text"; or a function from a row to one
            of them. A page of tier text gives only its text. Every sample has `precision` and `text`, and says what it gives in
            `give`.
        snapshot: its number; the newest where None.
        columns: further columns of the row contract that samples carry.
        below_target: also give pages that were read worse than the target. Forgotten pages, which have no text, are never given.
        seed, streams, window_bytes: of the order: streams × window rows are shuffled together. `window_bytes` bounds what a
            reader holds: three quarters for the rows of all streams, the rest for footers and the like.
        cache, cache_bytes: a folder that keeps pieces of a bucket's shards, and its limit.
        codec: encodes pages of a corpus that keeps no tokens, from `palimpsest.load_codec`; None means the codec that comes with
            Palimpsest, which each worker loads for itself.

    Raises:
        UsageError: no snapshot, an unknown column, a filter that keeps nothing (when read).
        NotACorpus, NoSuchObject (with the snapshots that there are), Damaged.
    """

    def __init__(
        self,
        corpus: str | Path,
        *,
        where: Where | None = None,
        give: Give | GiveOf = "tokens",
        snapshot: int | None = None,
        columns: Sequence[str] = (),
        below_target: bool = False,
        seed: int = 0,
        streams: int = STREAMS,
        window_bytes: int = WINDOW_BYTES,
        cache: str | Path | None = None,
        cache_bytes: int = 16 << 30,
        codec: Codec | None = None,
    ) -> None:
        if not callable(give) and give not in GIVES:
            raise UsageError(f"give = {give!r}: choose {', '.join(GIVES)}, or a function of a row")
        unknown = [name for name in columns if name not in SHARD.names]
        if unknown:
            raise UsageError(f"columns = {unknown}: unknown; a page has {', '.join(SHARD.names)}")
        self.corpus, self.give, self.codec = str(corpus), give, codec
        store = open_store(corpus)
        open_corpus(store)
        version = latest(store) if snapshot is None else read_snapshot(store, snapshot)
        if version is None:
            raise UsageError(f"corpus {self.corpus!r} has no snapshot yet: run `palimpsest run … --out {self.corpus}` to its end")
        self._snapshot = version.number
        units = sorted(version.units, key=lambda unit: (unit.source_uri, unit.slice, unit.source_version, unit.fingerprint))
        self._shards = [unit.shards for unit in units]
        names = "\n".join(
            f"{unit.source_uri}\0{unit.source_version}\0{unit.slice}\0{unit.fingerprint}\0{unit.counts.rows}" for unit in units
        )
        self._digest = digest_of(names)
        self._keep = _filter(where, below_target)
        self._where = None if where is None else str(where)
        self._below_target = below_target
        gives = set(GIVES) if callable(give) else {give}
        self._payload = bool(gives & {"tokens", "int8"})
        needed = [
            *_SAMPLE,
            *columns,
            *(TOKEN_COLUMNS if self._payload else ()),
            *(RENDERED if "image" in gives else ()),
        ]
        self._columns = tuple(name for name in dict.fromkeys(needed) if name in SHARD.names)
        self._cache = None if cache is None else ShardCache(cache, cache_bytes)
        self._opened: tuple[int, OpenShards] | None = None
        self._indexes: OrderedDict[int, _Index] = OrderedDict()
        sizes = np.array([sum(shard.rows for shard in shards) for shards in self._shards], np.int64)
        self._ends = np.cumsum(sizes)
        stored = sum(shard.bytes for shards in self._shards for shard in shards)
        super().__init__(sizes, stored, seed=seed, streams=streams, window_bytes=window_bytes)

    def __repr__(self) -> str:
        return f"snapshot {self._snapshot} of {self.corpus}"

    @property
    def version(self) -> int:
        return self._snapshot

    def rows_digest(self) -> int:
        return self._digest

    def filter_digest(self) -> int:
        return digest_of(f"{self._where} {self._below_target}")

    def check(self) -> None:
        for section in range(len(self._shards)):
            try:
                if self._index(section).keep.any():
                    return
            except READ_ERRORS:  # reading meets it again, and does what `on_damage` says
                return
        raise UsageError(f"where = {self._where!r} keeps none of the {self.rows} pages of {self}")

    def count(self) -> int:
        """Pages that the filter keeps; reads the filter's columns of all shards."""
        return sum(int(self._index(section).keep.sum()) for section in range(len(self._shards)))

    def at(self, index: int) -> dict[str, Any]:
        """The sample of one row, counted in the order of the text, whatever the filter says.

        Raises:
            IndexError: there is no such row.
            Damaged, StoreError: it cannot be read.
        """
        if not 0 <= index < self.rows:
            raise IndexError(f"row {index}: {self} has {self.rows} pages")
        section = int(np.searchsorted(self._ends, index, side="right"))
        row = index - int(self._ends[section] - self.sizes[section])
        known = self._index(section)
        shard = self._shards_open.get(self._shards[section][int(known.shard[row])])
        return self.finish(shard.read([int(known.row[row])], self._columns, payload=self._payload)[0])

    def load(self, section: int, rows: Sequence[int], reading: Reading) -> list[dict[str, Any] | None]:
        try:
            index = tried(lambda: self._index(section), reading, lambda: self._forget(section))
        except READ_ERRORS as error:
            lost(error, f"{self._place(section)} of {self}", len(rows), reading)
            return [None] * len(rows)
        found: list[dict[str, Any] | None] = [None] * len(rows)
        by_shard: dict[int, list[int]] = {}
        for place, row in enumerate(rows):
            if index.keep[row]:
                by_shard.setdefault(int(index.shard[row]), []).append(place)
        for number, places in by_shard.items():
            shard = self._shards[section][number]
            for place, item in zip(places, self._read(shard, [int(index.row[rows[p]]) for p in places], reading), strict=True):
                found[place] = item
        return found

    def _read(self, shard: ShardRecord, rows: list[int], reading: Reading) -> list[dict[str, Any] | None]:
        """Rows of one shard; those that stay unreadable are None where damage is skipped."""
        found: dict[int, dict[str, Any] | None] = {}
        try:
            by_group: dict[int, list[int]] = {}
            opened = tried(lambda: self._shards_open.get(shard), reading, lambda: self._shards_open.forget(shard))
            for row in rows:
                by_group.setdefault(opened.group(row), []).append(row)
        except READ_ERRORS as error:
            lost(error, f"{shard.key} of {self}", len(rows), reading)
            return [None] * len(rows)
        for group in by_group.values():
            found |= self._read_group(shard, group, reading)
        return [found[row] for row in rows]

    def _read_group(self, shard: ShardRecord, rows: list[int], reading: Reading) -> dict[int, dict[str, Any] | None]:
        def read(some: list[int]) -> list[dict[str, Any]]:
            return self._shards_open.get(shard).read(some, self._columns, payload=self._payload)

        try:
            got = tried(lambda: read(rows), reading, lambda: self._shards_open.forget(shard))
            return dict(zip(rows, got, strict=True))
        except READ_ERRORS as error:
            if reading.on_damage != "skip" or len(rows) == 1:
                lost(error, f"{shard.key} of {self}", len(rows), reading)
                return dict.fromkeys(rows)
        found: dict[int, dict[str, Any] | None] = {}
        for row in rows:  # what is sound of it
            found |= self._read_group(shard, [row], reading)
        return found

    def finish(self, item: dict[str, Any]) -> dict[str, Any]:
        give = self.give(item) if callable(self.give) else self.give
        if give not in GIVES:
            raise UsageError(f"give returned {give!r} for page {item['page_id']}: choose {', '.join(GIVES)}")
        return given(item, give, self.codec)

    @property
    def _shards_open(self) -> OpenShards:
        if self._opened is None or self._opened[0] != os.getpid():  # a forked worker must not share its parent's streams
            self._opened = (os.getpid(), OpenShards(self._store(), self._cache, int((1 - ORDERS) * self.index_bytes)))
        return self._opened[1]

    def _store(self) -> ObjectStore:
        return open_store(self.corpus)

    def _place(self, section: int) -> str:
        return ", ".join(shard.key for shard in self._shards[section])

    def _forget(self, section: int) -> None:
        for shard in self._shards[section]:
            self._shards_open.forget(shard)

    def _index(self, section: int) -> _Index:
        if section not in self._indexes:
            self._indexes[section] = self._read_index(section)
            room = max(ORDERS_ROOM, ORDERS * self.index_bytes)
            while sum(index.nbytes for index in self._indexes.values()) > room and len(self._indexes) > 1:
                self._indexes.popitem(last=False)
        self._indexes.move_to_end(section)
        return self._indexes[section]

    def _read_index(self, section: int) -> _Index:
        """Read the keys and the filter's columns of a unit."""
        tables = []
        wanted = {"doc_id": pc.field("doc_id"), "page_number": pc.field("page_number"), "keep": self._keep}
        for number, shard in enumerate(self._shards[section]):
            with self._shards_open.stream(shard) as stream:
                try:
                    fragment = CHECKED.make_fragment(stream)
                    names = fragment.physical_schema.names
                    keys = fragment.to_table(schema=SHARD, columns=wanted, use_threads=False)
                except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                    raise Damaged(f"{shard.key} is not readable as Parquet: {error}") from error
            if keys.num_rows != shard.rows:
                raise Damaged(f"{shard.key} gives {keys.num_rows} rows, its record says {shard.rows}")
            check_names(self._shards_open.store, shard, names)
            rows = pa.array(np.arange(keys.num_rows, dtype=np.int32))
            keys = keys.append_column("row", rows).append_column("shard", pa.array(np.full(keys.num_rows, number, np.int32)))
            tables.append(keys)
        table = pa.concat_tables(tables).sort_by([("doc_id", "ascending"), ("page_number", "ascending")])
        keep = pc.fill_null(table["keep"], False).to_numpy()
        return _Index(table["shard"].to_numpy(), table["row"].to_numpy(), keep)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}


class _Index:
    """The rows of a unit in the order of its documents: number of the shard, row in it, and whether the filter keeps it."""

    def __init__(self, shard: np.ndarray, row: np.ndarray, keep: np.ndarray) -> None:
        self.shard, self.row, self.keep = shard, row, keep
        self.nbytes = shard.nbytes + row.nbytes + keep.nbytes


def given(row: dict[str, Any], give: Give, codec: Codec | None = None) -> dict[str, Any]:
    """A row as a sample that gives `give`; a page of tier text gives its text.

    Raises:
        UsageError: "int8" of tokens that are stored otherwise.
        DamagedTokens: tokens of the wrong length.
    """
    sample = {name: value for name, value in row.items() if name not in ("tokens", "token_scales", "tokens_sha256", AGAIN)}
    sample["give"] = give if row["mode"] is not None else "text"
    if sample["give"] in ("tokens", "int8"):
        sample |= give_tokens(row, as_stored=give == "int8", codec=codec)
    elif sample["give"] == "image":
        sample["image"] = render_row(row)
    return sample


def _filter(where: Where | None, below_target: bool) -> pc.Expression:
    wanted = condition(where, SHARD)
    keep = ~(pc.field("reason") == FORGOTTEN) | pc.field("reason").is_null()
    if not below_target:
        keep = keep & (pc.field("status") != "below_target")
    return keep if wanted is None else keep & wanted


def tried(read: Callable[[], Any], reading: Reading, forget: Callable[[], None]) -> Any:
    """What `read` returns, tried again after `forget` where it fails, as `reading` says."""
    for attempt in range(1, TRIES + 1):
        try:
            return read()
        except READ_ERRORS as error:
            if attempt == TRIES or reading.on_damage == "fail" or isinstance(error, NoSuchObject):
                raise
            forget()
            time.sleep(PAUSE * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


def lost(error: Exception, where: str, rows: int, reading: Reading) -> None:
    """Report rows that stayed unreadable where damage is skipped, else raise."""
    if reading.on_damage == "skip":
        reading.damage.append(Damage(where, rows, f"{type(error).__name__}: {error}"))
        return
    if isinstance(error, NoSuchObject):
        raise NoSuchObject(
            f"{where}: {error}; gc may have removed it: open the newest snapshot and load the state into its loader"
        ) from error
    raise error


def digest_of(text: str) -> int:
    """63 bits of its hash."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") >> 1
