"""A unit to Arrow tables of the DOCUMENTS schema: what the rest of the pipeline reads."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from palimpsest.config import MIB, SourceConfig
from palimpsest.schemas import DOCUMENTS, RowKind, conform
from palimpsest.sources.documents import Document, Reason, Rejected, Unusable
from palimpsest.sources.fields import reject
from palimpsest.sources.formats import format_of
from palimpsest.sources.objects import SourceObject
from palimpsest.sources.units import Unit

_ENOUGH = 10_000  # bad records, nine in ten of all, after which no more of an object is read


def plan_units(item: SourceObject, config: SourceConfig) -> list[Unit]:
    """The units of an object."""
    source = format_of(item.uri, config)
    return source.plan(item, config) if source else [Unit(object=item)]


def read_unit(unit: Unit, config: SourceConfig) -> Iterator[Document | Rejected]:
    """The records of a unit, in order, streamed, as many as its object may unfold to; repeated documents are not left out."""
    item = unit.object
    source = format_of(item.uri, config)
    if source is None:
        yield reject(Unusable(Reason.UNSUPPORTED, "the name tells no supported format"), item)
        return
    most, bad = config.unfold_rows + item.size, 0
    for number, record in enumerate(source.read(unit, config)):
        if number == most:
            allowed = f"source.unfold_rows = {config.unfold_rows:,}, plus one for each of its {item.size:,} bytes"
            yield reject(Unusable(Reason.TOO_MANY_ROWS, f"it holds more than {most:,} records ({allowed})"), item)
            return
        yield record
        bad += isinstance(record, Rejected)
        if bad >= _ENOUGH and 10 * bad > 9 * (number + 1):
            yield reject(Unusable(Reason.MOSTLY_BAD, f"{bad:,} of the first {number + 1:,} records: the rest is not read"), item)
            return


def read_unit_tables(
    unit: Unit,
    config: SourceConfig,
    *,
    unit_id: str,
    left_out: Container[str] = frozenset(),
    max_rows: int = 8192,
    max_chars: int = 8 * MIB,
    records: Iterable[Document | Rejected] | None = None,
) -> Iterator[pa.Table]:
    """The unit as DOCUMENTS tables, in order: kinds "document", "quarantined", "duplicate", and one "unit_end" as the last row.

    A document whose text stood earlier in the unit, or whose id is in `left_out`, becomes a "duplicate" row without its text.
    The `control` of the unit_end row has counts: documents_in = documents + quarantined + duplicates, and repeated_ids, the
    documents whose source_id an earlier, different document of the unit has (both are kept); `nulled` counts metadata that could
    not be used, by reason, `present` the documents that have an optional field, by field. Memory: one table, and about 200
    bytes per distinct document of the unit.

    Args:
        unit_id: the store's id of the unit, in every row.
        left_out: ids of documents that the plan gives to an earlier unit.
        max_rows, max_chars: bounds of a table; one document is never divided, so a table of one row may be bigger.
        records: the unit's records, where they are read in another way than `read_unit` does.
    """
    rows = _Rows(unit_id, unit.object)
    seen: set[bytes] = set()
    seen_ids: set[bytes] = set()
    counts = Counter(documents_in=0, documents=0, quarantined=0, duplicates=0, repeated_ids=0)
    nulled: Counter[str] = Counter()
    present: Counter[str] = Counter()
    for record in read_unit(unit, config) if records is None else records:
        if len(rows.rows) >= max_rows or (rows.rows and rows.chars + _chars(record) > max_chars):
            yield rows.flush()
        counts["documents_in"] += 1
        if isinstance(record, Rejected):
            counts["quarantined"] += 1
            rows.add_rejected(record)
            continue
        nulled.update(map(str, record.nulled))
        present.update(record.present)
        doc_id = bytes.fromhex(record.doc_id)
        if doc_id in seen or record.doc_id in left_out:
            counts["duplicates"] += 1
            rows.add(RowKind.DUPLICATE, doc_id=record.doc_id, source_id=record.source_id)
            continue
        seen.add(doc_id)
        if record.source_id is not None:
            source_id = hashlib.blake2b(record.source_id.encode(), digest_size=16).digest()
            counts["repeated_ids"] += source_id in seen_ids
            seen_ids.add(source_id)
        counts["documents"] += 1
        rows.add_document(record)
    rows.add(RowKind.UNIT_END, control={**counts, "nulled": list(nulled.items()), "present": list(present.items())})
    yield rows.flush()


def committed_elsewhere(unit: Unit, unit_id: str) -> pa.Table:
    """What stands for a unit that another run has committed meanwhile: a unit_end row that says so."""
    rows = _Rows(unit_id, unit.object)
    rows.add(RowKind.UNIT_END, control={"committed_elsewhere": True})
    return rows.flush()


def _chars(record: Document | Rejected) -> int:
    return len(record.text) if isinstance(record, Document) else 0


@dataclass
class _Rows:
    """The rows of the table that is being filled."""

    unit_id: str
    item: SourceObject
    rows: list[dict[str, Any]] = field(default_factory=list)
    chars: int = 0

    def __post_init__(self) -> None:
        uri = self.item.uri.encode("utf-8", "backslashreplace").decode()  # a file name need not be UTF-8
        self.every_row = {"unit_id": self.unit_id, "source_uri": uri, "source_version": self.item.version}

    def add(self, kind: RowKind, **columns: Any) -> None:
        self.rows.append({**self.every_row, "kind": kind, **columns})

    def add_document(self, record: Document) -> None:
        self.chars += len(record.text)
        columns = ("doc_id", "source_id", "text", "timestamp", "importance", "text_class", "extra")
        self.add(RowKind.DOCUMENT, **{name: getattr(record, name) for name in columns})

    def add_rejected(self, record: Rejected) -> None:
        columns = ("source_id", "reason", "record")
        detail = record.detail.encode("utf-8", "backslashreplace").decode()
        self.add(RowKind.QUARANTINED, detail=detail, **{name: getattr(record, name) for name in columns})

    def flush(self) -> pa.Table:
        rows, self.rows, self.chars = self.rows, [], 0
        columns = {column.name: pa.array([row.get(column.name) for row in rows], column.type) for column in DOCUMENTS}
        return conform(pa.table(columns), DOCUMENTS, "read")
