"""Arrow IPC and Feather: one document per row."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pyarrow as pa

from palimpsest.config import SourceConfig
from palimpsest.sources.columns import RowReader, column_values, read_columns
from palimpsest.sources.documents import Document, Reason, Rejected, Unusable
from palimpsest.sources.fields import reject
from palimpsest.sources.ipc_sizes import decoded_bytes
from palimpsest.sources.objects import SourceObject
from palimpsest.sources.streams import MAGIC_BYTES, compression_of, opened, read_bytes, unfold_limit, unfolds_too_far
from palimpsest.sources.units import Unit
from palimpsest.storage.s3_client import S3Error

_FILE_MAGIC, _FEATHER_1 = b"ARROW1", b"FEA1"


class ArrowSource:
    """`.arrow`, `.arrows`, `.feather`, `.ipc`: files and streams (`datasets` writes streams), a record batch in memory at a time.

    An object is one unit. Feather of version 1 is not read.
    """

    extensions = (".arrow", ".arrows", ".feather", ".ipc")

    def plan(self, item: SourceObject, config: SourceConfig) -> list[Unit]:
        return [Unit(object=item)]

    def read(self, unit: Unit, config: SourceConfig) -> Iterator[Document | Rejected]:
        item, rows = unit.object, RowReader(unit.object, config)
        try:
            with _file(item, config) as file:
                names = read_columns(_schema(file).names, item, config)
                for batch in _batches(file, names, item, config):
                    columns = {name: column_values(batch.column(name)) for name in names}
                    yield from rows.read(columns, range(batch.num_rows))
        except Unusable as problem:
            yield reject(problem, item)


def column_names(item: SourceObject, config: SourceConfig) -> list[str]:
    """The columns of an object. Raises Unusable."""
    with _file(item, config) as file:
        return list(_schema(file).names)


@contextmanager
def _file(item: SourceObject, config: SourceConfig) -> Iterator[BinaryIO]:
    with opened(item) as stored:
        head = stored.read(MAGIC_BYTES)
        if not compression_of(item.uri, head):
            stored.seek(0)
            yield stored
            return
    with tempfile.TemporaryFile() as file:
        for chunk in read_bytes(item, config):
            file.write(chunk)
        file.seek(0)
        yield file


def _schema(file: BinaryIO) -> pa.Schema:
    head = file.read(len(_FILE_MAGIC))
    file.seek(0)
    if head.startswith(_FEATHER_1):
        raise Unusable(Reason.UNSUPPORTED, "Feather version 1: write it again as version 2 (pyarrow.feather.write_feather)")
    with _damage("the schema"):
        schema = (pa.ipc.open_file(file) if head == _FILE_MAGIC else pa.ipc.open_stream(file)).schema
    file.seek(0)
    return schema


def _batches(file: BinaryIO, names: list[str], item: SourceObject, config: SourceConfig) -> Iterator[pa.RecordBatch]:
    """The record batches, with the columns `names` decoded. Raises Unusable for a damaged one, after those before it."""
    is_file = file.read(len(_FILE_MAGIC)) == _FILE_MAGIC
    limit, done = unfold_limit(item, config), 0
    file.seek(8 if is_file else 0)  # a file is a stream with a frame around it: its messages can be looked at alone
    with _damage("the messages"):
        for size in decoded_bytes(file):
            done += size
            if done > limit:
                raise unfolds_too_far(Reason.TOO_LARGE, item, config)
    file.seek(0)
    with _damage("the schema"):
        reader = pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)
        included = [place for place, name in enumerate(reader.schema.names) if name in names]
        options = pa.ipc.IpcReadOptions(included_fields=included)
        file.seek(0)
        reader = pa.ipc.open_file(file, options=options) if is_file else pa.ipc.open_stream(file, options=options)
    number = 0
    while not is_file or number < reader.num_record_batches:
        with _damage(f"record batch {number}"):
            try:
                batch = reader.get_batch(number) if is_file else reader.read_next_batch()
            except StopIteration:
                return
        yield batch
        number += 1


@contextmanager
def _damage(place: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, S3Error) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise Unusable(Reason.CORRUPT_ARROW, f"{place}: {error}") from error
