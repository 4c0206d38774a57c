"""Cells to metadata: what parses, what is missing, what costs a value and what costs its row."""

from __future__ import annotations

import json
import time
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.config import ConfigError, SourceConfig, parse
from palimpsest.operations.findings import Metadata, absent_fields, check_fields
from palimpsest.sources.cells import carried, identifier, importance
from palimpsest.sources.documents import Document, Rejected, Unusable
from palimpsest.sources.jsonl import read_records
from palimpsest.sources.listing import expand
from palimpsest.sources.tables import plan_units, read_unit
from palimpsest.sources.timestamps import parse_timestamp
from palimpsest.sources.units import Unit

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)
DAY, MONTH, YEAR = datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)


def records(path: Path, **settings: Any) -> list[Document | Rejected]:
    config = SourceConfig(**settings)
    return [
        record for item in expand([str(path)], config) for unit in plan_units(item, config) for record in read_unit(unit, config)
    ]


def documents(path: Path, **settings: Any) -> list[Document]:
    found = records(path, **settings)
    assert not [record for record in found if isinstance(record, Rejected)]
    return [record for record in found if isinstance(record, Document)]


def lines(path: Path, *found: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in found))
    return path


@pytest.mark.parametrize("number", [1709294400, 1709294400_000, 1709294400_000_000, 1709294400_000_000_000])
def test_four_magnitudes_of_epochs(number: int) -> None:
    for value in (number, str(number), f" {number} ", float(number), Decimal(number)):
        assert parse_timestamp(value) == NOON


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("2024-03-01 12:00:00 UTC", NOON),
        ("2024-03-01T12:00:00Z", NOON),
        ("2024-03-01T13:00:00+01:00[Europe/Berlin]", NOON),
        ("2024-03-01T12:00:00[UTC]", NOON),
        ("Fri, 01 Mar 2024 13:00:00 +0100 (CET)", NOON),
        ("Fri, 01 Mar 2024 07:00:00 EST", NOON),
        ("2024-03-01T12:00:00.000000000Z", NOON),
        ("2024-03-01 13:00:00+01", NOON),
        ("2024-03-01T17:30:00+0530", NOON),
        ("2024-03-01T12:00", NOON),
        ("2024/03/01 12:00:00", NOON),
        ("Fri, 01 Mar 2024 12:00:00 GMT", NOON),
        ("1 Mar 2024 13:00:00 +0100", NOON),
        ("Fri Mar 01 12:00:00 2024", NOON),
        ("Fri Mar 01 12:00:00 +0000 2024", NOON),
        ("20240301120000", NOON),
        ("202403011200", NOON),
        ("20240301T120000Z", NOON),
        ("20240301", DAY),
        (20240301, DAY),
        ("2024-3-1", DAY),
        ("1 March 2024", DAY),
        (date(2024, 3, 1), DAY),
        ("2024-03", MONTH),
        ("202403", MONTH),
        ("2024", YEAR),
        (2024, YEAR),
        ("1709294400.5", NOON.replace(microsecond=500_000)),
        (1709294400.25, NOON.replace(microsecond=250_000)),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        ("1711-04-01", datetime(1711, 4, 1, tzinfo=UTC)),
        ("", None),
        ("  ", None),
        ("NaN", None),
        (float("nan"), None),
        (None, None),
    ],
)
def test_the_usual_forms_of_dates(value: Any, moment: datetime | None) -> None:
    assert parse_timestamp(value) == moment


@pytest.mark.parametrize(
    "value",
    ["03/01/2024", "12", "1711", "17", "171101", "99991231", "0001-01-01", "9999-12-31", "2024-13", "2024-02-30", "20241301"]
    + [
        "noon",
        "Fri",
        "2024-03-01T12:00[Europe/Berlin]",
        "Fri, 01 Mar 2024 12:00:00 CET",
        "1 Mar 2024 12:00 (CET)",
        -(10**16),
        10**20,
        4 * 10**18 * 5,
        1e300,
        float("inf"),
        True,
        [],
        {},
        "1" * 5000,
        "2024-03-01T25:00",
    ],
)
def test_nothing_absurd_is_a_date(value: Any) -> None:
    if value == "1711":  # a year is a year, however old
        assert parse_timestamp(value) == datetime(1711, 1, 1, tzinfo=UTC)
        return
    with pytest.raises(Unusable, match="bad_timestamp"):
        parse_timestamp(value)


