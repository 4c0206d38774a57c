"""Formats by content, their corners and their limits: JSON in all shapes, CSV, Arrow, odd Parquet, compression, bombs."""

from __future__ import annotations

import gzip
import json
import lzma
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_sources_fields import records

from palimpsest.config import SourceConfig
from palimpsest.sources.decompression import zstd
from palimpsest.sources.documents import Document, Rejected
from palimpsest.sources.json_values import ARRAY, OBJECTS, shape_of, split_values
from palimpsest.sources.parquet_pages import largest_page
from tests.paths import ROOT, SOURCE

BOM = b"\xef\xbb\xbf"


def outcomes(path: Path, **settings: Any) -> list[str]:
    """Per record its text, or the reason of its quarantine."""
    return [record.text if isinstance(record, Document) else str(record.reason) for record in records(path, **settings)]


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


SHAPES = {
    "lines": b'{"text": "a"}\n{"text": "b"}\n',
    "lines with marks": BOM + b'{"text": "a"}\r\n' + BOM + b'{"text": "b"}',
    "array": b'[{"text": "a"}, {"text": "b"}]',
    "array over lines": b'[\n  {"text": "a"},\n  {"text": "b"}\n]\n',
    "objects over lines": b'{\n  "text": "a"\n}\n{\n  "text": "b"\n}\n',
    "array with a mark": BOM + b' [{"text":"a"},{"text":"b"}]',
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.ndjson", "a.json.gz"])
def test_json_is_read_by_its_content(tmp_path: Path, shape: str, name: str) -> None:
    content = SHAPES[shape]
    path = written(tmp_path / name, gzip.compress(content) if name.endswith(".gz") else content)
    assert outcomes(path) == ["a", "b"]
    assert outcomes(path, unit_bytes=7) == ["a", "b"]
    assert outcomes(path, encoding="utf-8-sig") == ["a", "b"]


def test_one_object_is_one_document(tmp_path: Path) -> None:
    for content in (b'{"text": "a"}', b'{\n "text":\n "a",\n "tags": ["x", {"y": "]}"}]\n}\n'):
        assert outcomes(written(tmp_path / "a.json", content)) == ["a"]


def test_a_bad_element_costs_only_itself(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", b'[{"text": "a"}, nul, 7, {"text": }, {"text": "b"},]')
    assert outcomes(path) == ["a", "invalid_json", "invalid_json", "invalid_json", "b"]
    assert outcomes(written(tmp_path / "a.json", b'[{"text": "a"}, {"text": "cut')) == ["a", "invalid_json", "invalid_json"]
    assert outcomes(written(tmp_path / "a.json", b'[{"text": "a"}] and more')) == ["a", "invalid_json"]
    assert outcomes(written(tmp_path / "a.json", b"[" * 100_000)) == ["invalid_json"] * 2
    assert outcomes(written(tmp_path / "a.json", b"[]")) == outcomes(written(tmp_path / "a.json", b" ")) == []
    long = b'[{"text": "%s"}, {"text": "b"}]' % (b"x" * 500_000)
    assert outcomes(written(tmp_path / "a.json", long), max_document_chars=100) == ["too_large", "b"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.lists(st.dictionaries(st.text(max_size=4), VALUES, min_size=1), min_size=1, max_size=5), st.integers(1, 40), st.booleans()
)
def test_splitting_is_the_inverse_of_joining(values: list[Any], chunk: int, pretty: bool) -> None:
    indent = 1 if pretty else None
    for shape, whole in (
        (ARRAY, json.dumps(values, indent=indent, ensure_ascii=False)),
        (OBJECTS, "\n".join(json.dumps(value, indent=1) for value in values)),
    ):
        data = whole.encode()
        pieces = (data[start : start + chunk] for start in range(0, len(data), chunk))
        assert [json.loads(value or b"") for _, value in split_values(pieces, 1 << 20, shape)] == values


def test_the_shape_is_not_mistaken() -> None:
    assert shape_of(b'{"text": "never closed\n{"text": "b"}') == "lines"
    assert shape_of(b'[1, 2]\n{"text": "b"}') == "lines"
    assert shape_of(b"") == shape_of(b"\n\n") == "lines"


# corners of JSON and UTF-8, after the cases that public suites of parsers are made of
CORNERS: list[tuple[bytes, str]] = [
    (b'{"text": "\\u0000\\u001f"}', "\x00\x1f"),
    (b'{"text": "\\ud83d\\ude00"}', "\U0001f600"),
    (b'{"text": "\\ud83d"}', "lone_surrogates"),
    (b'{"text": "\\ude00\\ud83d"}', "lone_surrogates"),
    (b'{"text": "a", "text": "b"}', "doubled_key"),
    (b'\xef\xbb\xbf\xef\xbb\xbf{"text": "a"}', "a"),
    (b'{"text": "a",}', "invalid_json"),
    (b"{'text': 'a'}", "invalid_json"),
    (b'{"text": "a"} // comment', "invalid_json"),
    (b'{"text": "a"}{"text": "b"}', "invalid_json"),
    (b'{"text": "\\x41"}', "invalid_json"),
    (b'{"text": "a", "n": 1e999}', "a"),
    (b'{"text": "a", "n": -0}', "a"),
    (b'{"text": "a", "n": 01}', "invalid_json"),
    (b'{"text": "\xc0\x80"}', "invalid_utf8"),
    (b'{"text": "\xe0\x80\x80"}', "invalid_utf8"),
    (b'{"text": "\xf4\x90\x80\x80"}', "invalid_utf8"),
    (b'{"text": "\xed\xa0\xbd\xed\xb8\x80"}', "invalid_utf8"),
    (b'{"text": "\xf0\x9f\x98"}', "invalid_utf8"),
    (b'{"text": "\xef\xbf\xbe\xef\xb7\x90"}', "\ufffe\ufdd0"),
    (b'{"text": "\xe2\x80\xa8"}', "\u2028"),
    ("{\u00a0}".encode(), "invalid_json"),
    (b"NaN", "invalid_json"),
]


@pytest.mark.parametrize(("line", "outcome"), CORNERS)
def test_corners_of_json_and_utf8(tmp_path: Path, line: bytes, outcome: str) -> None:
    path = written(tmp_path / "a.jsonl", b'{"text": "before"}\n' + line + b'\n{"text": "after"}\n')
    assert outcomes(path) == ["before", outcome, "after"]


def test_zeros_that_a_crashed_writer_left_are_no_utf16(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", b'{"text": "kept"}\n' + bytes(5000) + b'\n{"text": "after"}\n')
    assert outcomes(path) == ["kept", "invalid_json", "after"]
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        assert outcomes(written(tmp_path / "a.jsonl", '{"text": "wide"}\n'.encode(encoding))) == ["utf16_detected"]


@pytest.mark.parametrize("content", [b" \x005", b"a\x00", b"\x00\x00\x00", b"short\x00text\x00here\x00ok"])
def test_a_short_text_with_a_nul_is_what_it_is(tmp_path: Path, content: bytes) -> None:
    assert outcomes(written(tmp_path / "a.txt", content)) == [content.decode()]


def test_csv(tmp_path: Path) -> None:
    body = (
        b'id,text,when\r\n007,"two\nlines, and ""quotes""",2024-03\r\n8,,\r\n9,short\r\n10,a,b,c\r\n11,\xff,\r\nNA,last,2024\r\n'
    )
    path = written(tmp_path / "a.csv", BOM + body)
    found = records(path, timestamp_field="when")
    texts = [record.text if isinstance(record, Document) else record.reason for record in found]
    assert sorted(texts) == sorted(['two\nlines, and "quotes"', "empty_text", "bad_row", "bad_row", "invalid_utf8", "last"])
    first = next(record for record in found if isinstance(record, Document))
    assert first.source_id == "007" and first.timestamp is not None and first.timestamp.month == 3
    bad = [record for record in found if isinstance(record, Rejected) and record.reason == "bad_row"]
    assert [record.record for record in bad] == [b"9,short", b"10,a,b,c"]
    assert outcomes(written(tmp_path / "a.tsv", b"text\tid\na, b\t1\n")) == ["a, b"]
    assert outcomes(written(tmp_path / "b.csv", b"body\nx\ny\n")) == ["missing_column"]
    assert outcomes(written(tmp_path / "b.csv", b"text,text\nx,y\n")) == ["doubled_column"]
    assert outcomes(written(tmp_path / "b.csv", b"text\ncaf\xe9\n"), encoding="latin-1") == ["caf\u00e9"]
    assert outcomes(written(tmp_path / "b.csv", "text\nwide\n".encode("utf-16"))) == ["utf16_detected"]
    assert outcomes(written(tmp_path / "b.csv", b"")) == ["empty_text"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'text\na\n"unclosed\nb\nc\n', ["a", "corrupt_csv"]),
        (b'text,id\na,1\nb,"2\nc,3\nd,4', ["a", "corrupt_csv"]),
        (b'text,id\na,1\n"b,2\nc,3\n', ["a", "corrupt_csv"]),
        (b'text,other\na,"x\nb,y', ["a", "corrupt_csv"]),
        (b'text,id\n5" pipe,1\n"q ""x""",2', ['5" pipe', 'q "x"']),
        (b'text\n"ends here"', ["ends here"]),
        (b"text\na\n\nb\n\n", ["a", "b"]),
        (b"text\n", []),
    ],
)
def test_a_quotation_mark_that_never_ends_hides_no_rows(tmp_path: Path, body: bytes, expected: list[str]) -> None:
    """Without the check, all that follows it is one text, or lost in a column that is not read."""
    found = records(written(tmp_path / "a.csv", body))
    assert [record.text if isinstance(record, Document) else record.reason for record in found] == expected
    assert all(b"\x1e" not in record.record for record in found if isinstance(record, Rejected))


def test_what_is_wrong_is_named_as_what_it_is(tmp_path: Path) -> None:
    def only(name: str, content: bytes) -> str:
        (record,) = records(written(tmp_path / name, content))
        assert isinstance(record, Rejected)
        return f"{record.reason}: {record.detail}"

    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["a"]}), sink)
    parquet = sink.getvalue().to_pybytes()
    for name in ("a.jsonl", "a.csv", "a.txt"):
        assert only(name, parquet) == "other_format: it begins as Parquet does, and its name tells another format"
        assert only(name, b"%PDF-1.4 only ASCII").startswith("other_format: it begins as a PDF does")
    assert "separated by ';'; only commas and" in only("b.csv", b"id;text\n1;x\n")
    for value, said in (
        ("null", "null, not an object"),
        ('"x"', "a string, not an object"),
        ("4", "a number, not an object"),
        ("true", "a truth value, not an object"),
        (f'{{"text": "a", "n": {"9" * 5000}}}', "an integer of more than 4,300 digits"),
    ):
        assert only("c.jsonl", f"{value}\n".encode()) == f"invalid_json: {said}"


