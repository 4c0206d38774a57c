"""Parquet: one document per row, sliced by row groups."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from palimpsest.config import MIB, SourceConfig
from palimpsest.sources.documents import Document, Reason, Rejected, Unusable, decode, excerpt
from palimpsest.sources.fields import build_document, reject
from palimpsest.sources.objects import SourceObject
from palimpsest.sources.streams import compression, opened, read_bytes
from palimpsest.sources.units import Unit
from palimpsest.storage.s3_client import S3Error

_BATCH_ROWS = 1024
_BATCH_BYTES = 8 * MIB  # of decoded columns, judged by the row group's mean
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


class ParquetSource:
    """`.parquet`. A big plain object is sliced into runs of row groups of about `unit_bytes` of stored bytes.

    One that is compressed as a file is a single unit, decompressed to a temporary file first: Parquet is read from its end.
    Damaged pages are found where their writer gave them checksums, or where they cannot be decoded.
    """

    extensions = (".parquet",)

    def plan(self, item: SourceObject, config: SourceConfig) -> list[Unit]:
        if compression(item.uri) or item.size <= config.unit_bytes:
            return [Unit(object=item)]
        try:
            with _parquet_file(item) as file:
                spans = _spans([_stored_bytes(file.metadata.row_group(i)) for i in range(file.num_row_groups)], config.unit_bytes)
        except Unusable:
            return [Unit(object=item)]  # reading it will say what is wrong, in a row
        return [Unit(object=item, span=span) for span in spans] if len(spans) > 1 else [Unit(object=item)]

    def read(self, unit: Unit, config: SourceConfig) -> Iterator[Document | Rejected]:
        try:
            with _parquet_file(unit.object) as file:
                for group in range(*(unit.span or (0, file.num_row_groups))):
                    try:
                        yield from _read_group(file, group, unit.object, config)
                    except Unusable as problem:
                        if problem.reason is not Reason.CORRUPT_PARQUET:
                            raise
                        yield reject(problem, unit.object)
        except Unusable as problem:
            yield reject(problem, unit.object)


@contextmanager
def _parquet_file(item: SourceObject) -> Iterator[pq.ParquetFile]:
    """The object with its footer read. Raises Unusable: CORRUPT_PARQUET, or as streams.py does."""
    with tempfile.TemporaryFile() if compression(item.uri) else opened(item) as file:
        if compression(item.uri):
            for chunk in read_bytes(item):
                file.write(chunk)
            file.seek(0)
        with _damage("the footer"):
            parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=MIB, page_checksum_verification=True)
        yield parquet


@contextmanager
def _damage(place: str) -> Iterator[None]:
    """What pyarrow says of damaged bytes as Unusable; a failing disk or network goes through."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, S3Error) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise Unusable(Reason.CORRUPT_PARQUET, f"{place}: {error}") from error


def _stored_bytes(group: pq.RowGroupMetaData) -> int:
    return sum(group.column(i).total_compressed_size for i in range(group.num_columns))


def _spans(sizes: list[int], unit_bytes: int) -> list[tuple[int, int]]:
    """Runs of row groups that reach `unit_bytes`, the last one excepted."""
    spans, first, total = [], 0, 0
    for group, size in enumerate(sizes):
        total += size
        if total >= unit_bytes or group == len(sizes) - 1:
            spans.append((first, group + 1))
            first, total = group + 1, 0
    return spans


def _read_group(file: pq.ParquetFile, group: int, item: SourceObject, config: SourceConfig) -> Iterator[Document | Rejected]:
    """The rows of a row group; a damaged place ends it with Unusable, after the rows before it."""
    fields = (config.text_field, config.id_field, config.timestamp_field, config.importance_field, config.class_field)
    names = [name for name in fields if file.schema_arrow.get_field_index(name) >= 0]
    metadata = file.metadata.row_group(group)
    rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES * metadata.num_rows // max(1, metadata.total_byte_size)))
    batches: Iterator[pa.RecordBatch] | None = None
    done = 0
    while True:
        with _damage(f"row group {group}, rows {done} to {metadata.num_rows - 1}"):
            batches = batches or file.iter_batches(batch_size=rows, row_groups=[group], columns=names)
            batch = next(batches, None)
            columns = {} if batch is None else {name: _values(batch.column(name)) for name in names}
        if batch is None:
            return
        for row in range(batch.num_rows):
            yield _read_row({name: value(row) for name, value in columns.items()}, item, config)
        done += batch.num_rows


def _read_row(stored: dict[str, Any], item: SourceObject, config: SourceConfig) -> Document | Rejected:
    record: dict[str, Any] = {}
    try:
        for name, value in stored.items():
            record[name] = decode(value, "utf-8") if isinstance(value, bytes) else value
        return build_document(record, item, config)
    except Unusable as problem:
        bytes_of_record = json.dumps({name: _shown(value) for name, value in stored.items()}, default=str).encode("ascii")
        return reject(problem, item, source_id=record.get(config.id_field), record=bytes_of_record)


def _shown(value: Any) -> Any:
    return excerpt(value).decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def _values(column: pa.Array) -> Callable[[int], Any]:
    """Row number -> value. Strings come as bytes, so that one that is not UTF-8 costs its own row only; moments in UTC."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string_view(column.type) or pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    if pa.types.is_timestamp(column.type):
        ticks, per_second = column.cast(pa.int64()), _PER_SECOND[column.type.unit]
        return lambda row: None if (tick := ticks[row].as_py()) is None else _moment(tick, per_second)
    return lambda row: column[row].as_py()


def _moment(tick: int, per_second: int) -> datetime | str:
    """A stored moment; one beyond the year 9999 as text, which no parser takes for a moment."""
    try:
        return _EPOCH + timedelta(microseconds=tick * 10**6 // per_second)
    except OverflowError:
        return f"{tick} / {per_second} s since 1970"
