"""Stages one by one, and the ledger that decides when a unit is whole."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.config import JobConfig, parse
from palimpsest.flow.ledger import Ledger, SourceUnit, Subscriber
from palimpsest.flow.plan import PlannedUnit, planned_units, units_table
from palimpsest.flow.stages import Encode, Paginate, Render, Verify
from palimpsest.operations.progress import Progress
from palimpsest.operations.run import Work
from palimpsest.pages.layouts.grid import Grid
from palimpsest.schemas import (
    CONTROL,
    DOCUMENTS,
    IMAGES,
    PAGE_COUNTS,
    PAGES,
    TOKENS,
    VERDICTS,
    WRITTEN,
    SchemaMismatch,
    conform,
)
from palimpsest.sources.objects import UNREAD, SourceObject
from palimpsest.sources.units import Unit
from palimpsest.storage.local_store import LocalStore
from palimpsest.storage.object_store import StoreError
from palimpsest.tiers.policies.protocol import policy_of
from palimpsest.verification.control import is_sampled
from tests.mixed_sources import prose

GRID = Grid.parse("64x32", "latin")
NOTHING = {"total": 0.0, "pages": 0}


@pytest.fixture(scope="module")
def config(tiny_codec: Path) -> JobConfig:
    return parse({"codec": {"path": str(tiny_codec)}, "verification": {"share": 1.0, "control_share": 0.0}})


def document(text: str | None, kind: str = "document", **columns: Any) -> dict[str, Any]:
    source = {"source_uri": "s", "source_version": "v"}
    return {"unit_id": "u", "kind": kind, "doc_id": "d" * 32, "text": text, **source, **columns}


def paginated(config: JobConfig, *rows: dict[str, Any]) -> pa.Table:
    return pa.concat_tables(Paginate(config, GRID, policy_of(config, GRID, "")[1])(pa.Table.from_pylist(list(rows), DOCUMENTS)))


def test_rows_that_are_no_pages_pass_every_stage_untouched(config: JobConfig) -> None:
    control = [field.name for field in CONTROL]
    others = [
        document(None, "quarantined", reason="null_text", detail="why", record=b"{}", source_id="n"),
        document(None, "duplicate", source_id="again"),
        {"unit_id": "u", "kind": "unit_end", "control": {**dict.fromkeys(control), "documents": 1}},
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


@pytest.mark.parametrize("storage", ["bf16", "int8"])
def test_the_empty_page_of_a_control_comes_from_encode_and_verify_loads_no_encoder(
    config: JobConfig, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from palimpsest.codecs import adapter

    load, loaded = adapter.load_codec, []

    def watched(*arguments: Any, **options: Any) -> adapter.Codec:
        loaded.append(options["parts"])
        return load(*arguments, **options)

    monkeypatch.setattr(adapter, "load_codec", watched)
    config = config.replace(
        storage=config.storage.replace(tokens=storage), verification=config.verification.replace(control_share=0.5)
    )
    pages = paginated(config, *(document(prose(900, seed), doc_id=f"{seed:032x}") for seed in range(8)))
    tokens = Encode(config, "print")(Render(GRID)(pages))
    sampled_ids = {row["page_id"] for row in pages.to_pylist() if is_sampled(row["page_id"], 0.5)}
    assert {row["page_id"] for row in tokens.to_pylist() if row["blank"]} == sampled_ids
    assert 0 < len(sampled_ids) < pages.num_rows
    loaded.clear()
    judged = Verify(config, "print")(tokens)
    assert loaded == ["decoder"] and judged.schema == VERDICTS
    assert {row["page_id"] for row in judged.to_pylist() if row["blank_precision"] is not None} == sampled_ids
    without = Verify(config.replace(verification=config.verification.replace(share=0.0)), "print")(tokens)
    assert set(without["status"].to_pylist()) == {"unverified"}


def test_a_page_with_too_many_escapes_goes_to_text(config: JobConfig) -> None:
    few, many = paginated(config, document("plain " * 100 + "船")), paginated(config, document("船 " * 50))
    assert (few["tier"].to_pylist(), many["tier"].to_pylist()) == (["tiny"], ["text"])
    assert many["reason"].to_pylist() == ["not_covered"] and "50 of 100" in many["detail"][0].as_py()


# the ledger


def planned(number: int, version: str = "v") -> PlannedUnit:
    item = SourceObject(uri=f"{number}.jsonl", key=f"/{number}.jsonl", size=1, version=version)
    return PlannedUnit(unit=Unit(object=item), unit_id=f"unit{number}")


def ledger_of(*units: PlannedUnit, subscribers: Sequence[Subscriber] = ()) -> Ledger[SourceUnit]:
    return Ledger((SourceUnit(unit, "f" * 16) for unit in units), subscribers)


def unit_rows(name: str, documents: list[int], quarantined: int, late: int, duplicates: int) -> list[dict[str, Any]]:
    """WRITTEN rows of a unit, one page each: `documents` by their number of pages, `late` ones without a page."""
    rows: list[dict[str, Any]] = []
    for pages in documents:
        for page in range(pages):
            counts = {**dict.fromkeys(PAGE_COUNTS, 1), "first_pages": int(page == 0), "pages_expected": pages * (page == 0)}
            shard = {"key": f"{name}-{len(rows)}", "tier": "tiny", "rows": 1, "bytes": 1, "sha256": "0"}
            rows.append(
                {"kind": "written", "shards": [shard], "counts": counts, "statuses": [], "precision": {"total": 0.0, "pages": 0}}
            )
    bad = {"source_uri": "s", "reason": "empty_text", "record": b"x"}
    rows += [{"kind": "quarantined", **bad} for _ in range(quarantined + late)]
    rows += [{"kind": "duplicate", "rows": 1} for _ in range(duplicates)]
    counted = len(documents) + late
    read = {"documents_in": counted + quarantined + duplicates, "documents": counted, "quarantined": quarantined}
    rows.append({"kind": "unit_end", "control": {**read, "duplicates": duplicates}})
    table = pa.Table.from_pylist([{**row, "unit_id": name} for row in rows], WRITTEN)
    return conform(table, WRITTEN, "test").to_pylist()


@given(st.data())
def test_a_unit_is_complete_with_its_last_row_in_whatever_order_they_arrive(data: st.DataObject) -> None:
    small = st.integers(0, 3)
    shapes = data.draw(st.lists(st.tuples(st.lists(st.integers(1, 4), max_size=3), small, small, small), min_size=1, max_size=3))
    units = {f"unit{number}": unit_rows(f"unit{number}", *shape) for number, shape in enumerate(shapes)}
    rows = data.draw(st.permutations([row for rows in units.values() for row in rows]))
    ledger = ledger_of(*(planned(number) for number in range(len(shapes))))
    left = {name: len(rows) for name, rows in units.items()}
    for row in rows:
        left[row["unit_id"]] -= 1
        complete = ledger.take(row)
        assert (complete is not None) == (left[row["unit_id"]] == 0)
    assert len(ledger) == 0


def test_a_unit_that_lacks_a_row_is_named(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"unit unit0: of 0\.jsonl: read .*'first_pages': 1"):
        ledger_of(planned(0)).settle(unit_rows("unit0", [2, 1], 0, 0, 0)[1:], LocalStore(tmp_path), "run")


def test_a_commit_reconciles_what_arrived(tmp_path: Path) -> None:
    work = Work()
    ledger_of(planned(0), subscribers=[work]).settle(unit_rows("unit0", [], 2, 1, 3), LocalStore(tmp_path), "run")
    (record,) = work.records
    assert work.reasons == {"empty_text": 3}
    assert (record.counts.documents_in, record.counts.documents_quarantined, record.counts.duplicates) == (6, 3, 3)
    assert record.quarantine is not None and record.quarantine.rows == 3


@pytest.mark.parametrize(
    ("reason", "version", "lost"), [("vanished", "v", True), ("null_text", "v", False), (None, UNREAD, True)]
)
def test_what_the_storage_did_wrong_is_no_property_of_the_records(reason: str | None, version: str, lost: bool) -> None:
    unit = SourceUnit(planned(0, version), "f" * 16)
    if reason:
        unit.quarantine.append({"reason": reason, "detail": "why"})
    assert (unit.unread is not None) == lost


def test_a_worker_that_cannot_write_ends_the_run() -> None:
    with pytest.raises(StoreError, match="the disk is full"):
        ledger_of(planned(0)).take({"unit_id": "unit0", "kind": "failed", "detail": "the disk is full"})


def test_a_unit_that_is_done_again_counts_once(tmp_path: Path) -> None:
    """What arrived before "again" is taken back from the unit and from whoever follows the ledger."""
    work, progress = Work(), Progress(units_total=1, bytes_total=1)
    rows = unit_rows("unit0", [2, 1], 1, 0, 1)
    again = {"unit_id": "unit0", "kind": "again", "detail": "workers were lost"}
    ledger_of(planned(0), subscribers=[progress, work]).settle([*rows[:-1], again, *rows], LocalStore(tmp_path), "run")
    (record,) = work.records
    assert (record.counts.pages_committed, record.counts.documents_in) == (3, 4)
    assert (progress.pages, progress.documents, progress.quarantined, progress.units) == (3, 2, 1, 1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"kind": "page", "page_id": "p"}, "a row of kind 'page' has no 'doc_id'"),
        ({"kind": "quarantined", "source_uri": "s"}, "a row of kind 'quarantined' has no 'reason'"),
        ({"kind": "unit_end"}, "a row of kind 'unit_end' has no 'control'"),
        ({"kind": "pagge"}, "a row of kind 'pagge'; the kinds are"),
    ],
)
def test_a_row_without_the_columns_of_its_kind_is_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemaMismatch, match=message):
        conform(pa.Table.from_pylist([{"unit_id": "u", **row}], PAGES), PAGES, "test")


@given(uri=st.text(), span=st.none() | st.tuples(st.integers(0, 2**60), st.integers(0, 2**60)), left_out=st.lists(st.text("ab")))
def test_units_come_back_from_arrow_as_they_were(uri: str, span: tuple[int, int] | None, left_out: list[str]) -> None:
    odd = uri + os.fsdecode(b"\xff")  # a file name need not be UTF-8
    item = SourceObject(uri=odd, key="/" + odd, size=7, version="v")
    unit = PlannedUnit(
        unit=Unit(object=item, span=span), unit_id="u", left_out=tuple(left_out), defers_to=("o",), bytes=7, corpus="c"
    )
    assert list(planned_units(units_table([unit, unit]))) == [unit, unit]