def test_arrow_files_and_streams(tmp_path: Path) -> None:
    table = pa.table({"text": pa.array(["a", "b", "a"]).dictionary_encode(), "id": [1, 2, 3], "other": [0.5] * 3})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    feather.write_feather(table, tmp_path / "b.feather", compression="zstd", chunksize=2)
    feather.write_feather(table, tmp_path / "c.arrow", compression="uncompressed")
    (tmp_path / "a.arrows").write_bytes((tmp_path / "a.arrow").read_bytes())
    for name in ("a.arrow", "a.arrows", "b.feather", "c.arrow"):
        assert outcomes(tmp_path / name) == ["a", "b", "a"]
    whole = (tmp_path / "a.arrow").read_bytes()
    assert outcomes(written(tmp_path / "d.arrow", whole[: len(whole) * 2 // 3]))[-1] == "corrupt_arrow"
    assert outcomes(written(tmp_path / "e.arrow", b"ARROW1 but no more")) == ["corrupt_arrow"]
    assert outcomes(written(tmp_path / "f.feather", b"FEA1" + bytes(40))) == ["unsupported"]


def test_odd_types_of_parquet(tmp_path: Path) -> None:
    texts = {
        "large_string": pa.array(["a"], pa.large_string()),
        "binary": pa.array([b"a"], pa.binary()),
        "fixed": pa.array([b"a"], pa.binary(1)),
        "dictionary": pa.array(["a"]).dictionary_encode(),
        "view": pa.array(["a"]).cast(pa.string_view()),
    }
    for name, column in texts.items():
        pq.write_table(pa.table({"text": column}), tmp_path / f"{name}.parquet")
        assert outcomes(tmp_path / f"{name}.parquet") == ["a"], name
    for name, column in {"list": pa.array([["a"]]), "map": pa.array([[("k", "a")]], pa.map_(pa.string(), pa.string()))}.items():
        pq.write_table(pa.table({"text": column}), tmp_path / f"{name}.parquet")
        assert outcomes(tmp_path / f"{name}.parquet") == ["non_string_text"], name
    pq.write_table(pa.table({"text": pa.nulls(2)}), tmp_path / "null.parquet")
    assert outcomes(tmp_path / "null.parquet") == ["null_text"] * 2
    for encoding in ("DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY", "PLAIN"):
        table = pa.table({"text": [f"prefix {n}" for n in range(30)]})
        pq.write_table(table, tmp_path / "a.parquet", use_dictionary=False, column_encoding={"text": encoding})
        assert outcomes(tmp_path / "a.parquet") == table["text"].to_pylist()


def test_compression_goes_by_content(tmp_path: Path) -> None:
    line = b'{"text": "a"}\n'
    packed = {"gz": gzip.compress(line), "xz": lzma.compress(line), "zst": zstd.compress(line)}
    for kind, content in packed.items():
        assert outcomes(written(tmp_path / "a.jsonl", content)) == ["a"]
        assert outcomes(written(tmp_path / "a.jsonl", content), unit_bytes=9) == ["a"]
        for name in ("a.jsonl.gz", "a.jsonl.zst", "a.jsonl.bz2"):
            assert outcomes(written(tmp_path / name, content)) == ["a"], (kind, name)
    assert outcomes(written(tmp_path / "plain.jsonl.gz", line)) == ["a"]
    table = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["a"]}), table)
    assert outcomes(written(tmp_path / "a.parquet", gzip.compress(table.getvalue().to_pybytes()))) == ["a"]
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd" + zstd.compress(line)
    assert outcomes(written(tmp_path / "s.jsonl.zst", skippable)) == ["a"]


