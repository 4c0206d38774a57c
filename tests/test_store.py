"""The store at its public edge: objects, corpus, shards, units, snapshots."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.corpus.duplicates import PageCensus, later_copies, stored_documents
from palimpsest.corpus.format import NotACorpus, create_corpus, open_corpus
from palimpsest.corpus.shards import read_shard, write_quarantine, write_shards
from palimpsest.corpus.snapshots import (
    PublishConflict,
    iter_rows,
    iter_tables,
    latest,
    publish,
    read_snapshot,
    superseded,
)
from palimpsest.corpus.units import NotReconciled, commit_unit, committed_units, read_unit, unit_id
from palimpsest.schemas import SHARD, SchemaMismatch
from palimpsest.storage.local_store import LocalStore
from palimpsest.storage.object_store import Body, NoSuchObject, NotExclusive, check_key
from palimpsest.storage.opening import open_store
from palimpsest.storage.probe import probe
from palimpsest.storage.stable_json import Damaged
from tests.store_crash_child import page, rows, unit_pages, write_unit


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path / "corpus")
    create_corpus(store)
    return store


def test_create_lets_the_first_win_and_put_replaces(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(b"from a file")
    assert store.create("a/b", tmp_path / "body") and not store.create("a/b", b"second")
    assert store.read("a/b") == b"from a file"
    store.put("a/b", b"third")
    with store.open("a/b") as stream:
        stream.seek(2)
        assert stream.read() == b"ird"
    store.delete("a/b")
    store.delete("a/b")
    assert not store.exists("a/b")
    with pytest.raises(NoSuchObject, match="a/b"):
        store.read("a/b")
    assert list(store.unfinished()) == []


def test_list_takes_any_prefix_and_shows_no_unfinished_write(store: LocalStore) -> None:
    for key in ("data/base/1", "data/base/2", "data/text/1", "datum"):
        store.put(key, b"12")
    (store.root / ".unfinished" / "left").write_bytes(b"123")
    listed = {
        prefix: sorted(info.key for info in store.list(prefix)) for prefix in ("data/", "data/b", "dat", "none/", "data/base/2")
    }
    assert listed["data/"] == ["data/base/1", "data/base/2", "data/text/1"]
    assert listed["data/b"] == ["data/base/1", "data/base/2"]
    assert listed["dat"] == [*listed["data/"], "datum"]
    assert listed["none/"] == [] and listed["data/base/2"] == ["data/base/2"]
    (left,) = store.unfinished()
    assert left.size == 3
    store.discard(left.key)
    assert list(store.unfinished()) == []


@given(st.lists(st.sampled_from(["..", ".", "", "a", ".x", "b\\c", "d\n", "\0", "é", "_units"]), min_size=1, max_size=4))
def test_keys_stay_inside_the_root(parts: list[str]) -> None:
    key = "/".join(parts)
    if all(part in ("a", "é", "_units") for part in parts):
        assert check_key(key) == key
    else:
        with pytest.raises(ValueError, match="object key"):
            check_key(key)


def test_open_store_finds_by_scheme(tmp_path: Path) -> None:
    for uri in (tmp_path / "a b", str(tmp_path / "a b"), f"file://{tmp_path}/a%20b", f"file://localhost{tmp_path}/a%20b"):
        assert open_store(uri).uri("k") == str(tmp_path / "a b" / "k")
    with pytest.raises(ValueError, match="'gs'; supported: a plain path, file://"):
        open_store("gs://bucket/x")
    with pytest.raises(ValueError, match="no local path"):
        open_store("file://host/x")


class _Forgetful(LocalStore):
    """Storage that ignores the condition, as some gateways do."""

    def create(self, key: str, body: Body) -> bool:
        self.put(key, body)
        return True


class _Late(LocalStore):
    """Storage that keeps the condition under a race, and drops it afterwards."""

    def create(self, key: str, body: Body) -> bool:
        return body == b"late" or super().create(key, body)


def test_probe_passes_a_disk_and_refuses_storage_where_two_win(tmp_path: Path) -> None:
    probe(LocalStore(tmp_path))
    for kind, message in ((_Forgetful, "8 of 8 racing writers"), (_Late, "was accepted")):
        with pytest.raises(NotExclusive, match=message):
            probe(kind(tmp_path))
    assert list(LocalStore(tmp_path).list()) == []


def test_a_corpus_is_created_once_and_nothing_else_is_taken_for_one(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with pytest.raises(NotACorpus, match="not a corpus"):
        open_corpus(store)
    (tmp_path / "thesis.doc").write_bytes(b"precious")
    with pytest.raises(NotACorpus, match=r"thesis\.doc is in the way"):
        create_corpus(store)
    (tmp_path / "thesis.doc").unlink()
    create_corpus(store)
    create_corpus(store)
    assert open_corpus(store) == "pages"
    with pytest.raises(NotACorpus, match="this corpus holds pages, not samples; choose another corpus or output"):
        create_corpus(store, "samples")
    for body, message in (
        (b'{"format": "palimpsest corpus", "version": 3}', "upgrade"),
        (b'{"format": "palimpsest corpus", "version": 1}', "process the sources again into a new output"),
        (b"{}", "format"),
        (b"\xff", "not JSON"),
    ):
        store.put("corpus.json", body)
        with pytest.raises(NotACorpus, match=message):
            create_corpus(store)


def test_shards_are_the_same_bytes_for_the_same_rows(store: LocalStore) -> None:
    pages = [page(doc, number, tier=("base", "tiny", "text")[doc % 3], payload=400) for doc in range(9) for number in range(4)]
    shuffled = random.Random(1).sample(pages, len(pages))
    chunks = pa.concat_tables([rows(shuffled[:5]), rows(shuffled[5:20]), rows(shuffled[20:])])
    cut = {"unit_id": "u", "shard_bytes": 8000, "row_group_bytes": 2000}
    first, second = (write_shards(store, table, attempt=name, **cut) for name, table in (("a", rows(pages)), ("b", chunks)))
    assert [(s.sha256, s.rows, s.bytes, s.tier) for s in first] == [(s.sha256, s.rows, s.bytes, s.tier) for s in second]
    assert [s.key for s in first][0] == "data/base/u-a-0.parquet" and len(first) > 3
    back = pa.concat_tables(read_shard(store, shard, verify=True) for shard in first)
    assert back.schema.equals(SHARD)
    by_id = lambda row: row["page_id"]  # noqa: E731
    assert sorted(back.to_pylist(), key=by_id) == sorted(rows(pages).to_pylist(), key=by_id)


def test_row_groups_are_cut_by_bytes_and_payloads_have_no_dictionary(store: LocalStore) -> None:
    (shard,) = write_shards(
        store, rows([page(1, number, payload=4000) for number in range(10)]), unit_id="u", attempt="a", row_group_bytes=9000
    )
    meta = pq.ParquetFile(store.uri(shard.key)).metadata
    assert [meta.row_group(group).num_rows for group in range(meta.num_row_groups)] == [2] * 5
    columns = {meta.row_group(0).column(i).path_in_schema: meta.row_group(0).column(i) for i in range(meta.num_columns)}
    assert columns["codec"].has_dictionary_page
    assert not any(columns[name].has_dictionary_page for name in ("tokens", "token_scales", "text", "decoded_text"))
    assert columns["text"].compression == "ZSTD"
    assert columns["tokens"].compression == "UNCOMPRESSED" and not columns["tokens"].is_stats_set  # read one row at a time


def test_shards_refuse_what_the_contract_does_not_know(store: LocalStore) -> None:
    table = rows(unit_pages(0))
    with pytest.raises(SchemaMismatch, match="surprise"):
        write_shards(store, table.append_column("surprise", [[1] * 4]), unit_id="u", attempt="a")
    with pytest.raises(ValueError, match="appears twice"):
        write_shards(store, pa.concat_tables([table, table]), unit_id="u", attempt="a")
    with pytest.raises(ValueError, match="no tier"):
        write_shards(store, rows([{**page(1, 1), "tier": None}]), unit_id="u", attempt="a")
    with pytest.raises(ValueError, match="keeps 5000 bytes"):
        bad = pa.table({"unit_id": ["u"], "reason": ["r"], "record": [b"x" * 5000]})
        write_quarantine(store, bad, unit_id="u", attempt="a")
    assert list(store.list("data/")) == list(store.list("quarantine/")) == []


def test_unit_ids_tell_their_parts_apart() -> None:
    ids = [
        unit_id("a", "b", "c", "d"),
        unit_id("ab", "", "c", "d"),
        unit_id("a", "b", "c", "d", ["x"]),
        unit_id("a", "bc", "", "d"),
    ]
    assert len(set(ids)) == 4 and all(len(name) == 24 for name in ids)
    assert unit_id("a", "b", "c", "d", ["x", "y"]) == unit_id("a", "b", "c", "d", iter(["y", "x"]))
    unit_id("odd\udc80name", "v", "", "f")


def test_the_first_commit_stands_and_the_loser_reads_it(store: LocalStore) -> None:
    first = write_unit(store, "in/0", rows(unit_pages(0)), bad=2)
    second = write_unit(store, "in/0", rows(unit_pages(0)), bad=2)
    assert second == first == read_unit(store, first.unit_id) and list(committed_units(store)) == [first.unit_id]
    store.put(f"_units/{first.unit_id}.json", b'{"unit_id": 1}')
    with pytest.raises(Damaged, match="no commit record"):
        read_unit(store, first.unit_id)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"duplicates": 1}, "documents in 3 != .* 4"),
        ({"pages_quarantined": 1}, "pages in 4 != .* 5.*quarantined rows 1 != .* 2"),
        ({"rows": 5}, "rows 5 != pages committed 4.*rows 5 != rows of the shards 4"),
        ({"bytes": 1}, "bytes 1 !="),
        ({"text_tokens": -1}, "negative"),
    ],
)
def test_a_unit_that_does_not_reconcile_is_not_committed(store: LocalStore, counts: dict[str, int], message: str) -> None:
    record = write_unit(store, "in/0", rows(unit_pages(0)), bad=1)
    wrong = replace(record, unit_id="other", counts=replace(record.counts, **counts))
    with pytest.raises(NotReconciled, match=message):
        commit_unit(store, wrong)
    assert list(committed_units(store)) == [record.unit_id]


def test_publish_grows_by_union_and_writes_nothing_for_nothing(store: LocalStore) -> None:
    a, b = (write_unit(store, f"in/{n}", rows(unit_pages(n)), bad=n) for n in range(2))
    assert latest(store) is None
    assert publish(store, "r0", []).number == 1
    first = publish(store, "r1", [a])
    second = publish(store, "r2", [b, a])
    assert (second.number, second.parent, {unit.unit_id for unit in second.units}) == (3, 2, {a.unit_id, b.unit_id})
    assert publish(store, "r3", [a]) == second == latest(store) and not store.exists("_snapshots/00000004.json")
    assert second.totals.rows == 8 and second.totals.documents_quarantined == 1
    assert read_snapshot(store, 2) == first
    third = publish(store, "r4", [], drop=[a.unit_id])
    assert [unit.unit_id for unit in third.units] == [b.unit_id]
    with pytest.raises(NoSuchObject, match=r"\[1, 2, 3, 4\]"):
        read_snapshot(store, 9)


def test_a_publisher_that_loses_the_race_builds_on_the_winner(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    a, b = (write_unit(store, f"in/{n}", rows(unit_pages(n))) for n in range(2))

    class Overtaken(LocalStore):
        def create(self, key: str, body: Body) -> bool:
            if key == "_snapshots/00000001.json":
                publish(store, "winner", [b])
            return super().create(key, body)

    mine = publish(Overtaken(tmp_path), "loser", [a])
    assert (mine.number, mine.parent, len(mine.units)) == (2, 1, 2)


def test_true_conflicts_are_refused_and_superseding_resolves_them(store: LocalStore) -> None:
    old = write_unit(store, "in/0", rows([page(1, 1)]))
    base = publish(store, "r1", [old])
    new = write_unit(store, "in/0", rows([page(2, 1)]), version="v2")
    other = replace(new, unit_id="x", slice="second half")
    with pytest.raises(PublishConflict, match="same slice"):
        publish(store, "r2", [new])
    with pytest.raises(PublishConflict, match="two versions"):
        publish(store, "r2", [other])
    with pytest.raises(PublishConflict, match="other shards"):
        publish(store, "r2", [replace(old, attempt="z")])
    with pytest.raises(PublishConflict, match=r"left out documents of units \['gone'\]"):
        publish(store, "r2", [replace(new, source_uri="in/1", defers_to=("gone",))])
    assert superseded(base, [new]) == {old.unit_id} and superseded(base, [old]) == set() == superseded(None, [new])
    assert [unit.unit_id for unit in publish(store, "r2", [new], drop=superseded(base, [new])).units] == [new.unit_id]


def test_readers_follow_the_snapshot_and_nothing_else(store: LocalStore) -> None:
    a, b = (write_unit(store, f"in/{n}", rows(unit_pages(n))) for n in range(2))
    snapshot = publish(store, "r", [a])
    assert {row["doc_id"] for row in iter_rows(store, snapshot)} == {"doc-0", "doc-1"} == stored_documents(store, a)
    both = publish(store, "r", [b])
    texts = list(iter_rows(store, both, ["page_id"], pc.field("tier") == "text"))
    assert sorted(row["page_id"] for row in texts) == ["page-1-1", "page-11-1"] and texts[0].keys() == {"page_id"}
    assert sum(table.num_rows for table in iter_tables(store, both, batch_rows=1, verify=True)) == 8
    assert (
        pa.concat_tables(
            pq.read_table(uri) for uri in (store.uri(shard.key) for unit in both.units for shard in unit.shards)
        ).num_rows
        == 8
    )
    store.put(b.shards[0].key, store.read(b.shards[0].key)[:-1])
    with pytest.raises(Damaged, match="bytes, not"):
        list(iter_tables(store, both, verify=True))
    with pytest.raises(Damaged, match="not readable as Parquet"):
        list(iter_tables(store, both))


@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=6), max_size=6))
def test_each_document_has_one_owner_and_it_is_the_first_place(plan: list[list[str]]) -> None:
    copies = later_copies(enumerate(plan))
    stored = {place: set(docs) - copies.get(place, {}).keys() for place, docs in enumerate(plan)}
    assert sum(map(len, stored.values())) == len({doc for docs in plan for doc in docs})
    for left_out in copies.items():
        assert all(first < left_out[0] and doc in stored[first] for doc, first in left_out[1].items())


@given(st.lists(st.text("ab", max_size=3), max_size=40))
def test_the_census_finds_every_page_that_stands_twice(pages: list[str]) -> None:
    with PageCensus() as census:
        for shard in range(2):
            half = pages[shard::2]
            census.add(half, shard)
        repeats = list(census.repeats())
    assert len(repeats) == len(pages) - len(set(pages))
    where = {(index % 2, index // 2): name for index, name in enumerate(pages)}
    assert all(where[a] == where[b] and a != b for a, b in repeats)
