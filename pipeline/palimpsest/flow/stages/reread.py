"""Turns a published shard into the pages that are due another tier; its other rows are written again as new shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from palimpsest.config import JobConfig
from palimpsest.corpus.shards import ShardRecord, new_attempt, read_shard, write_shards
from palimpsest.flow.stages.paginate import NOT_COVERED, why_not_covered
from palimpsest.flow.stages.rate import readings, trials
from palimpsest.flow.stages.tables import TEXT_TIER, table_of
from palimpsest.pages.layouts.protocol import Layout
from palimpsest.schemas import CARRIER, PAGES, TOUCHED, RowKind, conform
from palimpsest.storage.opening import open_store
from palimpsest.tiers.ladder import FORGOTTEN
from palimpsest.tiers.policies.protocol import PageFacts, Policy, Reading

NOT_LAID_OUT = "not_laid_out"
FORGET = "forgotten"
STAY_TEXT = (NOT_COVERED, NOT_LAID_OUT, FORGET)
"""Reasons of pages in tier text that no policy can make into pixels."""
_CARRIED = [name for name in PAGES.names if name not in CARRIER.names and name not in ("drawing", "stored_tier")]


@dataclass(frozen=True, kw_only=True)
class Touched:
    """A shard of which pages change: `changes` maps their ids to the tiers that the policy asks for."""

    unit_id: str
    shard: ShardRecord
    changes: Mapping[str, str]


def touched_table(shards: Iterable[Touched]) -> pa.Table:
    """Touched shards as a table of TOUCHED."""
    rows = [
        {
            "unit_id": touched.unit_id,
            "shard": asdict(touched.shard),
            "changes": [{"page_id": page, "tier": tier} for page, tier in touched.changes.items()],
        }
        for touched in shards
    ]
    return conform(pa.Table.from_pylist(rows, TOUCHED), TOUCHED, "re-tiering plan")


def touched_shards(table: pa.Table) -> Iterator[Touched]:
    """The shards of a table of TOUCHED, in order."""
    for row in table.to_pylist():
        changes = {change["page_id"]: change["tier"] for change in row["changes"]}
        yield Touched(unit_id=row["unit_id"], shard=ShardRecord(**row["shard"]), changes=changes)


class Reread:
    """TOUCHED -> PAGES, and a row `unit_end` for each shard that says what was written again of it."""

    def __init__(self, config: JobConfig, layout: Layout, policy: Policy) -> None:
        self.config, self.layout, self.policy = config, layout, policy

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        for touched in touched_shards(table):
            store = open_store(self.config.out)
            rows = read_shard(store, touched.shard)
            changing = pc.is_in(rows["page_id"], pa.array(touched.changes, pa.string()))
            kept = rows.filter(pc.invert(changing))
            shards: tuple[ShardRecord, ...] = ()
            if kept.num_rows:
                groups = self.config.storage.row_group_bytes
                shards = write_shards(store, kept, unit_id=touched.unit_id, attempt=new_attempt(), row_group_bytes=groups)
            changed = rows.filter(changing)
            step = self.config.placement.render_batch
            for start in range(0, changed.num_rows, step):
                yield table_of([self._page(row, touched) for row in changed.slice(start, step).to_pylist()], PAGES, "reread")
            control = {"shard": touched.shard.key, "pages": changed.num_rows, "kept": [asdict(shard) for shard in shards]}
            yield table_of([{"unit_id": touched.unit_id, "kind": RowKind.UNIT_END, "control": control}], PAGES, "reread")

    def _page(self, row: dict[str, Any], touched: Touched) -> dict[str, Any]:
        tier = touched.changes[row["page_id"]]
        carried = {name: row[name] for name in _CARRIED}
        as_text = {"tier": TEXT_TIER, "mode": None, "image_px": None, "reason": None, "detail": None}
        page = {**carried, **as_text, "unit_id": touched.unit_id, "kind": RowKind.PAGE}
        if tier == FORGOTTEN:
            return {**page, "text": "", "num_text_tokens": 0, "reason": FORGET}
        facts = facts_of(row, self.policy)
        if tier == TEXT_TIER and not self.policy.climbs:
            return {**page, "reason": self.policy.why_text(facts)}
        laid_out = self.layout.lay_out_again(row["text"], row["text_class"])
        if laid_out is None:
            return {**page, "reason": NOT_LAID_OUT}
        if why_not_covered(laid_out, row["text"], self.layout, self.config.layout.max_escaped_share):
            return {**page, "reason": NOT_COVERED}
        page["drawing"] = laid_out.drawing
        if self.policy.climbs:
            return {**page, "tier": None, "stored_tier": row["tier"], "tried": trials(facts.readings)}
        return {**page, "tier": tier, "mode": tier, "image_px": self.policy.ladder.mode(tier, "tier").px}


def facts_of(row: Mapping[str, Any], policy: Policy) -> PageFacts:
    """The facts of a stored page that a policy may use.

    Args:
        row: the columns tier, timestamp, importance, num_text_tokens, status, tried and precision, and text for a predictor.
    """
    known = row["tier"] == TEXT_TIER or any(mode.name == row["tier"] for mode in policy.ladder.known)
    return PageFacts(
        age=policy.age(row["timestamp"]),
        importance=row["importance"],
        text_tokens=row["num_text_tokens"],
        tier=row["tier"] if known else None,
        readings=readings_of(row, policy),
        features=policy.features(row["text"]) if policy.predictor else None,
    )


def readings_of(row: Mapping[str, Any], policy: Policy) -> dict[str, Reading]:
    """The verdicts that a row tells of, in modes of the policy's ladder: those of rate control, and its own."""
    modes = {mode.name for mode in policy.ladder.known}
    known = {mode: reading for mode, reading in readings(row["tried"]).items() if mode in modes}
    if row["tier"] in modes and row["status"] in ("verified", "below_target", "unfinished"):
        known[row["tier"]] = Reading(row["precision"], row["status"] == "verified")
    return known
