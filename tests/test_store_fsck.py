"""fsck finds every broken promise; gc removes what nobody needs and nothing else."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from palimpsest.corpus.format import create_corpus
from palimpsest.corpus.fsck import Finding, fsck
from palimpsest.corpus.gc import gc
from palimpsest.corpus.manifest import write_segment
from palimpsest.corpus.snapshots import iter_rows, latest, publish, read_snapshot, superseded
from palimpsest.corpus.units import CommitRecord
from palimpsest.storage.local_store import LocalStore
from palimpsest.storage.object_store import StoreError
from palimpsest.storage.stable_json import read_json, to_bytes
from tests.store_crash_child import job, page, rows, unit_pages, write_unit


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    job(tmp_path / "corpus")
    return LocalStore(tmp_path / "corpus")


def _shard(store: LocalStore) -> str:
    return next(info.key for info in store.list("data/base/"))


def _flip(store: LocalStore) -> None:
    body = bytearray(store.read(_shard(store)))
    body[len(body) // 2] ^= 1
    store.put(_shard(store), bytes(body))


def _edit(store: LocalStore, prefix: str, change: Callable[[dict[str, Any]], object]) -> None:
    key = max(info.key for info in store.list(prefix))
    record = read_json(store, key)
    change(record)
    store.put(key, to_bytes(record))


def _change_digit(store: LocalStore) -> None:
    key = next(store.list("_units/")).key
    store.put(key, re.sub(rb'("documents_in": )\d', rb"\g<1>9", store.read(key)))


def _link_folder(store: LocalStore) -> None:
    """Move data/ out of the corpus, and leave a link to it."""
    outside = store.root.parent / "outside"
    (store.root / "data").rename(outside)
    (store.root / "data").symlink_to(outside)


def _link_shard(store: LocalStore) -> None:
    path = store.root / _shard(store)
    path.rename(store.root.parent / "outside.parquet")
    path.symlink_to(store.root.parent / "outside.parquet")


def _edit_units(store: LocalStore, change: Callable[[list[CommitRecord]], list[CommitRecord]]) -> None:
    """Let the newest snapshot name a manifest with other records."""
    snapshot = latest(store)
    assert snapshot is not None
    segment = write_segment(store, change(list(snapshot.units)))
    _edit(store, "_snapshots/", lambda record: record.update(segments=[asdict(segment)]))


DAMAGE: dict[str, tuple[Callable[[LocalStore], object], str]] = {
    "no corpus.json": (lambda s: s.delete("corpus.json"), "not a corpus"),
    "flipped bit": (_flip, "has sha256 .*, not "),
    "truncated": (lambda s: s.put(_shard(s), s.read(_shard(s))[:-7]), "has .* bytes, not "),
    "vanished shard": (lambda s: s.delete(_shard(s)), "does not exist"),
    "vanished quarantine": (lambda s: s.delete(next(s.list("quarantine/")).key), "does not exist"),
    "vanished record": (lambda s: s.delete(next(s.list("_units/")).key), "snapshot 1 has this unit: .*does not exist"),
    "changed record": (lambda s: _edit(s, "_units/", lambda r: r.update(attempt="x")), "is not what snapshot 1 says"),
    "a changed digit": (_change_digit, "was changed after it was written"),
    "damaged record": (lambda s: s.put(next(s.list("_units/")).key, b"{"), "not JSON"),
    "damaged snapshot": (lambda s: s.put("_snapshots/00000001.json", b"[]"), "holds a JSON list"),
    "wrong totals": (lambda s: _edit(s, "_snapshots/", lambda r: r["totals"].update(rows=7)), "not the sum of its units"),
    "wrong parent": (lambda s: _edit(s, "_snapshots/", lambda r: r.update(parent=5)), "has parent 5, not None"),
    "wrong number": (lambda s: s.put("_snapshots/00000002.json", s.read("_snapshots/00000001.json")), "is snapshot 1"),
    "gap": (lambda s: s.put("_snapshots/00000003.json", s.read("_snapshots/00000001.json")), "the chain has a gap"),
    "lost owner": (
        lambda s: _edit_units(s, lambda units: [replace(units[0], defers_to=("u",)), *units[1:]]),
        "left out documents that unit u",
    ),
    "units out of order": (lambda s: _edit_units(s, lambda units: units[::-1]), "its units are not in order"),
    "lost segment": (lambda s: s.delete(next(s.list("_manifests/")).key), "_manifests.*does not exist"),
    "damaged segment": (lambda s: s.put(next(s.list("_manifests/")).key, b"x"), "not those that its snapshot promises"),
    "lost index": (lambda s: s.delete(next(s.list("_documents/")).key), "_documents.*does not exist"),
    "index without a unit": (
        lambda s: _edit(s, "_snapshots/", lambda r: r.update(documents=[])),
        "has 0 documents of unit .*, which has 2",
    ),
    "segment said to be another": (
        lambda s: _edit(s, "_snapshots/", lambda r: r["segments"][0].update(last="x")),
        "is not what its snapshot says of it",
    ),
    "deep nesting": (
        lambda s: s.put(next(s.list("_units/")).key, b'{"a":' * 10_000),
        "_units/.* is JSON that is nested too deeply",
    ),
    "deep snapshot": (
        lambda s: s.put("_snapshots/00000001.json", b"[" * 10_000),
        "00000001.json is JSON that is nested too deeply",
    ),
    "no number": (lambda s: s.put("_snapshots/00000001.json", b'{"a": NaN, "record_sha256": ""}'), "00000001.json is not JSON"),
    "key outside": (
        lambda s: _edit(s, "_units/", lambda r: r["shards"][0].update(key="../../secret")),
        r"_units/.* is no commit record of this format: shards\.0: .*'\.\./\.\./secret' must be relative",
    ),
    "unit outside": (lambda s: _edit(s, "_units/", lambda r: r.update(unit_id="../../x")), "_units/.* is no commit record"),
    "segment outside": (
        lambda s: _edit(s, "_snapshots/", lambda r: r["segments"][0].update(key="/etc/passwd")),
        "'/etc/passwd' must be relative",
    ),
    "a number as text": (lambda s: _edit(s, "_units/", lambda r: r["shards"][0].update(rows="4")), r"shards\.0\.rows: .*integer"),
    "unknown field": (lambda s: _edit(s, "_units/", lambda r: r.update(hook="x")), "no commit record of this format: hook"),
    "linked folder": (_link_folder, "is a symbolic link: a corpus has none, and none is followed"),
    "linked shard": (_link_shard, "is a symbolic link"),
    "deleted format": (
        lambda s: s.put("_snapshots/00000001.json", b'{"number": 1, "parent": null, "run_id": "r", "units": [], "totals": {}}'),
        "snapshot format 1 is not read any more: process the sources again into a new output",
    ),
    "newer format": (lambda s: s.put("_snapshots/00000001.json", b'{"format": 9}'), "newer than this program.*upgrade"),
    "odd name": (lambda s: s.put("_snapshots/latest.json", b"{}"), "not named like a snapshot"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_an_error_that_says_what(store: LocalStore, damage: str) -> None:
    assert fsck(store) == []
    harm, message = DAMAGE[damage]
    harm(store)
    errors = "\n".join(finding.what for finding in fsck(store) if finding.severity == "error")
    assert re.search(message, errors), errors


ROWS: dict[str, tuple[dict[str, object], str]] = {
    "status": ({"status": "fine"}, "status 'fine' is none of"),
    "fingerprint": ({"fingerprint": "other"}, "fingerprint 'other', but the unit has"),
    "payload size": ({"num_vision_tokens": 7}, "7 × 4 tokens of bf16 in 48 bytes with their scales, not 56"),
    "payload hash": ({"tokens_sha256": "0"}, "tokens_sha256 is not the hash"),
    "dtype": ({"token_dtype": "fp4"}, r"token_dtype 'fp4' is none of \('bf16', 'int4', 'int8', 'none', 'pq'\)"),
    "scales": ({"token_dtype": "int8", "token_dim": 8}, "tokens of int8 in 48 bytes with their scales, not 72"),
    "no tokens": ({"tokens": None}, "no tokens on a page of tier 'base'"),
    "tokens on text": ({"tier": "text"}, "tokens on a page of tier 'text'"),
    "no id": ({"doc_id": None}, "page_id or doc_id is missing"),
    "codec": ({"codec": "another"}, r"tokens of codec \('another', 'r1'\), but fingerprint f+ has \('toy', 'r1'\)"),
    "revision": ({"codec_revision": "r2"}, "tokens of codec"),
}


@pytest.mark.parametrize("fault", ROWS)
def test_rows_that_break_the_contract_are_found(tmp_path: Path, fault: str) -> None:
    store = LocalStore(tmp_path)
    create_corpus(store)
    change, message = ROWS[fault]
    table = rows([page(1, 0), {**page(1, 1), **change}])
    publish(store, "r", [write_unit(store, "in/0", table)])
    (finding,) = [finding for finding in fsck(store) if finding.key.startswith("data/")]
    assert finding.severity == "error"
    assert re.search(message, finding.what) and (fault == "no id" or "page-1-1" in finding.what)


def test_a_shard_of_another_codec_and_two_codecs_side_by_side(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    create_corpus(store)
    units = [
        write_unit(store, "in/0", rows([page(0, 0)])),
        write_unit(store, "in/1", rows([{**page(1, 0, codec="another"), "fingerprint": "e"}]), fingerprint="e"),
    ]
    publish(store, "r", units)
    (warning,) = fsck(store)
    assert warning.severity == "warning" and "another at r1; toy at r1" in warning.what
    publish(store, "r", [write_unit(store, "in/2", rows([page(2, 0, codec="third")]))])
    assert any(finding.severity == "error" and "third" in finding.what for finding in fsck(store))


def test_a_page_that_stands_twice_in_a_snapshot_is_an_error(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    create_corpus(store)
    publish(store, "r", [write_unit(store, f"in/{n}", rows([page(n, 0), page(7, 0)])) for n in range(3)])
    twice = fsck(store)
    assert len(twice) == 2 and all("row 1 is the same page as row 1 of data/base/" in finding.what for finding in twice)


def test_gc_removes_what_is_expired_and_keeps_what_anyone_needs(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    create_corpus(store)
    old, kept = write_unit(store, "in/0", rows([page(1, 0)])), write_unit(store, "in/1", rows([page(2, 0)]), bad=1)
    first = publish(store, "r1", [old, kept])
    new = write_unit(store, "in/0", rows([page(1, 0)]), version="v2")
    publish(store, "r2", [new], drop=superseded(first, [new]))
    unpublished = write_unit(store, "in/9", rows([page(9, 0)]))
    write_unit(store, "in/1", rows([page(2, 0)]), bad=1)  # beaten by the first: its shard and quarantine are orphans
    (tmp_path / ".unfinished" / "left").write_bytes(b"123")
    assert {finding.what.split()[0] for finding in fsck(store)} == {"orphan", "unfinished"}

    assert gc(store) == []  # nothing is old enough
    later = datetime.now(UTC) + timedelta(days=8)
    before = sorted(info.key for info in store.list())
    plan = gc(store, now=later)
    assert sorted(info.key for info in store.list()) == before and len(list(store.unfinished())) == 1
    kinds = {"_snapshots", "_manifests", "_documents", "_units", "data", "quarantine", ".unfinished"}
    assert {removal.key.split("/")[0] for removal in plan} == kinds
    assert {f"_units/{old.unit_id}.json", old.shards[0].key, "_snapshots/00000001.json"} <= {removal.key for removal in plan}
    assert gc(store, now=later, delete=True) == plan and gc(store, now=later) == []
    assert fsck(store) == []
    snapshot = latest(store)
    assert snapshot is not None and snapshot.number == 2
    assert sorted(row["page_id"] for row in iter_rows(store, snapshot)) == ["page-1-0", "page-2-0"]
    assert store.exists(unpublished.shards[0].key)
    with pytest.raises(StoreError, match=r"the corpus has \[2\]"):
        read_snapshot(store, 1)


def test_gc_follows_no_link_out_of_the_corpus(store: LocalStore, tmp_path: Path) -> None:
    """Directory links in every folder that gc lists, and one in place of `.unfinished`."""
    precious = tmp_path / "precious"
    (precious / "deep").mkdir(parents=True)
    for name in ("a.parquet", "deep/b.parquet"):
        (precious / name).write_bytes(b"mine")
    shutil.rmtree(store.root / ".unfinished")
    for folder in ("data/base/out", "quarantine/out", "_manifests/out", "_documents/out", "_units/out", "_probe", ".unfinished"):
        (store.root / folder).symlink_to(precious)
    later = datetime.now(UTC) + timedelta(days=99)
    for folder in ("_probe", ".unfinished"):
        with pytest.raises(StoreError, match=f"{folder} is a symbolic link"):
            gc(store, now=later, delete=True)
        assert any(folder in finding.what for finding in fsck(store) if finding.severity == "error")
        (store.root / folder).unlink()
    assert gc(store, now=later, delete=True) == []
    assert [finding for finding in fsck(store) if finding.severity == "error"] == []
    assert sorted(path.name for path in precious.rglob("*")) == ["a.parquet", "b.parquet", "deep"]
    with pytest.raises(StoreError, match="is a symbolic link"):
        store.delete("data/base/out/a.parquet")
    with pytest.raises(StoreError, match="is a symbolic link"):
        store.put("data/base/out/x", b"")


def test_gc_cut_short_anywhere_is_finished_by_the_next(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    create_corpus(store)
    old = write_unit(store, "in/0", rows(unit_pages(0)))
    publish(store, "r", [old])
    publish(store, "r", [write_unit(store, "in/1", rows(unit_pages(1)))], drop=[old.unit_id])
    later = datetime.now(UTC) + timedelta(days=8)
    plan = gc(store, now=later)
    folders = [removal.key.partition("/")[0] for removal in plan]  # what a snapshot names goes after it
    assert folders == ["_units", "data", "data", "_snapshots", "_manifests", "_documents"]
    for done, removal in enumerate(plan):
        store.delete(removal.key)
        still = gc(store, now=later)
        assert {removal.key for removal in plan[done + 1 :]} <= {removal.key for removal in still}
    assert still == [] == fsck(store)


def test_gc_deletes_nothing_where_it_cannot_know_what_is_needed(store: LocalStore) -> None:
    store.put("data/base/orphan.parquet", b"")
    unpublished = write_unit(store, "in/9", rows(unit_pages(9)))
    store.put(f"_units/{unpublished.unit_id}.json", b"{")
    with pytest.raises(StoreError, match="not JSON"):
        gc(store, now=datetime.now(UTC) + timedelta(days=99), delete=True)
    assert store.exists("data/base/orphan.parquet")


def test_an_older_snapshot_is_held_to_the_same_promises(store: LocalStore) -> None:
    snapshot = latest(store)
    assert snapshot is not None
    publish(store, "r2", [], drop=[unit.unit_id for unit in snapshot.units])
    store.delete(snapshot.units[0].shards[0].key)
    (finding,) = fsck(store)
    assert finding == Finding("error", snapshot.units[0].shards[0].key, finding.what) and "does not exist" in finding.what
