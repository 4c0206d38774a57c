"""The loader at its public edge: order, resume, filters, damage, bad input."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import palimpsest
from palimpsest.codecs.token_storage import PackedTokens, unpack
from palimpsest.corpus.format import create_corpus
from palimpsest.corpus.gc import gc
from palimpsest.corpus.reader import Corpus
from palimpsest.errors import UsageError
from palimpsest.loading.loader import Loader
from palimpsest.loading.order import Dealing, Order
from palimpsest.loading.pages import Pages
from palimpsest.loading.state import merge_states
from palimpsest.storage.local_store import LocalStore
from palimpsest.storage.object_store import NoSuchObject, StoreError
from tests.loader_corpora import publish_corpus, retier_corpus

Make = Callable[..., Pages]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loading") / "corpus"
    publish_corpus(folder)
    return folder


def pages(root: Path, **given: Any) -> Pages:
    return Pages(root, **{"streams": 8, "window_bytes": 200_000, **given})


def ids(loader: Loader) -> list[str]:
    return [one for batch in loader for one in batch["page_id"]]


def every_id(root: Path, where: str = "status <> 'below_target'") -> list[str]:
    return [page.page_id for page in Corpus(str(root)).pages(where=where)]


def test_an_epoch_has_every_page_once_whatever_the_workers_and_the_order_is_the_same(root: Path) -> None:
    expected = ids(pages(root).loader(7))
    assert sorted(expected) == sorted(every_id(root))
    for workers in (1, 3):
        assert ids(pages(root).loader(4, num_workers=workers)) == expected


def test_ranks_share_an_epoch_and_each_keeps_the_order_of_its_streams(root: Path) -> None:
    whole = ids(pages(root).loader(7))
    by_rank = [ids(pages(root).loader(5, rank=rank, world=4)) for rank in range(4)]
    assert Counter(whole) == Counter(one for some in by_rank for one in some)
    place = {one: number for number, one in enumerate(whole)}
    for some in by_rank:  # in the turns in which all streams still have samples
        assert [place[one] for one in some[:60]] == sorted(place[one] for one in some[:60])


def test_epochs_and_seeds_have_other_orders(root: Path) -> None:
    loader = pages(root).loader(7)
    first, second = ids(loader), ids(loader)
    assert sorted(first) == sorted(second) and first != second
    assert ids(pages(root, seed=1).loader(7)) != first


@settings(max_examples=6)
@given(
    stop=st.integers(0, 60), before=st.sampled_from([1, 2, 4, 8]), after=st.sampled_from([1, 2, 4, 8]), epoch=st.integers(0, 1)
)
def test_a_state_continues_on_another_world(root: Path, stop: int, before: int, after: int, epoch: int) -> None:
    states, found = [], []
    for rank in range(before):
        loader = pages(root).loader(3, rank=rank, world=before)
        for _ in range(epoch):
            ids(loader)
        batches = iter(loader)
        for _ in range(stop):
            batch = next(batches, None)
            found += batch["page_id"] if batch else []
        states.append(loader.state_dict(gather=False))
    state = merge_states(states)
    for rank in range(after):
        loader = pages(root).loader(5, rank=rank, world=after)
        loader.load_state_dict(state)
        found += ids(loader)
    wanted = Counter(every_id(root))
    found_once = Counter(found)
    whole_epoch_was_over = sum(found_once.values()) == 2 * sum(wanted.values())  # then the resumed loop is the next epoch
    assert found_once == (wanted + wanted if whole_epoch_was_over else wanted)


def test_a_state_continues_on_a_retiered_snapshot_after_gc(tmp_path: Path) -> None:
    publish_corpus(tmp_path / "c")
    undisturbed = [sample["page_id"] for sample in _samples(pages(tmp_path / "c"))]
    loader = pages(tmp_path / "c").loader(6, num_workers=1)
    batches = iter(loader)
    found = [one for _ in range(11) for one in next(batches)["page_id"]]
    state = loader.state_dict()
    del batches
    retier_corpus(tmp_path / "c", {0, 1, 2, 3, 4, 5})
    gc(LocalStore(tmp_path / "c"), unused_for=timedelta(0), now=datetime.now(UTC) + timedelta(seconds=1), delete=True)
    with pytest.raises(NoSuchObject, match=r"there is no snapshot 1; the corpus has \[2\]"):
        pages(tmp_path / "c", snapshot=1)
    resumed = pages(tmp_path / "c").loader(6)
    resumed.load_state_dict(state)
    modes = set()
    for batch in resumed:
        found += batch["page_id"]
        modes |= set(batch["mode"])
    assert found == undisturbed and modes == {"tiny", None}


def _samples(source: Pages) -> list[dict[str, Any]]:
    batches = source.loader(1, collate=list)
    return [sample for batch in batches for sample in batch]


def test_tokens_are_what_was_stored(root: Path) -> None:
    by_id = {page.page_id: page for page in Corpus(str(root)).pages()}
    seen = 0
    for sample in _samples(pages(root)):
        page = by_id[sample["page_id"]]
        assert sample["text"] == page.text
        if page.tier == "text":
            assert sample["give"] == "text" and "tokens" not in sample
            continue
        stored = PackedTokens(page._value("tokens"), page.token_scales)
        expected = unpack("int8", [stored], page.num_vision_tokens, page.token_dim)[0]
        assert torch.equal(sample["tokens"], expected)
        assert sample["precision"] == pytest.approx(page.precision)
        seen += 1
    assert seen > 100


def test_a_page_is_given_as_asked_for(root: Path) -> None:
    def give(row: dict[str, Any]) -> Any:
        return "image" if row["tier"] == "small" else "text" if row["precision"] and row["precision"] < 0.9 else "int8"

    kinds: Counter[str] = Counter()
    for sample in _samples(pages(root, give=give, streams=4)):
        kinds[sample["give"]] += 1
        if sample["give"] == "image":
            assert sample["image"].shape == (640, 640) and sample["image"].dtype == np.uint8
        if sample["give"] == "int8":
            assert sample["tokens"].dtype == torch.int8 and sample["scales"].shape == (sample["num_vision_tokens"],)
    assert min(kinds["image"], kinds["text"], kinds["int8"]) > 10


def test_where_and_below_target(root: Path) -> None:
    kept = pages(root, where="precision >= 0.95 and text_class = 'prose'", columns=["text_class"])
    found = _samples(kept)
    assert {sample["text_class"] for sample in found} == {"prose"} and min(s["precision"] for s in found) > 0.949
    assert sorted(s["page_id"] for s in found) == sorted(
        every_id(root, "precision >= 0.95 and text_class = 'prose' and status <> 'below_target'")
    )
    assert kept.count() == len(found)
    everything = pages(root, below_target=True)
    assert {sample["status"] for sample in _samples(everything)} == {"verified", "below_target", "text"}


def test_a_plain_dataloader_gives_each_page_once(root: Path) -> None:
    found = [sample["page_id"] for sample in DataLoader(pages(root), batch_size=None, num_workers=2, collate_fn=lambda s: s)]
    assert sorted(found) == sorted(every_id(root))


@pytest.mark.parametrize("seed", range(5))
def test_the_order_has_no_trace_of_the_corpus_and_documents_are_apart(seed: int) -> None:
    sizes = np.full(40, 1000)
    order = Order(sizes, Dealing(seed=seed, streams=64, block=32, window=2))
    streams = []
    for number in range(64):
        stream, position, rows = order.stream(0, number), 0, []
        while position < stream.rows:
            window, position = stream.window(position)
            rows += [section * 1000 + row for section, row in window]
        streams.append(rows)
    longest = max(map(len, streams))
    merged = np.array([rows[turn] for turn in range(longest) for rows in streams if turn < len(rows)])
    assert sorted(merged.tolist()) == list(range(40_000))
    assert abs(np.corrcoef(merged, np.arange(len(merged)))[0, 1]) < 0.02
    documents, batch = merged // 10, 32
    pairs = sum(_pairs(documents[at : at + batch]) for at in range(0, len(merged), batch))
    uniform = len(merged) / batch * (batch * (batch - 1) / 2) * 9 / (len(merged) - 1)
    assert pairs <= 1.2 * uniform


def _pairs(values: np.ndarray) -> int:
    counts = np.unique(values, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())


def test_a_window_bounds_what_is_in_memory(root: Path) -> None:
    small = pages(root, window_bytes=1)
    assert (small.dealing.block, small.dealing.window) == (1, 1)
    d = pages(root, window_bytes=200_000).dealing
    stored = sum(shard.bytes for unit in Corpus(str(root)).snapshot.units for shard in unit.shards)
    assert d.streams * d.block * d.window * stored / len(Corpus(str(root))) <= 200_000


# damage


def damaged_shard(root: Path, where: str = "tokens") -> Path:
    """Flip a bit of a shard's tokens, or of its footer."""
    shard = sorted((root / "data" / "tiny").glob("*.parquet"))[0]
    body = bytearray(shard.read_bytes())
    at = 5000 if where == "tokens" else len(body) - 60
    body[at] ^= 4
    shard.write_bytes(body)
    return shard


