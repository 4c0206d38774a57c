"""The sources: URIs to objects, objects to units, units to tables."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import time
from collections import Counter
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest.config import SourceConfig
from palimpsest.schemas import DOCUMENTS
from palimpsest.sources.decompression import COMPRESSIONS, decompress, zstd
from palimpsest.sources.documents import Document, Unusable, document_id
from palimpsest.sources.fields import parse_timestamp
from palimpsest.sources.formats import SOURCES
from palimpsest.sources.listing import expand
from palimpsest.sources.tables import plan_units, read_unit, read_unit_tables

COMPRESS = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": partial(lzma.compress, preset=0),
    ".zst": partial(zstd.compress, options={zstd.CompressionParameter.checksum_flag: 1}),  # as the command line tool does
}
RECORDS = [
    {"id": f"d{n}", "text": f"Text {n}: ä 漢 \U0001f600\n", "timestamp": "2024-05-01T12:00:00Z", "importance": n / 2}
    for n in range(20)
]


def read_rows(path: Path, config: SourceConfig | None = None) -> list[dict[str, Any]]:
    """The rows of all units of what `path` names, unit_end rows excepted; the counts are checked on the way."""
    config = config or SourceConfig()
    rows: list[dict[str, Any]] = []
    for item in expand([str(path)], config):
        for unit in plan_units(item, config):
            unit_rows = [row for table in read_unit_tables(unit, config, unit_id="u") for row in table.to_pylist()]
            kinds = Counter(row["kind"] for row in unit_rows[:-1])
            counts = unit_rows[-1]["control"]
            assert unit_rows[-1]["kind"] == "unit_end"
            assert [counts[k] for k in ("documents", "quarantined", "duplicates")] == [
                kinds[k] for k in ("document", "quarantined", "duplicate")
            ]
            assert counts["documents_in"] == len(unit_rows) - 1
            rows += unit_rows[:-1]
    return rows


def encode(format: str, records: list[dict[str, Any]]) -> bytes:
    if format == "text":
        return "".join(record["text"] for record in records).encode()
    if format == "jsonl":
        return "".join(json.dumps(record) + "\n" for record in records).encode()
    buffer = io.BytesIO()
    if format == "csv":
        csv.write_csv(pa.Table.from_pylist(records), buffer)
        return buffer.getvalue()
    if format == "arrow":
        feather.write_feather(pa.Table.from_pylist(records), buffer, chunksize=7)
        return buffer.getvalue()
    pq.write_table(pa.Table.from_pylist(records), buffer, row_group_size=7)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("format", SOURCES)
def test_every_format_reads_plain_and_compressed(tmp_path: Path, format: str, suffix: str) -> None:
    assert set(COMPRESS) == {"", *COMPRESSIONS}
    for extension in SOURCES[format].extensions:
        path = tmp_path / f"corpus{extension.upper()}{suffix}"
        body = encode(format, RECORDS)
        path.write_bytes(COMPRESS[suffix](body.replace(b",", b"\t") if extension == ".tsv" else body))
        rows = read_rows(path)
        if format == "text":
            assert [row["text"] for row in rows] == ["".join(record["text"] for record in RECORDS)]
            continue
        assert [(row["source_id"], row["text"], row["importance"]) for row in rows] == [
            (record["id"], record["text"], record["importance"]) for record in RECORDS
        ]
        assert {row["timestamp"] for row in rows} == {datetime(2024, 5, 1, 12, tzinfo=UTC)}
        assert {row["doc_id"] for row in rows} == {document_id(record["text"]) for record in RECORDS}


def test_tables_have_the_declared_schema_and_bounded_size(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    sizes = [10, 10, 1000, 10, 10, 10]
    path.write_bytes(encode("jsonl", [{"text": f"{n:04d}" * size} for n, size in enumerate(sizes)]))
    config = SourceConfig()
    (unit,) = plan_units(expand([str(path)], config)[0], config)
    tables = list(read_unit_tables(unit, config, unit_id="u", max_chars=80, max_rows=2))
    assert all(table.schema == DOCUMENTS for table in tables)
    assert [table.num_rows for table in tables] == [2, 1, 2, 2]
    assert set(pa.concat_tables(tables)["unit_id"].to_pylist()) == {"u"}


def test_repeats_are_counted_and_ids_with_different_text_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(encode("jsonl", [{"id": "x", "text": t} for t in ("one", "two", "one", "three")]))
    config = SourceConfig()
    (unit,) = plan_units(expand([str(path)], config)[0], config)
    tables = read_unit_tables(unit, config, unit_id="u", left_out={document_id("three")})
    rows = pa.concat_tables(tables).to_pylist()
    assert [(row["kind"], row["text"]) for row in rows] == [
        ("document", "one"),
        ("document", "two"),
        ("duplicate", None),
        ("duplicate", None),
        ("unit_end", None),
    ]
    assert rows[2]["doc_id"] == rows[0]["doc_id"]
    counts = {"documents_in": 4, "documents": 2, "quarantined": 0, "duplicates": 2, "repeated_ids": 1}
    assert {name: rows[-1]["control"][name] for name in counts} == counts


LINES = st.lists(
    st.one_of(
        st.text(st.characters(codec="utf-8"), max_size=30).map(
            lambda text: json.dumps({"text": text}, ensure_ascii=False).encode()
        ),
        st.sampled_from([b"", b" ", b"{", b"not json", b"\xff", b"\r", b"null"]),
    ),
    max_size=12,
)


@given(lines=LINES, last_line_feed=st.booleans(), unit_bytes=st.integers(1, 80))
def test_slices_of_json_lines_are_the_whole_file_once_each(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], last_line_feed: bool, unit_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("slices") / "a.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n" * last_line_feed)

    def records(unit_bytes: int) -> list[Any]:
        config = SourceConfig(unit_bytes=unit_bytes)
        units = plan_units(expand([str(path)], config)[0], config)
        if len(units) > 1:
            assert units[0].span[0] == 0 and units[-1].span[1] == path.stat().st_size
            assert all(before.span[1] == after.span[0] for before, after in zip(units, units[1:], strict=False))
        found = [record for unit in units for record in read_unit(unit, config)]
        return [(r.text,) if isinstance(r, Document) else (r.reason, r.record) for r in found]

    whole = records(1 << 20)
    assert len(whole) == sum(1 for line in lines if line.strip())
    assert records(unit_bytes) == whole


@settings(max_examples=20)
@given(rows=st.integers(0, 40), group=st.integers(1, 9), unit_bytes=st.integers(1, 3000))
def test_slices_of_parquet_are_the_whole_file_once_each(
    tmp_path_factory: pytest.TempPathFactory, rows: int, group: int, unit_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("slices") / "a.parquet"
    texts = [f"text {n}" for n in range(rows)]
    pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), path, row_group_size=group)
    config = SourceConfig(unit_bytes=unit_bytes)
    units = plan_units(expand([str(path)], config)[0], config)
    assert [record.text for unit in units for record in read_unit(unit, config)] == texts  # type: ignore[union-attr]
    assert len({unit.slice for unit in units}) == len(units)


@settings(max_examples=30)
@given(st.lists(st.binary(max_size=60_000), min_size=1, max_size=3), st.integers(1, 5000), st.sampled_from(COMPRESSIONS))
def test_decompression_is_the_inverse_in_any_chunks(members: list[bytes], chunk: int, suffix: str) -> None:
    stream = b"".join(COMPRESS[suffix](member) for member in members)
    pieces = list(decompress((stream[i : i + chunk] for i in range(0, len(stream), chunk)), suffix))
    assert b"".join(pieces) == b"".join(members)


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_a_bomb_comes_out_in_small_pieces(suffix: str) -> None:
    assert {len(piece) for piece in decompress([COMPRESS[suffix](bytes(1 << 22))], suffix)} <= set(range(1, (1 << 14) + 1))


def test_column_types_that_other_writers_use(tmp_path: Path) -> None:
    moment = datetime(2020, 1, 2, 3, 4, 5, 678901)
    columns = {
        "text": pa.array(["a", "b", "a", "c"]).dictionary_encode(),
        "id": pa.array([1, 2, 3, None]),
        "timestamp": pa.array([moment] * 4, pa.timestamp("ns")),
        "importance": pa.array([1, 2, 3, 4], pa.float16()),
        "text_class": pa.array([b"prose", None, b"code", b"x"], pa.binary()),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    rows = read_rows(tmp_path / "a.parquet")
    assert [(row["source_id"], row["text"], row["text_class"]) for row in rows if row["kind"] == "document"] == [
        ("1", "a", "prose"),
        ("2", "b", None),
        (None, "c", "x"),
    ]
    assert {row["timestamp"] for row in rows if row["kind"] == "document"} == {moment.replace(tzinfo=UTC)}


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (1_700_000_000, datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        (1_700_000_000_123, datetime(2023, 11, 14, 22, 13, 20, 123000, tzinfo=UTC)),
        (1.5, datetime(1970, 1, 1, 0, 0, 1, 500000, tzinfo=UTC)),
        ("2024-02-29", datetime(2024, 2, 29, tzinfo=UTC)),
        ("2024-02-29T10:00:00+05:30", datetime(2024, 2, 29, 4, 30, tzinfo=UTC)),
        (None, None),
    ],
)
def test_timestamps(value: Any, moment: datetime | None) -> None:
    assert parse_timestamp(value) == moment


@pytest.mark.parametrize("value", ["yesterday", True, 1e300, 10**40, [], "0001-01-01T00:00:00+14:00"])
def test_what_is_no_timestamp(value: Any) -> None:
    with pytest.raises(Unusable, match="bad_timestamp"):
        parse_timestamp(value)


def test_fields_go_by_the_settings(tmp_path: Path) -> None:
    record = {"body": "café", "key": 7, "when": 5, "w": 1, "kind": "code"}
    (tmp_path / "a.dat").write_text(json.dumps(record, ensure_ascii=False), "latin-1")
    fields = {"text_field": "body", "id_field": "key", "timestamp_field": "when", "importance_field": "w", "class_field": "kind"}
    (row,) = read_rows(tmp_path / "a.dat", SourceConfig(format="jsonl", encoding="latin-1", **fields))  # type: ignore[arg-type]
    assert (row["text"], row["source_id"], row["importance"], row["text_class"]) == ("café", "7", 1.0, "code")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.txt", "a.md", "sub/c.jsonl", "sub/deep/d.txt.gz", ".hidden.txt", "_SUCCESS", "_temporary/e.txt"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*uris: str) -> list[str]:
    return [item.uri for item in expand(uris, SourceConfig())]


def test_files_folders_globs_and_file_uris(folder: Path) -> None:
    everything = ["in/a.md", "in/b.txt", "in/sub/c.jsonl", "in/sub/deep/d.txt.gz"]
    assert names("in") == names("in/") == names("./in") == everything
    assert names("in/*.txt") == ["in/b.txt"]
    assert names("in/**/*.txt*") == ["in/b.txt", "in/sub/deep/d.txt.gz"]
    assert names(f"file://{folder}/in/a.md") == [f"{folder}/in/a.md"]
    assert names("in/b.txt", "in", f"{folder}/in/b.txt") == ["in/b.txt", "in/a.md", "in/sub/c.jsonl", "in/sub/deep/d.txt.gz"]
    (folder / "in" / "sub" / "loop").symlink_to(folder / "in")
    (folder / "in" / "what?[x] #1%20.txt").write_text("odd")
    assert names("in/what?[x] #1%20.txt") == ["in/what?[x] #1%20.txt"]
    assert len(names("in")) == 5


def test_the_version_is_the_content(folder: Path) -> None:
    (before,) = expand(["in/b.txt"], SourceConfig())
    os.utime("in/b.txt", (1, 1))
    assert expand(["in/b.txt"], SourceConfig()) == [before]
    (folder / "in" / "b.txt").write_bytes(b"[]")
    assert expand(["in/b.txt"], SourceConfig())[0].version != before.version


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("in/none.txt", "'in/none.txt' does not exist"),
        ("in/*.parquet", "names no file"),
        ("empty", "names no file"),
        ("ftp://bucket/x.txt", "unknown scheme 'ftp'.*s3://"),
        ("file://host/x.txt", "host 'host'"),
        ("s3:///x.txt", "no bucket"),
        ("picture.png", r"no supported format in picture.png.*\.txt \.md \.jsonl \.ndjson \.json \.parquet.*\.gz"),
    ],
)
def test_a_uri_that_names_nothing_is_an_error(folder: Path, uri: str, message: str) -> None:
    (folder / "empty").mkdir()
    (folder / "picture.png").touch()
    with pytest.raises(ValueError, match=message):
        names(uri)


def test_a_hundred_thousand_tiny_documents(tmp_path: Path) -> None:
    path = tmp_path / "tiny.jsonl"
    path.write_text("".join(f'{{"id": {n}, "text": "t{n}"}}\n' for n in range(100_000)))
    start = time.process_time()
    config = SourceConfig()
    (unit,) = plan_units(expand([str(path)], config)[0], config)
    tables = list(read_unit_tables(unit, config, unit_id="u"))
    assert tables[-1]["control"][-1].as_py()["documents"] == 100_000
    assert len(tables) == 13
    assert time.process_time() - start < 20
