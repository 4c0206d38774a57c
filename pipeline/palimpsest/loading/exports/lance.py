"""A Lance data set with the columns of the row contract; `extra` is a list of keys and values, because Lance has no maps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from palimpsest.errors import PalimpsestError
from palimpsest.loading.exports.snapshot_pages import PLAIN, SnapshotPages, without_maps


def write(pages: SnapshotPages, target: Path) -> None:
    """Write the data set."""
    import lance

    failed: list[PalimpsestError] = []

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            for _, table in pages.tables():
                yield from without_maps(table).to_batches()
        except PalimpsestError as error:
            failed.append(error)
            raise

    try:
        lance.write_dataset(pa.RecordBatchReader.from_batches(PLAIN, batches()), str(target), schema=PLAIN)
    except OSError as error:  # Lance wraps whatever is raised while it reads
        raise failed[0] if failed else error from error
