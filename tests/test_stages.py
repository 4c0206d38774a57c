"""Stages one by one, and the tally that decides when a unit is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.config import JobConfig, parse
from palimpsest.flow.ledger import PAGE_COUNTS, Tally, UnitTally
from palimpsest.flow.plan import PlannedUnit
from palimpsest.flow.stages import Encode, Paginate, Render, Verify
from palimpsest.pages.grid import Grid
from palimpsest.schemas import DOCUMENTS, IMAGES, PAGES, TOKENS, VERDICTS, SchemaMismatch
from palimpsest.sources.objects import UNREAD, SourceObject
from palimpsest.sources.units import Unit
from palimpsest.storage.local_store import LocalStore
from palimpsest.storage.object_store import StoreError
from palimpsest.tiers.policy import policy_of
from tests.mixed_sources import prose

GRID = Grid.parse("64x32", "latin")


@pytest.fixture(scope="module")
def config(tiny_codec: Path) -> JobConfig:
    return parse({"codec": {"path": str(tiny_codec)}, "verification": {"share": 1.0, "control_share": 0.0}})


def document(text: str | None, kind: str = "document", **columns: Any) -> dict[str, Any]:
    return {"unit_id": "u", "kind": kind, "doc_id": "d" * 32, "text": text, **columns}


def paginated(config: JobConfig, *rows: dict[str, Any]) -> pa.Table:
    return pa.concat_tables(Paginate(config, GRID, policy_of(config, GRID, "")[1])(pa.Table.from_pylist(list(rows), DOCUMENTS)))


def test_rows_that_are_no_pages_pass_every_stage_untouched(config: JobConfig) -> None:
    others = [
        document(None, "quarantined", reason="null_text", detail="why", record=b"{}", source_id="n"),
        document(None, "duplicate", source_id="again"),
        {"unit_id": "u", "kind": "unit_end", "counts": json.dumps({"documents": 1})},
    ]
    table = paginated(config, others[0], document("A page."), *others[1:])
    for stage, schema in (
        (Render(GRID), IMAGES),
        (Encode(config, "f" * 16), TOKENS),
        (Verify(config, "f" * 16), VERDICTS),
    ):
        table = stage(table)
        assert table.schema.equals(schema)
        assert table["kind"].to_pylist() == ["quarantined", "page", "duplicate", "unit_end"]
    for row, before in zip([row for row in table.to_pylist() if row["kind"] != "page"], others, strict=True):
        assert {name: value for name, value in row.items() if value is not None} == {
            name: value for name, value in before.items() if value is not None
        }


def test_a_table_of_another_boundary_is_refused(config: JobConfig) -> None:
    with pytest.raises((SchemaMismatch, KeyError)):
        Render(GRID)(pa.Table.from_pylist([document("x")], DOCUMENTS))


def test_a_document_longer_than_the_page_buffer_is_laid_out_whole(config: JobConfig) -> None:
    text = prose(64 * 32 * 270, 1)
    table = paginated(config, document(text))
    assert table.schema.equals(PAGES) and table.num_rows > 256
    assert set(table["num_pages"].to_pylist()) == {table.num_rows}
    assert table["page_number"].to_pylist() == list(range(table.num_rows))
    assert "".join(table["text"].to_pylist()) == text


def test_a_page_with_too_many_escapes_goes_to_text(config: JobConfig) -> None:
    few, many = paginated(config, document("plain " * 50 + "船")), paginated(config, document("船 " * 50))
    assert (few["tier"].to_pylist(), many["tier"].to_pylist()) == (["tiny"], ["text"])
    assert many["reason"].to_pylist() == ["not_covered"] and "50 of 100" in many["detail"][0].as_py()


# the tally


def planned(number: int, version: str = "v") -> PlannedUnit:
    item = SourceObject(uri=f"{number}.jsonl", key=f"/{number}.jsonl", size=1, version=version)
    return PlannedUnit(unit=Unit(object=item), unit_id=f"unit{number}")


def unit_rows(name: str, documents: list[int], quarantined: int, late: int, duplicates: int) -> list[dict[str, Any]]:
    """WRITTEN rows of a unit, one page each: `documents` by their number of pages, `late` ones without a page."""
    rows = []
    for pages in documents:
        for page in range(pages):
            counts = {**dict.fromkeys(PAGE_COUNTS, 1), "first_pages": int(page == 0), "pages_expected": pages * (page == 0)}
            rows.append({"kind": "written", "payload": {"shards": [], **counts}})
    bad = {"unit_id": name, "source_uri": "s", "reason": "empty_text", "detail": None}
    rows += [{"kind": "quarantined", "payload": bad, "record": b"x"} for _ in range(quarantined + late)]
    rows += [{"kind": "duplicate", "payload": {"rows": 1}} for _ in range(duplicates)]
    counted = len(documents) + late
    read = {"documents_in": counted + quarantined + duplicates, "documents": counted, "quarantined": quarantined}
    rows.append({"kind": "unit_end", "payload": {**read, "duplicates": duplicates}})
    return [{"record": None, **row, "unit_id": name} for row in rows]


@given(st.data())
def test_a_unit_is_complete_with_its_last_row_in_whatever_order_they_arrive(data: st.DataObject) -> None:
    small = st.integers(0, 3)
    shapes = data.draw(st.lists(st.tuples(st.lists(st.integers(1, 4), max_size=3), small, small, small), min_size=1, max_size=3))
    units = {f"unit{number}": unit_rows(f"unit{number}", *shape) for number, shape in enumerate(shapes)}
    rows = data.draw(st.permutations([row for rows in units.values() for row in rows]))
    tally = Tally(tuple(planned(number) for number in range(len(shapes))))
    left = {name: len(rows) for name, rows in units.items()}
    for row in rows:
        left[row["unit_id"]] -= 1
        complete = tally.add(row)
        assert (complete is not None) == (left[row["unit_id"]] == 0)
    assert len(tally) == 0 and tally.unfinished() == []


def test_a_unit_that_lacks_a_row_is_named() -> None:
    tally = Tally((planned(0),))
    for row in unit_rows("unit0", [2, 1], 0, 0, 0)[1:]:
        assert tally.add(row) is None
    assert len(tally) == 1 and "unit0 of 0.jsonl" in tally.unfinished()[0]


def test_a_commit_reconciles_what_arrived(tmp_path: Path) -> None:
    tally = Tally((planned(0),))
    (unit,) = filter(None, [tally.add(row) for row in unit_rows("unit0", [], 2, 1, 3)])
    record = unit.commit(LocalStore(tmp_path), "run", "f" * 16)
    assert (record.counts.documents_in, record.counts.documents_quarantined, record.counts.duplicates) == (6, 3, 3)
    assert record.quarantine is not None and record.quarantine.rows == 3


@pytest.mark.parametrize(
    ("reason", "version", "lost"), [("vanished", "v", True), ("null_text", "v", False), (None, UNREAD, True)]
)
def test_what_the_storage_did_wrong_is_no_property_of_the_records(reason: str | None, version: str, lost: bool) -> None:
    unit = UnitTally(planned(0, version))
    if reason:
        unit.quarantine.append({"reason": reason, "detail": "why"})
    assert (unit.unread is not None) == lost


def test_a_worker_that_cannot_write_ends_the_run() -> None:
    with pytest.raises(StoreError, match="the disk is full"):
        Tally((planned(0),)).add({"unit_id": "unit0", "kind": "failed", "payload": {"error": "the disk is full"}, "record": None})