@given(st.one_of(st.text(max_size=30), st.integers(), st.floats(), st.dates(), st.datetimes(), st.from_regex(r"\d{1,20}")))
def test_whatever_is_given_is_a_plausible_moment_missing_or_refused(value: Any) -> None:
    try:
        moment = parse_timestamp(value)
    except Unusable:
        return
    assert moment is None or (1000 <= moment.year <= 2200 and moment.tzinfo is UTC)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"), (7, "7"), (1.0, "1"), (1e20, "100000000000000000000"), (Decimal("12.00"), "12"), (b"abc", "abc"),
        (b"\x00\xff", "00ff"), (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (None, None), ("", None), (b"", None), (float("nan"), None),
    ],
)  # fmt: skip
def test_ids(value: Any, text: str | None) -> None:
    assert identifier(value, 100) == text


@pytest.mark.parametrize("value", [1.5, True, [], {}, float("inf"), "\ud800", "x" * 101, 10**200, date(2024, 1, 1)])
def test_what_is_no_id(value: Any) -> None:
    with pytest.raises(Unusable):
        identifier(value, 100)


def test_other_metadata() -> None:
    assert [importance(value) for value in ("0.5", 1, Decimal("0.25"), "", "NaN", float("nan"), None)] == [0.5, 1, 0.25] + [
        None
    ] * 4
    values = ("a", 1, 1.5, True, ["x", {"y": 1}], date(2024, 3, 1), NOON, b"z", None, "", float("nan"))
    texts = ["a", "1", "1.5", "true", '["x", {"y": 1}]', "2024-03-01", "2024-03-01T12:00:00+00:00", "z", None, None, None]
    assert [carried(value, 100) for value in values] == texts


def test_bad_metadata_costs_a_value_or_the_record(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", {"text": "a", "id": {}, "timestamp": "soon", "importance": "high", "text_class": 3})
    (found,) = documents(path)
    assert (found.source_id, found.timestamp, found.importance, found.text_class) == (None,) * 4
    assert sorted(found.nulled) == ["bad_class", "bad_id", "bad_importance", "bad_timestamp"]
    (refused,) = records(path, bad_metadata="quarantine")
    assert isinstance(refused, Rejected) and refused.reason == "bad_id"
    long = lines(tmp_path / "b.jsonl", {"text": "a", "id": "x" * 5000})
    assert list(documents(long)[0].nulled) == ["metadata_too_long"]


DOUBLED = [
    ('{"text": "a", "text": "b"}', {}, "doubled_key"),
    (r'{"text": "a", "te\u0078t": "b"}', {}, "doubled_key"),
    ('{"text": "a", "text": null}', {}, "doubled_key"),
    ('{"text": "a", "text": "a"}', {}, "a"),  # nothing is lost
    ('{"doc": {"text": "a", "text": "b"}}', {"text_field": "doc.text"}, "doubled_key"),
    ('{"doc": {"text": "a"}, "doc": {"text": "b"}}', {"text_field": "doc.text"}, "doubled_key"),
    ('{"a": "x", "b": "y", "b": "z"}', {"text_template": "{a} {b}"}, "doubled_key"),
    ('{"text": "a", "other": 1, "other": 2, "deep": [{"k": 1, "k": 2}]}', {}, "a"),  # what is not read decides nothing
    ('{"text": "a", "id": "1", "id": "2"}', {}, "a doubled_key"),
    ('{"text": "a", "id": "1", "id": "2"}', {"bad_metadata": "quarantine"}, "doubled_key"),
    ('{"text": "a", "meta": {"k": 1, "k": 2}}', {"carry": ("meta",)}, "a doubled_key"),
]


@pytest.mark.parametrize(("line", "settings", "outcome"), DOUBLED)
@pytest.mark.parametrize("around", ["{}\n", "[{}]", "[\n{},\n{}]"])
def test_a_key_with_two_values_is_never_decided_in_silence(
    tmp_path: Path, line: str, settings: dict[str, Any], outcome: str, around: str
) -> None:
    (tmp_path / "a.json").write_text(around.replace("{}", line))
    found = records(tmp_path, **settings)
    assert len(found) == around.count("{}")
    for record in found:
        reasons = [record.reason] if isinstance(record, Rejected) else [record.text, *record.nulled]
        assert " ".join(map(str, reasons)) == outcome
        if isinstance(record, Rejected):
            assert "occurs 2 times in one object, with different values" in record.detail and record.record
        else:
            assert record.source_id is None and record.extra is None


def test_a_conversation_with_a_doubled_key_is_refused_wherever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"messages": [{"role": "user", "content": "a", "content": "b"}]}\n'
        '{"messages": [{"role": "user", "role": "user", "content": "a"}]}\n'
    )
    (item,) = expand([str(path)], SourceConfig())
    refused, kept = read_records(Unit(object=item), SourceConfig())
    assert refused.problem is not None and refused.problem.reason == "doubled_key" and "'content'" in refused.problem.detail
    assert kept.problem is None and kept.record == {"messages": [{"role": "user", "content": "a"}]}


