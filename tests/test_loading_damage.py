"""What a filter leaves out is not read, and nothing damaged is delivered: on disks, and through the cache of a bucket."""

from __future__ import annotations

import hashlib
import random
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from palimpsest.corpus.gc import gc
from palimpsest.corpus.reader import Corpus
from palimpsest.errors import UsageError
from palimpsest.loading.loader import Loader
from palimpsest.loading.pages import Pages
from palimpsest.loading.shard_cache import PIECE
from palimpsest.storage.local_store import LocalStore
from palimpsest.storage.object_store import NoSuchObject
from palimpsest.storage.opening import open_store
from palimpsest.storage.stable_json import Damaged
from tests.loader_corpora import publish_corpus, retier_corpus


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damage") / "corpus"
    publish_corpus(folder, units=3, documents=12)
    return folder


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palimpsest.loading.pages.PAUSE", 0.0)


def pages(root: Path | str, **given: Any) -> Pages:
    return Pages(root, **{"streams": 4, "window_bytes": 200_000, **given})


def contents(source: Pages, **given: Any) -> dict[str, str]:
    """A digest of what is delivered of each page."""
    return delivered(source.loader(5, collate=list, **given))


def delivered(loader: Loader) -> dict[str, str]:
    found: dict[str, str] = {}
    for batch in loader:
        for sample in batch:
            tokens = sample["tokens"].float().numpy().tobytes() if "tokens" in sample else b""
            short = repr([sample[name] for name in ("doc_id", "page_number", "tier", "status", "precision", "text")])
            assert sample["page_id"] not in found
            found[sample["page_id"]] = hashlib.sha256(short.encode() + tokens).hexdigest()
    return found


def test_only_keys_and_the_filters_columns_of_what_it_leaves_out_are_read(root: Path, tmp_path: Path) -> None:
    where = "tier = 'tiny'"
    expected = contents(pages(root, where=where))
    shutil.copytree(root, tmp_path / "c")
    for path in [*(tmp_path / "c" / "data" / "small").iterdir(), *(tmp_path / "c" / "data" / "text").iterdir()]:
        overwrite_columns(path, kept={"doc_id", "page_number", "tier", "status", "reason"})
    assert contents(pages(tmp_path / "c", where=where), on_damage="fail") == expected and len(expected) > 20
    with pytest.raises(Exception, match="not readable as Parquet|sha256|page header"):
        contents(pages(tmp_path / "c"), on_damage="fail")


