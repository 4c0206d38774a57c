"""Tables: which of their columns are read, and their rows to documents. Parquet, Arrow and CSV share it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from palimpsest.config import SourceConfig
from palimpsest.sources.cells import OddCell
from palimpsest.sources.documents import Document, Reason, Rejected, Unusable, decode, excerpt
from palimpsest.sources.fields import ABSENT, build_document, field_names, lookup, reject, text_fields
from palimpsest.sources.objects import SourceObject
from palimpsest.sources.streams import unfold_limit, unfolds_too_far

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_SHOWN = 30  # columns in a message
Value = Callable[[int], Any]


def read_columns(names: Sequence[str], item: SourceObject, config: SourceConfig) -> list[str]:
    """The columns of a table that have to be read: those of the fields, or of the first steps of their paths.

    Raises:
        Unusable: MISSING_COLUMN where no field of the text is there, DOUBLED_COLUMN where one that is read occurs twice.
    """
    roots = {field: field if field in names else field.partition(".")[0] for field in field_names(config)}
    found = list(dict.fromkeys(root for root in roots.values() if root in names))
    if all(roots[field] not in names for field in text_fields(config)):
        raise Unusable(Reason.MISSING_COLUMN, missing_column(names, item.uri, config))
    if doubled := doubled_column(names, item.uri, config):
        raise Unusable(Reason.DOUBLED_COLUMN, doubled)
    return found


def doubled_column(names: Sequence[str], uri: str, config: SourceConfig) -> str:
    """The message about a table in which a column that is read occurs twice; empty where none does."""
    roots = (field if field in names else field.partition(".")[0] for field in field_names(config))
    doubled = next((root for root in roots if names.count(root) > 1), None)
    if doubled is None:
        return ""
    return f"{uri} has {names.count(doubled)} columns {doubled!r}: {', '.join(map(str, names[:_SHOWN]))}. Rename all but one"


def missing_column(names: Sequence[str], uri: str, config: SourceConfig) -> str:
    """The message about a table or record without its text: the object, its real columns, and the setting."""
    fields = text_fields(config)
    setting = "source.text_template" if config.text_template else "source.text_field"
    shown = ", ".join(str(name) for name in names[:_SHOWN]) or "none"
    if len(names) > _SHOWN:
        shown += f" and {len(names) - _SHOWN} more"
    near = next((name for name in names for field in fields if str(name).strip().lower() == field.lower()), None)
    separator = next((sign for sign in ";|\t" if len(names) == 1 and sign in str(names[0])), None)
    if separator:
        return f"{uri} has one column, {shown}: its cells are separated by {separator!r}; only commas and, in .tsv, tabs are read"
    hint = (
        f"did you mean {near!r}? Case and blanks tell names apart: set {setting} = {near!r}"
        if near
        else f"set {setting} to the text's"
    )
    return f"{uri} has no column {', '.join(map(repr, fields))}; its columns are {shown}; {hint}"


class RowReader:
    """Rows of one object to documents, within the limit of what it may unfold to."""

    def __init__(self, item: SourceObject, config: SourceConfig) -> None:
        self.item, self.config = item, config
        self._left = unfold_limit(item, config)

    def read(self, columns: Mapping[str, Value], rows: Iterable[int]) -> Iterator[Document | Rejected]:
        """The rows of a batch.

        Args:
            columns: the value of a row, by column; bytes are UTF-8 text.

        Raises:
            Unusable: TOO_LARGE, where the rows so far decode to more than the object may.
        """
        for row in rows:
            record = self._row({name: _cell(value, row) for name, value in columns.items()})
            self._left -= len(record.text) if isinstance(record, Document) else len(record.record)
            if self._left < 0:
                raise unfolds_too_far(Reason.TOO_LARGE, self.item, self.config)
            yield record

    def _row(self, stored: Mapping[str, Any]) -> Document | Rejected:
        record: dict[str, Any] = {}
        try:
            for name, value in stored.items():
                record[name] = decode(value, "utf-8") if isinstance(value, _Text) else value
            return build_document(record, self.item, self.config)
        except Unusable as problem:
            shown = {name: _shown(value) for name, value in stored.items()}
            found = lookup(record, self.config.id_field)
            source_id = None if found is ABSENT or isinstance(found, OddCell) else found
            raw = json.dumps(shown, default=str).encode("ascii")
            return reject(problem, self.item, source_id=source_id, record=raw)


class _Text(bytes):
    """UTF-8 of a column of strings, which may be wrong; other bytes are binary."""


def column_values(column: pa.Array) -> Value:
    """Row number -> value. Strings come as bytes, so that one that is not UTF-8 costs its own row only; moments in UTC."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        indices, values = column.indices, column_values(column.dictionary)
        return lambda row: None if (index := indices[row].as_py()) is None else values(index)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        raw = column.cast(pa.large_binary())
        return lambda row: None if (value := raw[row].as_py()) is None else _Text(value)
    if pa.types.is_timestamp(kind):
        ticks, per_second = column.cast(pa.int64()), _PER_SECOND[kind.unit]
        return lambda row: None if (tick := ticks[row].as_py()) is None else _moment(tick, per_second)
    return lambda row: column[row].as_py()


def _moment(tick: int, per_second: int) -> datetime:
    return EPOCH + timedelta(microseconds=tick * 10**6 // per_second)


def _cell(value: Value, row: int) -> Any:
    """One cell; whatever goes wrong with its conversion stays with it."""
    try:
        return value(row)
    except MemoryError:
        raise
    except Exception as error:  # pyarrow's, Python's and those of extension types: there is no common base class
        return OddCell(error)


def _shown(value: Any) -> Any:
    if isinstance(value, OddCell):
        return f"<{type(value.error).__name__}: {value.error}>"
    return excerpt(value).decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