@pytest.mark.parametrize("workers", [0, 2])
def test_a_flipped_bit_is_skipped_with_a_report_or_fails(root: Path, tmp_path: Path, workers: int) -> None:
    copy = tmp_path / "c"
    shutil.copytree(root, copy)
    shard = damaged_shard(copy)
    loader = pages(copy).loader(7, num_workers=workers, on_damage="skip")
    found = ids(loader)
    lost = set(every_id(root)) - set(found)
    assert len(lost) == 1 and len(found) == len(set(found)) == len(every_id(root)) - 1
    assert [(one.rows, shard.name in one.where) for one in loader.damage] == [(1, True)] and "sha256" in loader.damage[0].error
    for choice in ("retry", "fail"):
        with pytest.raises((StoreError, RuntimeError), match="sha256"):
            ids(pages(copy).loader(7, num_workers=workers, on_damage=choice))


def test_a_damaged_footer_delivers_nothing_wrong(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "c"
    shutil.copytree(root, copy)
    damaged_shard(copy, "footer")
    loader = pages(copy).loader(7, on_damage="skip")
    try:
        found = ids(loader)
    except StoreError:
        return
    assert loader.damage or sorted(found) == sorted(every_id(root))
    assert not set(found) - set(every_id(root))


def test_a_read_that_fails_once_is_tried_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from palimpsest.loading import pages as module
    from palimpsest.loading.shard_rows import ShardRows

    monkeypatch.setattr(module, "PAUSE", 0.0)
    failed: Counter[str] = Counter()
    whole = ShardRows.read

    def flaky(self: ShardRows, rows: Any, *args: Any, **more: Any) -> Any:
        failed[self.uri] += 1
        if failed[self.uri] == 1:
            raise OSError("the connection was reset")
        return whole(self, rows, *args, **more)

    monkeypatch.setattr(ShardRows, "read", flaky)
    assert sorted(ids(pages(root).loader(7))) == sorted(every_id(root))
    failed.clear()
    with pytest.raises(OSError, match="reset"):
        ids(pages(root).loader(7, on_damage="fail"))


# bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: pages(root, where="precison > 0.5"), "precison"),
        (lambda root: pages(root, columns=["nope"]), r"columns = \['nope'\]: unknown; a page has page_id"),
        (lambda root: pages(root, give="pixels"), "give = 'pixels': choose tokens, int8, image, text"),
        (lambda root: ids(pages(root, where="precision > 2").loader(2)), "where = 'precision > 2' keeps none of the 465 pages"),
        (lambda root: pages(root).loader(2, world=3), "world = 3 does not divide streams = 8"),
        (lambda root: pages(root).loader(2, rank=2, world=2), "rank = 2, world = 2"),
        (lambda root: pages(root).loader(2, on_damage="ignore"), "on_damage = 'ignore': choose retry, skip, fail"),
        (lambda root: pages(root).loader(0), "batch_size = 0"),
        (lambda root: pages(root).packed(100), "need the consumer's tokenizer"),
        (lambda root: pages(root).loader(2, world=2).state_dict(), "needs torch.distributed"),
        (lambda root: pages(root).loader(2).load_state_dict({}), "no loader state of format 1"),
    ],
)
def test_bad_input_is_named(root: Path, make: Callable[[Path], Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(root)


def test_a_state_of_something_else_is_refused(root: Path, tmp_path: Path) -> None:
    state = pages(root).loader(2).state_dict()
    publish_corpus(tmp_path / "other", units=2)
    for other, message in [
        (pages(tmp_path / "other"), "another corpus"),
        (pages(root, where="tier = 'tiny'"), "another filter"),
        (pages(root, seed=5), "seed = 0, this source has seed = 5"),
        (pages(root, streams=4), "streams = 8, this source has streams = 4"),
    ]:
        with pytest.raises(UsageError, match=message):
            other.loader(2).load_state_dict(state)
    one_rank = pages(root).loader(2, world=2).state_dict(gather=False)
    with pytest.raises(UsageError, match="of one rank only"):
        pages(root).loader(2).load_state_dict(one_rank)
    with pytest.raises(UsageError, match="give the state of each rank once"):
        merge_states([one_rank, one_rank])


def test_no_snapshot_is_a_usage_error(tmp_path: Path) -> None:
    create_corpus(LocalStore(tmp_path))
    with pytest.raises(UsageError, match="no snapshot"):
        Pages(tmp_path)


def test_the_public_names() -> None:
    assert palimpsest.Pages is Pages and {"Memory", "Mix"} <= set(dir(palimpsest))


# buckets


def test_a_bucket_is_read_through_a_bounded_cache(seaweedfs_place: str, tmp_path: Path) -> None:
    from palimpsest.storage.opening import open_store

    publish_corpus(tmp_path / "c")
    store = open_store(seaweedfs_place)
    for path in sorted((tmp_path / "c").rglob("*")):
        if path.is_file():
            store.put(str(path.relative_to(tmp_path / "c")), path.read_bytes())
    expected = ids(pages(tmp_path / "c").loader(7))
    cached = Pages(seaweedfs_place, streams=8, window_bytes=200_000, cache=tmp_path / "cache", cache_bytes=4 << 20)
    assert ids(cached.loader(7, num_workers=1)) == expected
    kept = list((tmp_path / "cache").iterdir())
    assert kept and sum(path.stat().st_size for path in kept) <= 1.2 * (4 << 20)
    before = {path.name for path in kept}
    assert ids(cached.loader(7)) == expected and {path.name for path in (tmp_path / "cache").iterdir()} == before
