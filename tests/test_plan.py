"""The plan: what is new, who stores what, and that it is the same whenever it is made. test_run.py has what runs make of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from palimpsest.config import SourceConfig
from palimpsest.flow.plan import Plan, document_ids, make_plan
from palimpsest.sources.documents import document_id
from palimpsest.sources.units import Unit
from palimpsest.storage.local_store import LocalStore

SMALL = SourceConfig(unit_bytes=200)


def plan(folder: Path, config: SourceConfig = SMALL) -> Plan:
    def index(units: list[Unit], config: SourceConfig) -> Iterator[list[str]]:
        return (document_ids(unit, config) for unit in units)

    return make_plan(LocalStore(folder / "out"), None, [str(folder / "in")], config, "f" * 16, index)


def write(folder: Path, **texts: list[str]) -> None:
    (folder / "in").mkdir()
    for name, lines in texts.items():
        (folder / "in" / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in lines))


def test_the_first_place_stores_a_document_and_the_later_ones_say_on_whom_they_rely(tmp_path: Path) -> None:
    write(tmp_path, a=["x", "y"], b=["y", "z", "y"], c=["z", "x", "w"])
    a, b, c = plan(tmp_path).todo
    assert (a.left_out, a.defers_to) == ((), ())
    assert (b.left_out, b.defers_to) == ((document_id("y"),), (a.unit_id,))
    assert (set(c.left_out), set(c.defers_to)) == ({document_id("z"), document_id("x")}, {a.unit_id, b.unit_id})


def test_the_plan_is_the_same_whenever_and_wherever_it_is_made(tmp_path: Path) -> None:
    write(tmp_path, a=["x" * 150, "y" * 150], b=["y" * 150])
    first = plan(tmp_path)
    for path in (tmp_path / "in").iterdir():
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    assert plan(tmp_path) == first and len(first.todo) == 3


def test_a_unit_has_another_id_when_the_unit_that_it_relies_on_has(tmp_path: Path) -> None:
    write(tmp_path, a=["x", "y"], b=["y", "z"])
    before = plan(tmp_path).todo
    (tmp_path / "in" / "a.jsonl").write_text('{"text": "y"}\n')
    after = plan(tmp_path).todo
    assert after[1].left_out == before[1].left_out and after[1].defers_to == (after[0].unit_id,)
    assert len({unit.unit_id for unit in (*before, *after)}) == 4


def test_the_bytes_of_slices_add_up_to_those_of_their_object(tmp_path: Path) -> None:
    write(tmp_path, a=["x" * 90] * 9, b=["z"])
    found = plan(tmp_path)
    size = sum(path.stat().st_size for path in (tmp_path / "in").iterdir())
    assert len(found.todo) > 3 and size - len(found.todo) < found.bytes <= size
