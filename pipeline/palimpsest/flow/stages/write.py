"""Verdicts to shards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from palimpsest.flow.stages.tables import TEXT_TIER, WRITTEN, written
from palimpsest.schemas import SHARD


class Write:
    """VERDICTS -> shards in the store; returns WRITTEN rows, which is all that the driver sees.

    A store that cannot be written is told in such a row too: an exception would come out of Ray as a page of its own frames.
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
                rows += self._unit(store, unit_id, table.filter(pc.equal(table["unit_id"], unit_id)))
            except StoreError as error:
                rows.append(written(unit_id, "failed", {"error": str(error)}))
        return pa.Table.from_pylist(rows, WRITTEN)

    def _unit(self, store: Any, unit_id: str, table: pa.Table) -> Iterator[dict[str, Any]]:
        from palimpsest.corpus.shards import new_attempt, write_shards

        pages = table.filter(pc.equal(table["kind"], "page"))
        if pages.num_rows:
            shards = write_shards(
                store, pages.select(SHARD.names), unit_id=unit_id, attempt=new_attempt(), row_group_bytes=self.row_group_bytes
            )
            yield written(unit_id, "written", {"shards": [asdict(shard) for shard in shards], **_page_counts(pages)})
        for kind in ("duplicate", "quarantined", "unit_end"):
            of_kind = table.filter(pc.equal(table["kind"], kind))
            if kind == "duplicate" and of_kind.num_rows:
                yield written(unit_id, kind, {"rows": of_kind.num_rows})
            elif kind == "unit_end":
                yield from (written(unit_id, kind, json.loads(counts)) for counts in of_kind["counts"].to_pylist())
            elif kind == "quarantined":
                columns = ["unit_id", "source_uri", "source_version", "source_id", "doc_id", "reason", "detail", "record"]
                for row in of_kind.select(columns).to_pylist():
                    record = row.pop("record")
                    yield {**written(unit_id, kind, row), "record": record}


def _page_counts(pages: pa.Table) -> dict[str, int]:
    firsts = pages.filter(pc.equal(pages["page_number"], 0))
    as_text = pages.filter(pc.equal(pages["tier"], TEXT_TIER))
    return {
        "first_pages": firsts.num_rows,
        "pages_expected": pc.sum(firsts["num_pages"]).as_py() or 0,
        "pages": pages.num_rows,
        "text_tokens": pc.sum(pages["num_text_tokens"]).as_py() or 0,
        "context_tokens": pc.sum(pages["num_context_tokens"]).as_py() or 0,
        "tokens_as_text": pc.sum(as_text["num_context_tokens"]).as_py() or 0,
    }
