"""`make chaos`, shortened: a few dozen faults over a few nights, no Ray. And what it rests on: it sees what it looks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from palimpsest.corpus.format import create_corpus
from palimpsest.corpus.snapshots import publish
from palimpsest.storage.local_store import LocalStore
from tests.chaos.__main__ import chaos
from tests.chaos.proxy import KILLS, WEIGHTS, ChaosProxy, KillPlan, step_of
from tests.chaos.verdict import judge, swept
from tests.chaos.world import World
from tests.store_crash_child import page, rows, write_unit

FAULTS = 36


@pytest.mark.slow
def test_nothing_is_lost_doubled_or_changed_under_fire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "AWS_ENDPOINT_URL",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_DEFAULT_REGION",
        "AWS_EC2_METADATA_DISABLED",
    ):
        monkeypatch.setenv(name, "")  # restored afterwards; chaos sets them
    result = chaos(seed=7, faults=FAULTS, cluster_nights=0, folder=tmp_path)
    assert result["faults"] >= FAULTS and result["kinds"] >= 8
    assert [result[name] for name in ("lost", "doubled", "different", "foreign", "fsck_findings", "secrets_found")] == [0] * 6
    assert result["pages_judged"] > 20 and result["corpora_judged"] >= 2
    assert sum(row["times"] for row in result["injected"]) == result["faults"]
    assert sum(row[when] for row in result["drivers_killed"] for when in KILLS) >= 3


# the world


def test_a_world_is_that_of_its_seed() -> None:
    def objects(seed: int) -> tuple[dict[str, bytes], dict[str, set[str]]]:
        there: dict[str, bytes] = {}
        world = World(seed, there.__setitem__, there.__delitem__)
        for _ in range(5):
            world.night()
        assert set(there) == set(world.texts) | world.broken
        return there, world.documents()

    assert objects(1) == objects(1) != objects(2)
    shared = [names for names in objects(3)[1].values() if len(names) > 1]
    assert shared


# the proxy


@pytest.mark.parametrize(
    ("method", "path", "step"),
    [
        ("PUT", "/b/x1/corpus/_units/00ff.json", "write _units"),
        ("GET", "/b/x1/corpus/data/tiny/a-b-0.parquet", "read data"),
        ("HEAD", "/b/x1/corpus/corpus.json", "look for corpus.json"),
        ("GET", "/b?list-type=2&prefix=x1%2Fcorpus%2F_snapshots%2F&encoding-type=url", "list _snapshots"),
        ("GET", "/b?list-type=2&prefix=x1%2Fin%2F", "list in"),
        ("GET", "/b/x1/in/with%20space/corpus/1.txt", "read in"),
    ],
)
def test_a_request_is_a_step_of_the_protocol(method: str, path: str, step: str) -> None:
    assert step_of(method, path) == step


def fates(seed: int, name: str, order: list[int]) -> dict[int, Any]:
    """The fate of the n-th read of data, asked for among other requests."""
    with ChaosProxy("http://127.0.0.1:9", seed) as proxy:
        proxy.arm(name, 0.5)
        found: dict[int, Any] = {}
        for number in order:
            for _ in range(number % 3):
                proxy._fate("PUT", f"/b/corpus/_units/{number}.json")
            proxy._burst = None  # a burst takes whatever comes, in whatever order
            fate = proxy._fate("GET", f"/b/corpus/data/{number}.parquet")
            found[len(found)] = (fate.kind, fate.at, fate.seconds) if fate else None
        return found


def test_the_fate_of_a_request_hangs_on_seed_pass_and_step_and_not_on_what_is_between() -> None:
    one = fates(1, "pass", list(range(40)))
    assert one == fates(1, "pass", list(reversed(range(40))))
    assert one != fates(2, "pass", list(range(40))) and one != fates(1, "other pass", list(range(40)))
    hit = {fate[0] for fate in one.values() if fate}
    assert len(hit) > 5 and hit <= {kind.removesuffix(" burst") for kind in WEIGHTS["GET"]}


def test_a_driver_is_killed_once_and_where_it_was_planned() -> None:
    ended: list[int] = []
    with ChaosProxy("http://127.0.0.1:9", 1) as proxy:
        plans = [KillPlan("write _units", "kill after", 1), KillPlan("write data", "kill before", 5)]
        proxy.arm("pass", 0.0, plans, lambda: ended.append(1))
        fates = [proxy._fate("PUT", f"/b/corpus/{folder}/x") for folder in ("_units", "data", "_units", *["data"] * 6)]
    assert [fate.kind if fate else None for fate in fates] == [None, None, "lost", *[None] * 6]
    assert proxy.faults == {"kill after": 1} and proxy.killed == {("write _units", "kill after"): 1}
    fates[2].harm()
    assert ended == [1]


# the verdict


def corpus(root: Path, *units: list[dict[str, Any]]) -> LocalStore:
    store = LocalStore(root)
    create_corpus(store)
    publish(store, "run", [write_unit(store, f"in/{number}", rows(table)) for number, table in enumerate(units)])
    return store


def two_documents(**changed: Any) -> list[dict[str, Any]]:
    pages = [page(doc, number) for doc in (1, 2) for number in (0, 1)]
    pages[0].update(changed)
    return pages


WORLD = {"doc-1": {"in"}, "doc-2": {"in"}}


@pytest.mark.parametrize(
    ("units", "what"),
    [
        ([two_documents()], {}),
        ([two_documents()[:3]], {"lost": 1}),
        ([two_documents()[:2]], {"lost": 2}),
        ([two_documents(), [page(1, 0)]], {"doubled": 1}),
        ([two_documents(), [page(3, 0), page(3, 1)]], {"foreign": 2}),
        ([two_documents(text="page 0 of document l")], {"different": 1}),
        ([two_documents(precision=0.75)], {"different": 1}),
        ([two_documents(source_uri="file:///other")], {"different": 1}),
    ],
)
def test_the_verdict_sees_what_is_wrong(tmp_path: Path, units: list[list[dict[str, Any]]], what: dict[str, int]) -> None:
    peace = corpus(tmp_path / "peace", two_documents())
    verdict = judge(corpus(tmp_path / "fire", *units), peace, WORLD, "file:///")
    counted = {name: getattr(verdict, name) for name in ("lost", "doubled", "different", "foreign")}
    assert {name: number for name, number in counted.items() if number} == what
    assert verdict.clean is (what == {})


def test_a_shared_document_may_name_any_of_its_holders_and_no_other(tmp_path: Path) -> None:
    peace = corpus(tmp_path / "peace", two_documents())
    world = {**WORLD, "doc-1": {"in", "other"}}
    other = corpus(tmp_path / "fire", two_documents(source_uri="file:///other"))
    assert judge(other, peace, world, "file:///").clean
    third = corpus(tmp_path / "third", two_documents(source_uri="file:///third"))
    assert judge(third, peace, world, "file:///").different == 1


def test_a_document_that_both_corpora_lost_is_lost(tmp_path: Path) -> None:
    both = corpus(tmp_path / "both", two_documents())
    assert judge(both, both, {**WORLD, "doc-3": {"in"}}, "file:///").lost == 1


def test_what_fsck_finds_counts(tmp_path: Path) -> None:
    store = corpus(tmp_path / "fire", two_documents())
    assert swept(store) == []
    shard = next(info.key for info in store.list("data/"))
    body = bytearray(store.read(shard))
    body[len(body) // 3] ^= 1
    store.put(shard, bytes(body))
    assert swept(store) != []
