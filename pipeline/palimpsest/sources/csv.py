"""CSV and TSV with a header: one document per row."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv

from palimpsest.config import MIB, SourceConfig
from palimpsest.sources.columns import RowReader, column_values, read_columns
from palimpsest.sources.documents import Document, Reason, Rejected, Unusable, excerpt
from palimpsest.sources.fields import reject
from palimpsest.sources.objects import SourceObject
from palimpsest.sources.streams import read_bytes
from palimpsest.sources.text import looks_like_utf16, marked_encoding, refuse_other_format, with_head
from palimpsest.sources.units import Unit

_LEAST_BLOCK = MIB
_HEADER_BYTES = MIB  # longest first line


_END = b"\x1e this row ends the table \x1e"  # what no table has


class CsvSource:
    """`.csv` and `.tsv`. The first line names the columns; a field in double quotes may hold line feeds.

    Every cell is text: `007` stays `007`. A row with more or fewer cells than columns is quarantined. An object is one unit:
    whether a line feed ends a row depends on all quotes before it.
    """

    extensions = (".csv", ".tsv")

    def plan(self, item: SourceObject, config: SourceConfig) -> list[Unit]:
        return [Unit(object=item)]

    def read(self, unit: Unit, config: SourceConfig) -> Iterator[Document | Rejected]:
        item, rows = unit.object, RowReader(unit.object, config)
        bad: list[tuple[int, int, bytes]] = []
        done = 0
        try:
            source = _Source(item, config)
            names = _header(source, item, config)
            columns = read_columns(names, item, config)
            for batch in _batches(source, names, columns, item, config, bad):
                while bad:
                    yield _bad_row(*bad.pop(0), len(names), item)
                values = {name: column_values(batch.column(place)) for place, name in enumerate(columns)}
                yield from rows.read(values, range(batch.num_rows))
                done += batch.num_rows
            while bad:
                yield _bad_row(*bad.pop(0), len(names), item)
        except Unusable as problem:
            yield reject(problem, item)
        except pa.ArrowInvalid as error:
            said = str(error)
            reason = Reason.TOO_LARGE if "straddling" in said else Reason.CORRUPT_CSV
            yield reject(Unusable(reason, f"after {done} rows: {said}"), item)


def column_names(item: SourceObject, config: SourceConfig) -> list[str]:
    """The columns of an object. Raises Unusable."""
    return _header(_Source(item, config), item, config)


class _Source(io.RawIOBase):
    """The decompressed bytes of an object as a file for pyarrow, in UTF-8."""

    def __init__(self, item: SourceObject, config: SourceConfig) -> None:
        super().__init__()
        self._chunks = with_head(read_bytes(item, config), _HEADER_BYTES)
        self.head = next(self._chunks, b"").removeprefix(b"\xef\xbb\xbf" if config.is_utf8 else b"")
        self._rest = self.head
        self.end = b""  # follows the last byte

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        if not self._rest:
            self._rest = next(self._chunks, b"")
        if not self._rest:
            self._rest, self.end = self.end, b""
        part, self._rest = self._rest[: len(view)], self._rest[len(view) :]
        view[: len(part)] = part
        return len(part)


def _delimiter(item: SourceObject) -> str:
    return "\t" if ".tsv" in item.uri.lower().rpartition("/")[2] else ","


def _header(source: _Source, item: SourceObject, config: SourceConfig) -> list[str]:
    """The names of the columns.

    Raises:
        Unusable: no header, or one that cannot be read.
    """
    head = source.head
    if not head.strip():
        raise Unusable(Reason.EMPTY_TEXT, "a table without a header")
    if config.is_utf8 and (marked_encoding(head) or looks_like_utf16(head[:4096])):
        raise Unusable(Reason.UTF16_DETECTED, "CSV is read as UTF-8 only: convert the file", excerpt(head))
    refuse_other_format(head)
    try:
        line = io.BytesIO(head if len(head) < _HEADER_BYTES else head[: head.rfind(b"\n") + 1])
        parse = pacsv.ParseOptions(delimiter=_delimiter(item), newlines_in_values=True, invalid_row_handler=lambda row: "skip")
        with pacsv.open_csv(line, pacsv.ReadOptions(block_size=4 * _HEADER_BYTES, encoding=config.charset), parse) as table:
            return list(table.schema.names)
    except pa.ArrowInvalid as error:
        raise Unusable(Reason.CORRUPT_CSV, f"the header: {error}", excerpt(head)) from None


def _batches(
    source: _Source,
    names: list[str],
    columns: list[str],
    item: SourceObject,
    config: SourceConfig,
    bad: list[tuple[int, int, bytes]],
) -> Iterator[pa.RecordBatch]:
    """Batches with every cell of `columns` as bytes; rows of another length are added to `bad`.

    Raises:
        Unusable: a quotation mark that never ends, which hides what follows it. A last row that is not read shows it.
    """
    hidden: bytes | None = b""  # None once the last row was read

    def keep(row: pacsv.InvalidRow) -> str:
        nonlocal hidden
        text = row.text if isinstance(row.text, bytes) else str(row.text).encode("utf-8", "replace")
        if _END in text:
            hidden = text
        else:
            bad.append((row.number or 0, row.actual_columns, excerpt(text)))
        return "skip"

    source.end = b"\n" + _delimiter(item).encode().join([_END] * len(names)) + b"\n"

    block = max(_LEAST_BLOCK, min(1 << 30, 4 * config.max_document_chars))
    reading = pacsv.ReadOptions(use_threads=False, block_size=block, encoding=config.charset, column_names=names)
    parsing = pacsv.ParseOptions(delimiter=_delimiter(item), newlines_in_values=True, invalid_row_handler=keep)
    converting = pacsv.ConvertOptions(
        check_utf8=False,
        column_types=dict.fromkeys(names, pa.string()),
        include_columns=columns,
        strings_can_be_null=False,
        quoted_strings_can_be_null=False,
    )
    first = True
    with pacsv.open_csv(source, reading, parsing, converting) as table:
        for batch in table:
            batch, first = (batch.slice(1), False) if first and batch.num_rows else (batch, first)  # the first row is the header
            last = [column.cast(pa.binary())[-1].as_py() for column in batch.columns] if batch.num_rows else []
            if ends := [cell for cell in last if _END in cell]:
                hidden = None if all(cell == _END for cell in last) else ends[0]
                batch = batch.slice(0, batch.num_rows - 1)
            yield batch
    if hidden is not None:
        said = "a quotation mark never ends, and hides what follows it"
        raise Unusable(Reason.CORRUPT_CSV, said, excerpt(hidden.partition(_END)[0]))


def _bad_row(number: int, cells: int, text: bytes, expected: int, item: SourceObject) -> Rejected:
    where = f"row {number}" if number else "a row"
    return reject(Unusable(Reason.BAD_ROW, f"{where} has {cells} cells, not {expected}", text), item)