def overwrite_columns(path: Path, kept: set[str]) -> None:
    """Zeros instead of every column chunk but those of some columns."""
    body = bytearray(path.read_bytes())
    metadata = pq.ParquetFile(path).metadata
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            column = metadata.row_group(group).column(number)
            if column.path_in_schema not in kept:
                start = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
                body[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    path.write_bytes(body)


def test_the_payloads_of_rows_that_a_filter_leaves_out_are_not_looked_at(root: Path, tmp_path: Path) -> None:
    where = "precision >= 0.95"
    expected = contents(pages(root, where=where))
    shutil.copytree(root, tmp_path / "c")
    left_out = [
        row["tokens"] for row in Corpus(str(root)).table(["tokens", "precision"]).to_pylist() if (row["precision"] or 1) < 0.94
    ]
    for path in (tmp_path / "c" / "data").rglob("*.parquet"):
        body = path.read_bytes()
        for tokens in left_out:
            body = body.replace(tokens, bytes(len(tokens)))
        path.write_bytes(body)
    assert contents(pages(tmp_path / "c", where=where), on_damage="fail") == expected and len(left_out) > 10
    loader = pages(tmp_path / "c").loader(5, collate=list, on_damage="skip")
    assert sum(len(batch) for batch in loader) + len(loader.damage) == len(contents(pages(root)))
    assert len(loader.damage) > 10


@pytest.mark.parametrize("seed", range(60))
def test_a_flipped_bit_anywhere_delivers_nothing_wrong(root: Path, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    shutil.copytree(root, tmp_path / "c")
    path = rng.choice(sorted((tmp_path / "c" / "data").rglob("*.parquet")))
    body = bytearray(path.read_bytes())
    at = rng.randrange(len(body)) if seed % 2 else len(body) - 1 - rng.randrange(len(body) // 3)  # the footer too
    body[at] ^= 1 << rng.randrange(8)
    path.write_bytes(body)
    reader = pages(tmp_path / "c").loader(5, collate=list, on_damage="skip")
    found, sound = delivered(reader), contents(pages(root))
    assert found.items() <= sound.items()
    assert found == sound or reader.damage


def test_a_flipped_bit_in_the_name_of_a_column_is_damage(root: Path, tmp_path: Path) -> None:
    for name in (b"text_class", b"status", b"precision"):
        shutil.copytree(root, tmp_path / name.decode())
        path = sorted((tmp_path / name.decode() / "data" / "tiny").iterdir())[0]
        path.write_bytes(path.read_bytes().replace(name, bytes([name[0] ^ 1]) + name[1:]))
        reader = pages(tmp_path / name.decode()).loader(5, collate=list, on_damage="skip")
        assert delivered(reader).items() < contents(pages(root)).items() and reader.damage
        with pytest.raises(Damaged):
            contents(pages(tmp_path / name.decode()), on_damage="fail")


def test_a_loader_whose_snapshot_was_collected_says_what_to_do(tmp_path: Path) -> None:
    publish_corpus(tmp_path / "c", units=3, documents=12)
    loader = pages(tmp_path / "c").loader(5)
    state = loader.state_dict()
    retier_corpus(tmp_path / "c", {0, 1, 2}, units=3, documents=12)
    gc(LocalStore(tmp_path / "c"), unused_for=timedelta(0), now=datetime.now(UTC) + timedelta(seconds=1), delete=True)
    with pytest.raises(NoSuchObject, match="gc may have removed it: open the newest snapshot and load the state"):
        list(loader)
    fresh = pages(tmp_path / "c").loader(5)
    fresh.load_state_dict(state)
    assert sum(len(batch["page_id"]) for batch in fresh) == len(contents(pages(tmp_path / "c")))


# buckets


def test_the_cache_of_a_bucket_stays_in_its_limit_and_is_fetched_again_where_it_is_damaged(
    seaweedfs_place: str, tmp_path: Path
) -> None:
    publish_corpus(tmp_path / "c", units=3, documents=12, dim=768)
    store = open_store(seaweedfs_place)
    for path in sorted((tmp_path / "c").rglob("*")):
        if path.is_file():
            store.put(str(path.relative_to(tmp_path / "c")), path.read_bytes())
    expected = contents(pages(tmp_path / "c"))
    cache = tmp_path / "cache"
    cached = pages(seaweedfs_place, cache=cache, cache_bytes=PIECE)
    assert contents(cached, num_workers=2, prefetch=4) == expected
    stored = sum(path.stat().st_size for path in (tmp_path / "c").rglob("*.parquet"))
    assert stored > 2 * PIECE
    assert 0 < sum(path.stat().st_size for path in cache.iterdir()) <= 1.3 * PIECE  # two processes, a tenth each, and a piece
    whole = pages(seaweedfs_place, cache=tmp_path / "whole", cache_bytes=64 << 20)
    assert contents(whole) == expected
    for path in (tmp_path / "whole").iterdir():
        body = bytearray(path.read_bytes())
        body[len(body) // 2] ^= 8
        path.write_bytes(body)
    assert contents(pages(seaweedfs_place, cache=tmp_path / "whole", cache_bytes=64 << 20)) == expected
    with pytest.raises(UsageError, match=f"cache_bytes = 1000: at least one piece of {PIECE} bytes"):
        pages(seaweedfs_place, cache=cache, cache_bytes=1000)
