"""Documents to pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from palimpsest.config import JobConfig
from palimpsest.flow.stages.tables import TEXT_TIER, table_of
from palimpsest.pages.layouts.protocol import LaidOutPage, Layout, page_id
from palimpsest.pages.normalise import normalise
from palimpsest.pages.text_class import classify
from palimpsest.schemas import PAGES, QUARANTINE_BYTES, RowKind
from palimpsest.sources.documents import Reason, utf8
from palimpsest.tiers.policies.protocol import PageFacts, Policy

NOT_COVERED = "not_covered"
_PAGE_BUFFER = 256  # pages of a document that are kept while its pages are counted


class Paginate:
    """DOCUMENTS -> PAGES: normalise, lay out, count tokens, choose the tier.

    Where the policy has to measure pages first, those that a codec can read have no tier yet: `RateControl` gives them one.
    """

    def __init__(self, config: JobConfig, layout: Layout, policy: Policy) -> None:
        self.config, self.layout, self.policy = config, layout, policy
        self.identity = layout.identity

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        batch: list[dict[str, Any]] = []
        for document in table.to_pylist():
            if document["kind"] != RowKind.DOCUMENT:
                document.pop("text")
                batch.append(document)
            else:
                for row in self._rows(document):
                    batch.append(row)
                    if len(batch) >= self.config.placement.render_batch:
                        yield self._table(batch)
                        batch = []
        if batch:
            yield self._table(batch)

    def _rows(self, document: dict[str, Any]) -> Iterator[dict[str, Any]]:
        raw = document.pop("text")
        text = normalise(raw)
        text_class = document["text_class"] or classify(text)
        first: list[LaidOutPage] = []
        num_pages = 0
        for page in self.layout.paginate(text, text_class):
            num_pages += 1
            if num_pages <= _PAGE_BUFFER:
                first.append(page)
        if not num_pages or text.isspace():
            detail = "nothing is left of the text after normalising" + (" but whitespace" if num_pages else "")
            record = utf8(raw)[:QUARANTINE_BYTES]
            yield {**document, "kind": RowKind.QUARANTINED, "reason": str(Reason.EMPTY_TEXT), "detail": detail, "record": record}
            return
        pages = first if num_pages <= _PAGE_BUFFER else self.layout.paginate(text, text_class)
        for number, page in enumerate(pages):
            yield {
                **document,
                "kind": RowKind.PAGE,
                "text_class": text_class,
                "page_id": page_id(document["doc_id"], number, self.identity),
                "page_number": number,
                "num_pages": num_pages,
                "char_start": page.char_start,
                "char_end": page.char_end,
                "text": text[page.char_start : page.char_end],
                "laid_out": page,
            }

    def _tier(self, row: dict[str, Any]) -> dict[str, Any]:
        page, text = row["laid_out"], row["text"]
        columns, rows = page.size or (None, None)
        size = {"grid_h": rows, "grid_w": columns, "layout": self.layout.described}
        uncovered = why_not_covered(page, text, self.layout, self.config.layout.max_escaped_share)
        if uncovered:
            return {"tier": TEXT_TIER, "reason": NOT_COVERED, "detail": uncovered, **size}
        laid_out = {"drawing": page.drawing, **size}
        if self.policy.climbs:
            return laid_out
        facts = PageFacts(age=self.policy.age(row["timestamp"]), importance=row["importance"], text_tokens=row["num_text_tokens"])
        tier = self.policy.tier(facts)
        if tier == TEXT_TIER:
            return {"tier": tier, "reason": self.policy.why_text(facts), **size}
        return {"tier": tier, "mode": tier, "image_px": self.policy.ladder.mode(tier, "tier").px, **laid_out}

    def _table(self, rows: list[dict[str, Any]]) -> pa.Table:
        from palimpsest.codecs.text_tokens import TEXT_TOKENIZER, count_tokens

        pages = [row for row in rows if row["kind"] == RowKind.PAGE]
        for row, count in zip(pages, count_tokens([row["text"] for row in pages]), strict=True):
            row["num_text_tokens"], row["text_tokenizer"] = count, TEXT_TOKENIZER
            row |= self._tier(row)
        return table_of(rows, PAGES, "paginate")


def why_not_covered(page: LaidOutPage, text: str, layout: Layout, max_escaped_share: float) -> str:
    """Why a codec cannot read a page of a layout, naming the scripts that have no glyphs; empty where it can."""
    if page.escaped <= max_escaped_share * len(text):
        return ""
    return f"{page.escaped} of {len(text)} characters need an escape, of {', '.join(layout.uncovered(text))}"