def test_a_record_of_many_doubled_keys_is_judged_in_linear_time(tmp_path: Path) -> None:
    pairs = ", ".join(f'"k{number}": {number}, "k{number}": -{number}' for number in range(1, 100_000))
    (tmp_path / "a.jsonl").write_text(f'{{"text": "a", {pairs}}}')
    began = time.process_time()
    assert [document.text for document in documents(tmp_path)] == ["a"]
    assert time.process_time() - began < 10  # a second; minutes if each key looks for its values


def test_nested_fields_templates_and_carried_values(tmp_path: Path) -> None:
    record = {"doc": {"text": "body", "id": 5}, "title": "Title", "meta": {"licence": "MIT"}, "language": "en", "empty": None}
    path = lines(tmp_path / "a.jsonl", record, {"doc": {"text": "only"}}, {"doc.text": "literal", "doc": {"text": "nested"}})
    first, second, third = documents(path, text_field="doc.text", id_field="doc.id", carry=["meta.licence", "language", "empty"])
    assert (first.text, first.source_id, first.extra) == ("body", "5", {"meta.licence": "MIT", "language": "en"})
    assert (second.text, second.extra, third.text) == ("only", None, "literal")
    template = "{title}\n\n{doc.text}"
    found = documents(path, text_template=template)
    assert [document.text for document in found] == ["Title\n\nbody", "\n\nonly", "\n\nliteral"]
    pq.write_table(pa.Table.from_pylist([record]), tmp_path / "a.parquet")
    (row,) = documents(tmp_path / "a.parquet", text_template=template, id_field="doc.id", carry=["meta.licence"])
    assert (row.text, row.source_id, row.extra) == ("Title\n\nbody", "5", {"meta.licence": "MIT"})
    (missing,) = records(lines(tmp_path / "b.jsonl", {"x": 1}), text_template=template)
    assert isinstance(missing, Rejected) and missing.reason == "missing_text"


@pytest.mark.parametrize("template", ["{", "no field", "{a!r}", "{a:>3}", "{}"])
def test_bad_templates_are_refused(template: str) -> None:
    with pytest.raises(ConfigError, match="text_template"):
        parse({"source": {"text_template": template}}, ())


def test_folders_of_partitions_are_fields(tmp_path: Path) -> None:
    folder = tmp_path / "timestamp=2024-03-01" / "lang=pt%20br" / "owner=__HIVE_DEFAULT_PARTITION__"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("text")
    lines(folder / "b.jsonl", {"text": "own", "lang": "de", "timestamp": 2023})
    text, own = sorted(documents(tmp_path, carry=["lang", "owner"]), key=lambda document: document.source_uri)
    assert (text.timestamp, text.extra) == (DAY, {"lang": "pt br"})
    assert (own.timestamp, own.extra) == (datetime(2023, 1, 1, tzinfo=UTC), {"lang": "de"})


def invalid_utf8(kind: pa.DataType) -> pa.Array:
    """Two strings, the second of which is not UTF-8."""
    raw = pa.array([b"good", b"\xff\xfe"], pa.binary())
    return pa.Array.from_buffers(kind, 2, raw.buffers())


def odd_columns() -> dict[str, tuple[pa.Array, str]]:
    """Columns of which the second cell has no value in Python, and the reason of its row."""
    strings = invalid_utf8(pa.string())
    beyond = pa.array([1, 2**30], pa.int32()).cast(pa.date32())
    return {
        "timestamp": (beyond, "bad_timestamp"),
        "id": (strings, "invalid_utf8"),
        "meta": (pa.StructArray.from_arrays([strings], ["k"]), "invalid_utf8"),
        "tags": (pa.ListArray.from_arrays([0, 1, 2], strings), "invalid_utf8"),
        "when": (pa.array([1, 2**62], pa.timestamp("ms")), "bad_extra"),
        "day": (beyond, "bad_extra"),
    }