def long_window(log: int) -> bytes:
    options = {zstd.CompressionParameter.window_log: log, zstd.CompressionParameter.enable_long_distance_matching: 1}
    compressor = zstd.ZstdCompressor(options=options)  # without the content's size, which would shrink the window
    return compressor.compress(b'{"text": "a"}\n') + compressor.flush()


def test_windows_of_zstd(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl.zst", long_window(28))
    assert outcomes(path) == ["a"]
    assert outcomes(path, zstd_window=1 << 27) == ["window_too_large"]
    assert outcomes(written(path, long_window(29))) == ["window_too_large"]


LIMITS = {"unfold_bytes": 100_000, "unfold_factor": 2}


def test_an_object_may_unfold_only_so_far(tmp_path: Path) -> None:
    lines = b'{"text": "the same line again"}\n' * 50_000
    found = outcomes(written(tmp_path / "a.jsonl.gz", gzip.compress(lines)), **LIMITS)
    assert found[-1] == "unfolds_too_far" and 3000 < len(found) < 4000
    table = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["x" * 1000] * 300}), table, use_dictionary=False)
    packed = gzip.compress(table.getvalue().to_pybytes())
    assert outcomes(written(tmp_path / "a.parquet.gz", packed), unfold_bytes=1, unfold_factor=1) == ["unfolds_too_far"]
    pq.write_table(pa.table({"text": ["x" * 1000] * 300}), tmp_path / "b.parquet")
    found = outcomes(tmp_path / "b.parquet", **LIMITS)
    assert found[-1] == "too_large" and len(found) < 110
    feather.write_feather(pa.table({"text": ["x" * 1000] * 300}), tmp_path / "c.arrow", compression="zstd")
    assert outcomes(tmp_path / "c.arrow", **LIMITS) == ["too_large"]
    path = written(tmp_path / "d.jsonl", b'{"text": "a"}\n' * 100)
    assert outcomes(path, unfold_rows=1)[-1] == "a"  # a row for each byte
    pq.write_table(pa.table({"text": pa.array(["a"] * 100_000)}), tmp_path / "e.parquet")
    assert outcomes(tmp_path / "e.parquet", unfold_rows=10)[-1] == "too_many_rows"


