"""The checks of a snapshot's manifest and of its document index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from palimpsest.corpus import document_index
from palimpsest.corpus.manifest import Segment, order, read_segment, sum_counts
from palimpsest.corpus.snapshots import Snapshot
from palimpsest.storage.object_store import ObjectStore, StoreError


def check_manifest(store: ObjectStore, snapshot: Snapshot, checked: set[str]) -> Iterator[tuple[str, str]]:
    """(key, fault) for each fault of a manifest's segments; segments in `checked` are skipped, and sound ones are added to it."""
    previous: Segment | None = None
    for segment in snapshot.segments:
        if previous is not None and segment.first < previous.last:
            yield segment.key, f"begins at {segment.first}, before the end of the segment before it, {previous.last}"
        previous = segment
        if segment.key in checked:
            continue
        faults = list(_segment_faults(store, segment))
        yield from ((segment.key, fault) for fault in faults)
        if not faults:
            checked.add(segment.key)


def _segment_faults(store: ObjectStore, segment: Segment) -> Iterator[str]:
    try:
        records = read_segment(store, segment)
    except StoreError as error:
        yield str(error)
        return
    if [order(record) for record in records] != sorted(order(record) for record in records):
        yield "its units are not in order"
    totals, defers = sum_counts(record.counts for record in records), sum(bool(record.defers_to) for record in records)
    found = (len(records), records[0].source_uri, records[-1].source_uri, defers, totals) if records else None
    if found != (segment.units, segment.first, segment.last, segment.defers, segment.totals):
        yield f"holds {found}, which is not what its snapshot says of it"


def check_index(store: ObjectStore, snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    """(key, fault) for each fault of a document index, which must list every document of every unit once.

    Memory: one segment, and a count for each unit.
    """
    counts: Counter[str] = Counter()
    for segment in snapshot.documents:
        try:
            table = document_index.read(store, segment)
        except (StoreError, pa.ArrowException, OSError) as error:
            yield segment.key, str(error)
            return
        if table.num_rows != segment.documents or not _is_sorted(table["doc_id"]):
            yield segment.key, f"holds {table.num_rows} documents, not {segment.documents}, or they are not in order"
        of_unit = table.group_by("unit_id").aggregate([("doc_id", "count")])
        counts.update(dict(zip(of_unit["unit_id"].to_pylist(), of_unit["doc_id_count"].to_pylist(), strict=True)))
    for unit in snapshot.units:
        if unit.holds == "pages" and counts[unit.unit_id] != unit.counts.documents_committed:
            index = snapshot.documents[0].key if snapshot.documents else document_index.PREFIX
            detail = f"{counts[unit.unit_id]} documents of unit {unit.unit_id}, which has {unit.counts.documents_committed}"
            yield index, f"the document index of snapshot {snapshot.number} has {detail}"


def _is_sorted(column: pa.ChunkedArray) -> bool:
    return len(column) < 2 or bool(pc.all(pc.less_equal(column[:-1], column[1:])).as_py())
