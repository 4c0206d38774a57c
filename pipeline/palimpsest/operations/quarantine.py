"""The first records that a run quarantined, for the message of a run that fails because of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from palimpsest.corpus.units import CommitRecord
from palimpsest.flow.ledger import UnreadSource
from palimpsest.report.quarantine import records as quarantined
from palimpsest.storage.object_store import ObjectStore

FIRST = 5


def first_records(store: ObjectStore, records: Sequence[CommitRecord], unread: Sequence[UnreadSource]) -> str:
    """Source, reason and detail of the first FIRST records, a line each, and the command that lists them all.

    Args:
        records: the units that were processed now.
        unread: sources that could not be read.
    """
    lines = [f"  {source.source_uri}: {source.reason}: {source.detail}" for source in unread[:FIRST]]
    for record in islice(quarantined(store, records), FIRST - len(lines)):
        lines.append(f"  {record.source_uri or ''}: {record.reason}: {record.detail or record.source_id or ''}")
    root = store.uri("corpus.json").removesuffix("corpus.json").rstrip("/")
    return " The first:\n" + "\n".join(lines) + f"\nAll of them: palimpsest quarantine {root}\n"
