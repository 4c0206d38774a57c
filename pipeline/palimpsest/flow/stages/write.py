"""Verdicts to shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from palimpsest.flow.stages.tables import TEXT_TIER
from palimpsest.schemas import SHARD, WRITTEN, RowKind, conform

_PASSED_ON = {
    RowKind.QUARANTINED: ["source_uri", "source_version", "source_id", "doc_id", "reason", "detail", "record"],
    RowKind.UNIT_END: ["control"],
    RowKind.POISONED: ["doc_id", "detail"],
}


class Write:
    """VERDICTS -> shards in the store; returns WRITTEN rows, which is all that the driver sees.

    A store that cannot be written is reported in such a row too: an exception would come out of Ray as a page of its own frames.
    """

    def __init__(self, out: str, row_group_bytes: int) -> None:
        self.out, self.row_group_bytes = out, row_group_bytes

    def __call__(self, table: pa.Table) -> pa.Table:
        from palimpsest.storage.object_store import StoreError
        from palimpsest.storage.opening import open_store

        store = open_store(self.out)
        rows: list[dict[str, Any]] = []
        for unit_id in pc.unique(table["unit_id"]).to_pylist():
            try:
                of_unit = self._unit(store, unit_id, table.filter(pc.equal(table["unit_id"], unit_id)))
                rows += [{"unit_id": unit_id, **row} for row in of_unit]
            except StoreError as error:
                rows.append({"unit_id": unit_id, "kind": RowKind.FAILED, "detail": str(error)})
        return conform(pa.Table.from_pylist(rows, WRITTEN), WRITTEN, "write")

    def _unit(self, store: Any, unit_id: str, table: pa.Table) -> Iterator[dict[str, Any]]:
        from palimpsest.corpus.shards import new_attempt, write_shards

        pages = table.filter(pc.equal(table["kind"], RowKind.PAGE))
        if pages.num_rows:
            shards = write_shards(
                store, pages.select(SHARD.names), unit_id=unit_id, attempt=new_attempt(), row_group_bytes=self.row_group_bytes
            )
            yield {"kind": RowKind.WRITTEN, "shards": [asdict(shard) for shard in shards], **_measured(pages)}
        duplicates = pc.sum(pc.equal(table["kind"], RowKind.DUPLICATE)).as_py()
        if duplicates:
            yield {"kind": RowKind.DUPLICATE, "rows": duplicates}
        for kind, columns in _PASSED_ON.items():
            rows = table.filter(pc.equal(table["kind"], kind)).select(columns).to_pylist()
            yield from ({"kind": kind, **row} for row in rows)


def _measured(pages: pa.Table) -> dict[str, Any]:
    """The columns counts, statuses and precision of a message about these pages."""
    firsts = pages.filter(pc.equal(pages["page_number"], 0))
    as_text = pages.filter(pc.equal(pages["tier"], TEXT_TIER))
    statuses = Counter(zip(pages["tier"].to_pylist(), pages["status"].to_pylist(), strict=True))
    known = pages["precision"].drop_null()
    counts = {
        "first_pages": firsts.num_rows,
        "pages_expected": pc.sum(firsts["num_pages"]).as_py() or 0,
        "pages": pages.num_rows,
        "text_tokens": pc.sum(pages["num_text_tokens"]).as_py() or 0,
        "context_tokens": pc.sum(pages["num_context_tokens"]).as_py() or 0,
        "text_bytes": pc.sum(pc.binary_length(pages["text"])).as_py() or 0,
        "tokens_as_text": pc.sum(as_text["num_context_tokens"]).as_py() or 0,
    }
    return {
        "counts": counts,
        "statuses": [{"tier": tier, "status": status, "pages": n} for (tier, status), n in sorted(statuses.items())],
        "precision": {"total": pc.sum(known.cast(pa.float64())).as_py() or 0.0, "pages": len(known)},
    }
