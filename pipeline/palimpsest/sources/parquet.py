"""Parquet: one document per row, sliced by row groups."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from palimpsest.config import MIB, SourceConfig
from palimpsest.sources.columns import RowReader, column_values, read_columns
from palimpsest.sources.documents import Document, Reason, Rejected, Unusable
from palimpsest.sources.fields import reject
from palimpsest.sources.objects import SourceObject
from palimpsest.sources.parquet_pages import largest_page
from palimpsest.sources.streams import MAGIC_BYTES, compression, compression_of, opened, read_bytes, unfold_limit, unfolds_too_far
from palimpsest.sources.units import Unit
from palimpsest.storage.s3_client import S3Error

_BATCH_ROWS = 1024
_BATCH_BYTES = 8 * MIB  # of decoded columns, judged by the row group's mean
_PREFIXED_ROWS = 8  # a batch of values that are stored as prefixes of each other: their sizes are told nowhere
_PAGE_BYTES = 64 * MIB  # a page may have, or eight times the longest document


class ParquetSource:
    """`.parquet`. A big plain object is sliced into runs of row groups of about `unit_bytes` of stored bytes.

    One that is compressed as a file is a single unit, decompressed to a temporary file first: Parquet is read from its end.
    Damaged pages are found where their writer gave them checksums, or where they cannot be decoded. Strings stay dictionaries
    in memory, so that a value that is stored once is held once.
    """

    extensions = (".parquet", ".pq")

    def plan(self, item: SourceObject, config: SourceConfig) -> list[Unit]:
        if compression(item.uri) or item.size <= config.unit_bytes:
            return [Unit(object=item)]
        try:
            with _parquet_file(item, config) as (file, _):
                spans = _spans([_stored_bytes(file.metadata.row_group(i)) for i in range(file.num_row_groups)], config.unit_bytes)
        except Unusable:
            return [Unit(object=item)]  # reading it will say what is wrong, in a row
        return [Unit(object=item, span=span) for span in spans] if len(spans) > 1 else [Unit(object=item)]

    def read(self, unit: Unit, config: SourceConfig) -> Iterator[Document | Rejected]:
        reader = RowReader(unit.object, config)
        try:
            with _parquet_file(unit.object, config) as (file, stream):
                try:
                    names = read_columns(file.schema_arrow.names, unit.object, config)
                except Unusable as problem:
                    if not unit.span or unit.span[0] == 0:
                        yield reject(problem, unit.object)
                    return
                file = _with_dictionaries(file, stream, names)
                for group in range(*(unit.span or (0, file.num_row_groups))):
                    try:
                        _check_pages(file, stream, group, names, unit.object, config)
                        yield from _read_group(file, group, names, reader)
                    except Unusable as problem:
                        if problem.reason is not Reason.CORRUPT_PARQUET:
                            raise
                        yield reject(problem, unit.object)
        except Unusable as problem:
            yield reject(problem, unit.object)


def column_names(item: SourceObject, config: SourceConfig) -> list[str]:
    """The columns of an object. Raises Unusable."""
    with _parquet_file(item, config) as (file, _):
        return list(file.schema_arrow.names)


@contextmanager
def _parquet_file(item: SourceObject, config: SourceConfig) -> Iterator[tuple[pq.ParquetFile, BinaryIO]]:
    """The object with its footer read, and its bytes. Raises Unusable: CORRUPT_PARQUET, or as streams.py does."""
    with opened(item) as stored:
        head = stored.read(MAGIC_BYTES)
        if not (head and compression_of(item.uri, head)) and not (compression(item.uri) and not head):
            stored.seek(0)
            yield _footer(stored), stored
            return
    with tempfile.TemporaryFile() as file:
        for chunk in read_bytes(item, config):
            file.write(chunk)
        file.seek(0)
        yield _footer(file), file


def _footer(file: BinaryIO) -> pq.ParquetFile:
    with _damage("the footer"):
        return pq.ParquetFile(file, pre_buffer=False, buffer_size=MIB, page_checksum_verification=True)


def _with_dictionaries(file: pq.ParquetFile, stream: BinaryIO, names: list[str]) -> pq.ParquetFile:
    """The same file, its columns of strings read as dictionaries."""
    columns = [file.schema.column(place) for place in range(len(file.schema))]
    groups = range(file.num_row_groups)
    delta = {chunk.path_in_schema for group in groups for chunk in _chunks(file, group, names) if _is_delta(chunk)}
    strings = [column.path for column in columns if column.path in names and column.physical_type == "BYTE_ARRAY"]
    strings = [path for path in strings if path not in delta]  # pyarrow cannot read these as dictionaries
    if not strings:
        return file
    with _damage("the footer"):
        return pq.ParquetFile(
            stream,
            metadata=file.metadata,
            read_dictionary=strings,
            pre_buffer=False,
            buffer_size=MIB,
            page_checksum_verification=True,
        )


@contextmanager
def _damage(place: str) -> Iterator[None]:
    """What pyarrow reports of damaged bytes as Unusable; a failing disk or network goes through."""
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


def _chunks(file: pq.ParquetFile, group: int, names: list[str]) -> Iterator[pq.ColumnChunkMetaData]:
    metadata = file.metadata.row_group(group)
    for place in range(metadata.num_columns):
        chunk = metadata.column(place)
        if any(chunk.path_in_schema == name or chunk.path_in_schema.startswith(name + ".") for name in names):
            yield chunk


def _is_delta(chunk: pq.ColumnChunkMetaData) -> bool:
    return any(encoding.startswith("DELTA") for encoding in chunk.encodings)


def _check_pages(
    file: pq.ParquetFile, stream: BinaryIO, group: int, names: list[str], item: SourceObject, config: SourceConfig
) -> None:
    """Refuse a row group whose columns decode to more than the object may, or with a page too large to decode.

    Raises:
        Unusable: TOO_LARGE; CORRUPT_PARQUET for damaged page headers.
    """
    page_bytes = max(_PAGE_BYTES, 8 * config.max_document_chars)
    total = 0
    for chunk in _chunks(file, group, names):
        total += chunk.total_uncompressed_size
        if chunk.total_uncompressed_size <= page_bytes:  # no page is larger than all of them
            continue
        starts = [start for start in (chunk.dictionary_page_offset, chunk.data_page_offset) if start]
        try:
            largest = largest_page(stream, min(starts), chunk.total_compressed_size)
        except ValueError as error:
            raise Unusable(Reason.CORRUPT_PARQUET, f"row group {group}, column {chunk.path_in_schema}: {error}") from None
        if largest > page_bytes:
            said = (
                f"row group {group}, column {chunk.path_in_schema}: a page decodes to {largest:,} bytes, more than {page_bytes:,}"
            )
            raise Unusable(Reason.TOO_LARGE, f"{said} (eight times source.max_document_chars, at least 64 MiB)")
    if total > unfold_limit(item, config):
        raise unfolds_too_far(Reason.TOO_LARGE, item, config)


def _read_group(file: pq.ParquetFile, group: int, names: list[str], reader: RowReader) -> Iterator[Document | Rejected]:
    """The rows of a row group; a damaged place ends it with Unusable, after the rows before it."""
    metadata = file.metadata.row_group(group)
    rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES * metadata.num_rows // max(1, metadata.total_byte_size)))
    if any(_is_delta(chunk) for group in range(file.num_row_groups) for chunk in _chunks(file, group, names)):
        rows = min(rows, _PREFIXED_ROWS)
    if any(pa.types.is_nested(file.schema_arrow.field(name).type) for name in names):
        rows = min(rows, 2 * _PREFIXED_ROWS)  # strings in lists and structs are not dictionaries in memory
    batches: Iterator[pa.RecordBatch] | None = None
    done = 0
    while True:
        with _damage(f"row group {group}, rows {done} to {metadata.num_rows - 1}"):
            batches = batches or file.iter_batches(batch_size=rows, row_groups=[group], columns=names, use_threads=False)
            batch = next(batches, None)
            columns = {} if batch is None else {name: column_values(batch.column(name)) for name in names}
        if batch is None:
            return
        yield from reader.read(columns, range(batch.num_rows))
        done += batch.num_rows
