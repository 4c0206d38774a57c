"""The pages of one conversation, each drawn, encoded and read back at most once in each mode."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from palimpsest.config import JobConfig
from palimpsest.flow.stages import Encode, Render, Verify
from palimpsest.flow.stages.tables import table_of
from palimpsest.operations.conversations.transcript import Transcript
from palimpsest.pages.layouts.protocol import Layout
from palimpsest.pages.text_class import classify
from palimpsest.schemas import PAGES
from palimpsest.tiers.policies.protocol import Policy, Reading

BATCH = 32  # pages in memory as images at a time


class Studio:
    """Draws, encodes and reads back pages; both halves of the codec, loaded once."""

    def __init__(self, config: JobConfig, fingerprint: str, layout: Layout, policy: Policy) -> None:
        self.layout, self.policy = layout, policy
        self.render = Render(layout)
        self.encode, self.verify = Encode(config, fingerprint), Verify(config, fingerprint)
        self.verify.settles = False

    def judge(self, rows: list[dict[str, Any]]) -> pa.Table:
        """Rows of PAGES that have a text and a mode, but are not laid out -> VERDICTS, in their order."""
        for row in rows:
            laid_out = self.layout.lay_out_again(row["text"], row["text_class"])
            assert laid_out is not None, f"page {row['page_id']} does not lay out again"
            columns, lines = laid_out.size or (None, None)
            row |= {"drawing": laid_out.drawing, "grid_h": lines, "grid_w": columns, "tier": row["mode"]}
            row["image_px"] = self.policy.ladder.mode(row["mode"], "tier").px
        return self.verify(self.encode(self.render(table_of(rows, PAGES, "conversations"))))


@dataclass(frozen=True, slots=True)
class StoredPage:
    """Where the tokens of a page in one mode are, what was read from them, and its context tokens with its errata."""

    shard: int
    row: int
    tokens_sha256: str
    reading: Reading | None
    errata: list[dict[str, Any]]
    cost: int


class Bank:
    """The known pages of one conversation: for each page and mode where it is stored and its verdict, but not its tokens.

    Args:
        keep: takes rows of VERDICTS and returns where each is stored (number of the shard, row in it).
        carried: columns that all rows have: unit_id, source_uri, …
    """

    def __init__(
        self,
        transcript: Transcript,
        studio: Studio,
        keep: Callable[[pa.Table], list[tuple[int, int]]],
        carried: dict[str, Any],
    ) -> None:
        self.transcript, self.studio, self.keep = transcript, studio, keep
        self.stored: dict[tuple[int, str], StoredPage] = {}
        self.carried = {**carried, "kind": "page", "doc_id": transcript.doc_id, "source_id": transcript.conversation.source_id}
        self.text_class = classify(transcript.text[:20_000])

    def need(self, requested: Iterable[tuple[int, str]]) -> None:
        """See to it that these pages are there in these modes."""
        missing = sorted(set(requested) - self.stored.keys())
        for start in range(0, len(missing), BATCH):
            some = missing[start : start + BATCH]
            table = self.studio.judge([self._row(number, mode) for number, mode in some])
            placed = self.keep(table)
            columns = [
                table[name].to_pylist() for name in ("tokens_sha256", "precision", "status", "errata", "num_context_tokens")
            ]
            for key, (shard, row), sha256, precision, status, errata, cost in zip(some, placed, *columns, strict=True):
                seen = None if precision is None else Reading(precision, status == "verified")
                self.stored[key] = StoredPage(shard, row, sha256, seen, errata or [], cost)

    def readings(self, number: int, modes: Collection[str]) -> dict[str, Reading]:
        """The verdicts on a page, in the order of `modes`."""
        found = {mode: self.stored.get((number, mode)) for mode in modes}
        return {mode: page.reading for mode, page in found.items() if page is not None and page.reading is not None}

    def costs(self, number: int, modes: Collection[str]) -> dict[str, int]:
        """Context tokens of a page with its errata, in the modes that were drawn."""
        found = {mode: self.stored.get((number, mode)) for mode in modes}
        return {mode: page.cost for mode, page in found.items() if page is not None}

    def _row(self, number: int, mode: str) -> dict[str, Any]:
        from palimpsest.codecs.text_tokens import TEXT_TOKENIZER

        page = self.transcript.pages[number]
        return {
            **self.carried,
            "page_id": page.page_id,
            "page_number": page.number,
            "num_pages": len(self.transcript.pages),
            "char_start": page.char_start,
            "char_end": page.char_end,
            "text": self.transcript.text[page.char_start : page.char_end],
            "num_text_tokens": page.text_tokens,
            "text_tokenizer": TEXT_TOKENIZER,
            "text_class": self.text_class,
            "timestamp": self.transcript.newest(page),
            "importance": page.importance,
            "layout": self.studio.layout.described,
            "mode": mode,
        }
