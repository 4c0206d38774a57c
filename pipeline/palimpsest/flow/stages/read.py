"""Units to documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa

from palimpsest.config import SourceConfig
from palimpsest.corpus.units import is_committed
from palimpsest.flow.plan import planned_units
from palimpsest.sources.documents import Document, Rejected
from palimpsest.sources.tables import committed_elsewhere, read_unit, read_unit_tables
from palimpsest.sources.units import Unit
from palimpsest.storage.opening import open_store


class Read:
    """UNITS -> DOCUMENTS, streamed.

    Args:
        records: the records of a unit, in order, where they are read in another way than here.
    """

    def __init__(self, config: SourceConfig, records: Callable[[Unit], Iterator[Document | Rejected]] | None = None) -> None:
        self.config, self._records = config, records

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        for planned in planned_units(table):
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
        return self._records(unit) if self._records else read_unit(unit, self.config)
