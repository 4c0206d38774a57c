"""Units to documents."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from palimpsest.config import SourceConfig
from palimpsest.corpus.units import is_committed
from palimpsest.flow.plan import PlannedUnit
from palimpsest.sources.documents import Document, Rejected
from palimpsest.sources.tables import committed_elsewhere, read_unit, read_unit_tables
from palimpsest.sources.units import Unit
from palimpsest.storage.opening import open_store


class Read:
    """UNITS -> DOCUMENTS, streamed."""

    def __init__(self, config: SourceConfig) -> None:
        self.config = config

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        for text in table["unit"].to_pylist():
            planned = PlannedUnit.from_json(text)
            if planned.corpus and is_committed(open_store(planned.corpus), planned.unit_id):
                yield committed_elsewhere(planned.unit, planned.unit_id)
                continue
            left_out = frozenset(planned.left_out)
            records = self.records(planned.unit)
            yield from read_unit_tables(
                planned.unit, self.config, unit_id=planned.unit_id, left_out=left_out, max_rows=1024, records=records
            )

    def records(self, unit: Unit) -> Iterator[Document | Rejected]:
        """The records of a unit, in order."""
        return read_unit(unit, self.config)
