"""What bad input gets: a row with a reason and the bytes, while the good records of the same file go through."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_sources import COMPRESS, read_rows

from palimpsest.config import SourceConfig
from palimpsest.schemas import QUARANTINE_BYTES
from palimpsest.sources.decompression import COMPRESSIONS
from palimpsest.sources.documents import Reason
from palimpsest.sources.listing import expand
from palimpsest.sources.tables import plan_units, read_unit_tables

GOOD = b'{"id": "good", "text": "good"}\n'


def outcomes(path: Path, config: SourceConfig | None = None) -> list[str]:
    """Per row, the text of a document or the reason of a quarantined record."""
    rows = read_rows(path, config)
    for row in rows:
        assert (row["kind"] == "quarantined") == (row["reason"] is not None) == (row["detail"] is not None)
        assert len(row["record"] or b"") <= QUARANTINE_BYTES
        assert row["source_uri"] == str(path) and row["source_version"]
    return [row["text"] if row["reason"] is None else row["reason"] for row in rows]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "cut', Reason.INVALID_JSON),
        (b"[1, 2]", Reason.INVALID_JSON),
        (b'{"text": ' + b"[" * 100_000, Reason.INVALID_JSON),
        (b'{"text": "x", "n": ' + b"9" * 5000 + b"}", Reason.INVALID_JSON),
        (b'{"text": "\xff\xfe"}', Reason.INVALID_UTF8),
        (b'{"text": "\xed\xa0\x80"}', Reason.INVALID_UTF8),
        (b'{"id": 1}', Reason.MISSING_TEXT),
        (b"{}", Reason.MISSING_TEXT),
        (b'{"text": null}', Reason.NULL_TEXT),
        (b'{"text": 5}', Reason.NON_STRING_TEXT),
        (b'{"text": ["a"]}', Reason.NON_STRING_TEXT),
        (b'{"text": ""}', Reason.EMPTY_TEXT),
        (b'{"text": "\\ud800 alone"}', Reason.LONE_SURROGATES),
        (b'{"text": "x", "id": "\\udfff"}', Reason.LONE_SURROGATES),
        (b'{"text": "x", "id": {}}', Reason.BAD_ID),
        (b'{"text": "x", "timestamp": "soon"}', Reason.BAD_TIMESTAMP),
        (b'{"text": "x", "importance": "high"}', Reason.BAD_IMPORTANCE),
        (b'{"text": "x", "importance": -Infinity}', Reason.BAD_IMPORTANCE),
        (b'{"text": "x", "importance": 1' + b"0" * 400 + b"}", Reason.BAD_IMPORTANCE),
        (b'{"text": "x", "text_class": 3}', Reason.BAD_CLASS),
    ],
)
def test_a_bad_json_line_costs_only_itself(tmp_path: Path, line: bytes, reason: Reason) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + line + b"\r\n\n" + b'{"text": "after"}')
    config = SourceConfig(bad_metadata="quarantine")
    assert outcomes(path, config) == ["good", reason, "after"]
    assert read_rows(path, config)[1]["record"] == (line + b"\r")[:QUARANTINE_BYTES]


def test_the_id_of_a_bad_record_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"id": 7, "text": null}')
    assert read_rows(tmp_path / "a.jsonl")[0]["source_id"] == "7"


def test_nul_and_control_characters_are_text(tmp_path: Path) -> None:
    wild = "a\x00b\x01\x1b[0m\x7f\u0085\u200b\ufeff"
    (tmp_path / "a.jsonl").write_bytes(json.dumps({"text": wild}).encode() + b'\n{"text": "raw \x00\x01\t"}\n')
    (tmp_path / "b.txt").write_text(wild)
    assert outcomes(tmp_path / "a.jsonl") == [wild, "raw \x00\x01\t"]
    assert outcomes(tmp_path / "b.txt") == [wild]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_wide_encodings(tmp_path: Path, encoding: str) -> None:
    """A byte-order mark is believed for text files; JSON lines are UTF-8 (with or without a mark) or quarantined, once."""
    text, jsonl = tmp_path / "a.txt", tmp_path / "a.jsonl"
    text.write_bytes("Some text, a bit.\n".encode(encoding))
    jsonl.write_bytes((GOOD.decode() * 5).encode(encoding))
    marked = encoding in ("utf-16", "utf-32", "utf-8-sig")
    assert outcomes(text) == ["Some text, a bit.\n" if marked else Reason.UTF16_DETECTED]
    config = SourceConfig(unit_bytes=50)
    assert len(plan_units(expand([str(jsonl)], config)[0], config)) > 1
    rows = outcomes(jsonl, config)
    if encoding == "utf-8-sig":
        assert {*rows} == {"good", None}  # later slices' documents, and the repeats within a slice
    else:
        assert rows == [Reason.UTF16_DETECTED]


def test_text_files(tmp_path: Path) -> None:
    def outcome(content: bytes, config: SourceConfig | None = None) -> str:
        (tmp_path / "a.txt").write_bytes(content)
        return outcomes(tmp_path / "a.txt", config)[0]

    assert outcome(b"") == outcome(b"\xef\xbb\xbf") == Reason.EMPTY_TEXT
    assert outcome(b"caf\xe9") == outcome(b"cut \xe2\x82") == Reason.INVALID_UTF8
    assert outcome(b"caf\xe9", SourceConfig(encoding="latin-1")) == "café"
    assert outcome(b"caf\xe9", SourceConfig(encoding="ascii")) == Reason.UNDECODABLE
    assert outcome(b"\xff\xfea\x00b") == Reason.UNDECODABLE
    assert outcome("ä".encode() * 10, SourceConfig(max_document_chars=10)) == "ä" * 10
    assert outcome(b"12345678901", SourceConfig(max_document_chars=10)) == Reason.TOO_LARGE


def test_the_bytes_of_a_text_file_are_those_around_the_fault(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"x" * 700_000 + b"\xff" + b"y" * 700_000)
    (row,) = read_rows(tmp_path / "a.txt")
    assert "byte 700000" in row["detail"] and b"x\xffy" in row["record"] and len(row["record"]) == QUARANTINE_BYTES


def incompressible_lines(count: int) -> bytes:
    return b"".join(b'{"text": "%d %s"}\n' % (n, os.urandom(300).hex().encode()) for n in range(count))


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_a_truncated_stream_gives_what_came_before(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    whole = COMPRESS[suffix](GOOD) + COMPRESS[suffix](incompressible_lines(5000))
    path.write_bytes(whole[: len(whole) * 2 // 3])
    rows = outcomes(path)
    assert rows[0] == "good" and rows[-1] == Reason.TRUNCATED
    assert len(rows) > (1000 if suffix == ".bz2" else 3000)  # bzip2's blocks of 900 kB are whole or lost
    path.write_bytes(b"")
    assert outcomes(path) == [Reason.TRUNCATED]


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_a_corrupt_stream_gives_what_came_before(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    for bad in (b"this was never compressed\n" * 9, COMPRESS[suffix](incompressible_lines(50))):
        body = bytearray(bad)
        body[len(body) // 2 : len(body) // 2 + 40] = bytes(range(40))
        path.write_bytes(COMPRESS[suffix](GOOD) + body)
        rows = outcomes(path)
        assert rows[0] == "good" and rows[-1] == Reason.CORRUPT_COMPRESSION
        assert not {*rows[:-1]} & set(Reason) - {Reason.INVALID_JSON, Reason.INVALID_UTF8}


def test_a_cut_text_is_no_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"long text " * 50)[:-9])
    assert outcomes(tmp_path / "a.txt.gz") == [Reason.TRUNCATED]


def write_parquet(path: Path, groups: int = 4) -> pq.FileMetaData:
    table = pa.table({"id": pa.array(range(groups * 10)), "text": [f"{n} {os.urandom(200).hex()}" for n in range(groups * 10)]})
    pq.write_table(table, path, row_group_size=10, compression="zstd", use_dictionary=False, write_page_checksum=True)
    return pq.read_metadata(path)


def test_a_damaged_row_group_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    place = write_parquet(path).row_group(1).column(1).data_page_offset
    body = bytearray(path.read_bytes())
    body[place + 1500 : place + 1600] = bytes(100)  # behind the header of the page, which is not covered by its checksum
    path.write_bytes(body)
    for config in (SourceConfig(), SourceConfig(unit_bytes=1)):
        rows = read_rows(path, config)
        assert [row["source_id"] for row in rows if row["kind"] == "document"] == [str(n) for n in range(40) if not 10 <= n < 20]
        (bad,) = (row for row in rows if row["kind"] == "quarantined")
        assert bad["reason"] == Reason.CORRUPT_PARQUET and "row group 1, rows 0 to 9" in bad["detail"]


@pytest.mark.parametrize("unit_bytes", [1, 1 << 26])
def test_a_parquet_file_without_its_footer(tmp_path: Path, unit_bytes: int) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path)
    whole = path.read_bytes()
    for bad in (whole[: len(whole) // 2], b"", b"PAR1", whole[:-60] + bytes(52) + whole[-8:]):
        path.write_bytes(bad)
        assert outcomes(path, SourceConfig(unit_bytes=unit_bytes)) == [Reason.CORRUPT_PARQUET]
    path = tmp_path / "b.parquet.zst"
    path.write_bytes(COMPRESS[".zst"](whole)[:-1000])
    assert outcomes(path) == [Reason.TRUNCATED]


def test_bad_rows_of_a_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    broken = pa.Array.from_buffers(pa.string(), 4, pa.array([b"good", b"\xff", b"", None], pa.binary()).buffers())
    pq.write_table(pa.table({"text": broken}), path)
    assert outcomes(path) == ["good", Reason.INVALID_UTF8, Reason.EMPTY_TEXT, Reason.NULL_TEXT]
    pq.write_table(pa.table({"text": [1, 2]}), path)
    assert outcomes(path) == [Reason.NON_STRING_TEXT] * 2
    pq.write_table(pa.table({"body": ["a", "b"], "id": ["x", "y"]}), path)
    (row,) = read_rows(path)
    assert row["reason"] == Reason.MISSING_COLUMN and "no column 'text'; its columns are body, id; set source" in row["detail"]
    pq.write_table(pa.table({"text": ["a"], "timestamp": pa.array([2**62], pa.timestamp("ms"))}), path)
    assert outcomes(path) == [Reason.BAD_TIMESTAMP]


def test_a_line_beyond_the_bound_is_not_held(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    long = b'{"text": "%s"}\n'
    path.write_bytes(GOOD + long % (b"x" * 3_000_000) + long % (b"y" * 500) + long % b"end")
    assert outcomes(path, SourceConfig(max_document_chars=100)) == ["good", Reason.TOO_LARGE, Reason.TOO_LARGE, "end"]


def test_a_document_of_200_mb_on_one_line(tmp_path: Path) -> None:
    """It is read by the unit in which it starts; the units that it covers hold nothing."""
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(GOOD + b'{"text": "')
        for _ in range(200):
            file.write(b"A line of text. " * 62_500)
        file.write(b'"}\n{"text": "after"}')
    config = SourceConfig(max_document_chars=1 << 28)
    found: list[int | None] = []
    for unit in plan_units(expand([str(path)], config)[0], config):
        for table in read_unit_tables(unit, config, unit_id="u"):
            found += pa.compute.utf8_length(table["text"]).to_pylist()
    assert found == [4, 200_000_000, None, None, 5, None]  # None: the unit_end rows


def test_files_that_go_away_or_change_after_the_listing(tmp_path: Path) -> None:
    names = ("gone", "grown", "folder", "unreadable", "fine")
    for name in names:
        (tmp_path / f"{name}.jsonl").write_bytes(GOOD)
    config = SourceConfig()
    units = [unit for item in expand([str(tmp_path)], config) for unit in plan_units(item, config)]
    (tmp_path / "gone.jsonl").unlink()
    (tmp_path / "folder.jsonl").unlink()
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "grown.jsonl").write_bytes(GOOD * 2)
    (tmp_path / "unreadable.jsonl").chmod(0)
    found = {}
    for unit in units:
        first = next(iter(read_unit_tables(unit, config, unit_id="u"))).to_pylist()[0]
        found[Path(unit.object.uri).stem] = first["reason"]
    may_read_all = os.access(tmp_path / "unreadable.jsonl", os.R_OK)  # root
    assert found == {
        "gone": Reason.VANISHED,
        "grown": Reason.CHANGED,
        "folder": Reason.UNREADABLE,
        "unreadable": None if may_read_all else Reason.UNREADABLE,
        "fine": None,
    }


def test_files_that_cannot_be_read_when_they_are_listed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    (tmp_path / "dangling.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle.txt").symlink_to(tmp_path / "circle.txt")
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"a name that is not UTF-8")
    os.mkfifo(tmp_path / "pipe.txt")
    config = SourceConfig(follow_symlinks=True)
    rows = {Path(row["source_uri"]).name: row["reason"] or row["text"] for row in read_rows(tmp_path, config)}
    assert rows == {
        "a.jsonl": "good",
        "dangling.txt": Reason.VANISHED,
        "circle.txt": Reason.UNREADABLE,
        "caf\\udce9.txt": "a name that is not UTF-8",
        "pipe.txt": Reason.UNREADABLE,
    }


def test_streams_with_garbage_or_padding_at_the_end(tmp_path: Path) -> None:
    for suffix, compress in ((".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)):
        path = tmp_path / f"a.jsonl{suffix}"
        path.write_bytes(compress(GOOD) + bytes(512))
        assert outcomes(path) == ["good"]
        path.write_bytes(compress(GOOD) + b"garbage that is long enough for a header")
        assert outcomes(path) == ["good", Reason.CORRUPT_COMPRESSION]