@pytest.mark.parametrize("name", odd_columns())
def test_one_odd_cell_costs_its_row(tmp_path: Path, name: str) -> None:
    column, reason = odd_columns()[name]
    pq.write_table(pa.table({"text": ["first", "second"], name: column}), tmp_path / "a.parquet")
    good, bad = records(tmp_path / "a.parquet", carry=[name])
    assert isinstance(good, Document) and good.text == "first"
    assert isinstance(bad, Rejected) and bad.reason == reason and (b"second" in bad.record or b"\xff" in bad.record)
    if name in ("meta", "tags"):
        texts = pa.table({"text": column})
        pq.write_table(texts, tmp_path / "b.parquet")
        assert [record.reason for record in records(tmp_path / "b.parquet") if isinstance(record, Rejected)] == [
            "non_string_text", "invalid_utf8"
        ]  # fmt: skip


def test_uuids_and_other_ids_of_parquet(tmp_path: Path) -> None:
    numbers = [uuid.UUID(int=n) for n in (1, 2)]
    pq.write_table(pa.table({"text": ["a", "b"], "id": pa.array([n.bytes for n in numbers], pa.uuid())}), tmp_path / "a.parquet")
    assert [document.source_id for document in documents(tmp_path / "a.parquet")] == [str(number) for number in numbers]
    table = {"text": ["a", "b", "c"], "id": pa.array([1.0, None, float("nan")])}
    pq.write_table(pa.table(table), tmp_path / "b.parquet")
    assert [document.source_id for document in documents(tmp_path / "b.parquet")] == ["1", None, None]
    binary = {"text": ["a", "b"], "id": pa.array([b"\x01" * 16, b"key"], pa.binary())}
    pq.write_table(pa.table(binary), tmp_path / "c.parquet")
    assert [document.source_id for document in documents(tmp_path / "c.parquet")] == ["01" * 16, "key"]


def test_a_wrong_or_doubled_column_is_one_message(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"content": ["x"] * 50, "meta": ["y"] * 50}), path)
    with pytest.raises(ValueError, match=r"a.parquet has no column 'text'; its columns are content, meta; set source.text_field"):
        check_fields(expand([str(path)], SourceConfig()), SourceConfig())
    (row,) = records(path)
    assert isinstance(row, Rejected) and row.reason == "missing_column"
    pq.write_table(pa.table({"Text": ["x"]}), path)
    with pytest.raises(
        ValueError, match=r"did you mean 'Text'\? Case and blanks tell names apart: set source.text_field = 'Text'"
    ):
        check_fields(expand([str(path)], SourceConfig()), SourceConfig())
    pq.write_table(pa.table({" text": ["x"]}), path)
    with pytest.raises(ValueError, match="did you mean ' text'"):
        check_fields(expand([str(path)], SourceConfig()), SourceConfig())
    pq.write_table(pa.table([["x"], ["y"], ["z"]], names=["text", "id", "id"]), path)  # what is read, not the text alone
    with pytest.raises(ValueError, match="has 2 columns 'id': text, id, id. Rename all but one. Nothing was done"):
        check_fields(expand([str(path)], SourceConfig()), SourceConfig())
    pq.write_table(pa.table([["x"], ["y"]], names=["text", "text"]), path)
    with pytest.raises(ValueError, match="2 columns 'text'"):
        check_fields(expand([str(path)], SourceConfig()), SourceConfig())
    (row,) = records(path)
    assert isinstance(row, Rejected) and row.reason == "doubled_column"
    other = lines(tmp_path / "b.jsonl", {"body": "x"})
    with pytest.raises(ValueError, match="b.jsonl has no column 'text'; its columns are body"):
        check_fields(expand([str(other)], SourceConfig()), SourceConfig())
    good = lines(tmp_path / "c.jsonl", {"text": "x"})
    check_fields(expand([str(path), str(good)], SourceConfig()), SourceConfig())  # something can be read: no reason to refuse all


def test_a_field_that_was_set_and_never_occurs_is_a_finding() -> None:
    config = SourceConfig(timestamp_field="createdAt", carry=("url",))
    metadata = Metadata()
    assert absent_fields(config, metadata) == ()
    metadata.add({"documents": 3, "duplicates": 1, "present": {"url": 1}, "nulled": {"bad_id": 2}})
    assert absent_fields(config, metadata) == ("source.timestamp_field = 'createdAt' occurs in none of 4 documents",)
    metadata.present["createdAt"] = 1
    assert absent_fields(config, metadata) == () and metadata.nulled == {"bad_id": 2}