def test_an_object_of_garbage_is_not_read_to_its_end(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.nulls(100_000, pa.string())}), tmp_path / "a.parquet")
    found = outcomes(tmp_path / "a.parquet")
    assert len(found) == 10_001 and found[-1] == "mostly_bad"


def test_pages_have_the_size_that_decoding_takes(tmp_path: Path) -> None:
    texts = ["x" * 100_000, "y" * 200_000]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", compression="zstd", data_page_size=1, use_dictionary=False)
    chunk = pq.read_metadata(tmp_path / "a.parquet").row_group(0).column(0)
    with open(tmp_path / "a.parquet", "rb") as file:
        assert 300_000 < largest_page(file, chunk.data_page_offset, chunk.total_compressed_size) < 301_000
        with pytest.raises((ValueError, IndexError)):
            largest_page(file, chunk.data_page_offset + 7, chunk.total_compressed_size)


DELTA = "dict(use_dictionary=False, column_encoding={'text': 'DELTA_BYTE_ARRAY'})"
BOMBS = {
    "a dictionary": ("pa.DictionaryArray.from_arrays(pa.array([0] * 1024, pa.int32()), pa.array(['a' * (4 << 20)]))", "{}"),
    "one long value": ("pa.array(['a' * (1 << 28)])", "{}"),
    "prefixes": ("pa.array(['a' * (4 << 20)] * 80)", DELTA),
    "no rows at all": ("pa.nulls(20_000_000, pa.string())", "{}"),
}
WRITE = """
import sys, pyarrow as pa, pyarrow.parquet as pq
table = pa.table({{"text": {}}})
pq.write_table(table, sys.argv[1], compression="zstd", store_schema=False, **{})
"""
READ = """
import re, sys
from pathlib import Path
from palimpsest.config import SourceConfig
from palimpsest.sources.listing import expand
from palimpsest.sources.tables import plan_units, read_unit_tables
config = SourceConfig(max_document_chars=int(sys.argv[2]))
reasons = set()
for unit in plan_units(expand([sys.argv[1]], config)[0], config):
    for table in read_unit_tables(unit, config, unit_id="u"):
        reasons.update(table["reason"].to_pylist())
# ru_maxrss would also count the process that started this one
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
print(peak >> 10, *sorted(filter(None, reasons)))
"""


@pytest.mark.parametrize(("bomb", "reason"), [(bomb, "mostly_bad" if "rows" in bomb else "too_large") for bomb in BOMBS])
def test_bombs_take_less_than_a_gigabyte_and_have_a_reason(tmp_path: Path, bomb: str, reason: str) -> None:
    path = tmp_path / "a.parquet"
    environment = {"PYTHONPATH": f"{SOURCE}:{ROOT}", "PATH": "/usr/bin"}
    subprocess.run([sys.executable, "-c", WRITE.format(*BOMBS[bomb]), str(path)], check=True, env=environment)
    assert path.stat().st_size < 200_000
    command = [sys.executable, "-c", READ, str(path), str(SourceConfig().max_document_chars)]
    peak, *reasons = subprocess.run(command, check=True, env=environment, capture_output=True, text=True).stdout.split()
    assert int(peak) < 1024 and reason in reasons, (peak, reasons)
