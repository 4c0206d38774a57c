"""The plan of a re-tiering: the pages of a published corpus that are due another tier, and the units that replace the old ones.

It needs neither a model nor Ray. A second run over the same corpus, clock and policy finds nothing due.

A unit whose pages change gets a new id, made from the old id and the request. It keeps the source, version, slice and
fingerprint, so `palimpsest run` still finds its sources done. A unit that left documents to a unit with a new id gets a new id
too.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow.compute as pc

from palimpsest.config import ConfigError, JobConfig, parse
from palimpsest.corpus.run_records import read_run
from palimpsest.corpus.shards import read_shard
from palimpsest.corpus.snapshots import Snapshot, read_snapshot, snapshot_numbers
from palimpsest.corpus.units import CommitRecord, unit_id
from palimpsest.flow.recipe import Recipe, fingerprint, tier_identity
from palimpsest.flow.stages.reread import FORGET, STAY_TEXT, Touched, facts_of
from palimpsest.flow.stages.tables import TEXT_TIER
from palimpsest.pages.layouts.protocol import Layout
from palimpsest.pages.layouts.registry import make_layout
from palimpsest.storage.object_store import ObjectStore
from palimpsest.tiers.ladder import FORGOTTEN
from palimpsest.tiers.policies.protocol import Policy, policy_of

_COLUMNS = [
    *("page_id", "tier", "mode", "timestamp", "importance", "num_text_tokens", "num_context_tokens"),
    *("status", "reason", "tried", "precision", "codec", "codec_revision"),
]
ALLOWED = ("tiers.", "placement.", "codec.trust_remote_code=", "codec.path=", "codec.chat_template=", "layout.cjk_font=")


@dataclass
class UnitPlan:
    """One unit of the snapshot that is replaced.

    Attributes:
        old: its record; `new_id` is the id of its replacement.
        touched: its shards with changed pages; none if only the ids that it relies on change.
        text_tokens, context_tokens, tokens_as_text: of the changed pages, as stored.
    """

    old: CommitRecord
    touched: list[Touched] = field(default_factory=list)
    text_tokens: int = 0
    context_tokens: int = 0
    tokens_as_text: int = 0
    new_id: str = ""
    defers_to: tuple[str, ...] = ()


@dataclass
class RetierPlan:
    """The units and pages that are due.

    Attributes:
        units: the replaced units, in the order of the snapshot.
        moves: pages by (tier now, requested tier).
        held: pages that the policy would store sharper than now; they stay unchanged.
        pages: number of pages checked.
        unknown: units by fingerprint, of runs whose configuration is not recorded; they stay unchanged.
        recipes: by fingerprint, with the policy of this re-tiering.
        made: by fingerprint, the configuration of the run that made the units.
    """

    units: list[UnitPlan] = field(default_factory=list)
    moves: Counter[tuple[str, str]] = field(default_factory=Counter)
    held: int = 0
    pages: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    recipes: dict[str, Recipe] = field(default_factory=dict)
    made: dict[str, JobConfig] = field(default_factory=dict)

    @property
    def due(self) -> int:
        return sum(self.moves.values())


def plan_retier(
    store: ObjectStore, snapshot: Snapshot, corpus: str, overrides: Sequence[str], as_of: str | None, *, sharpen: bool = False
) -> RetierPlan:
    """Check every page of a snapshot. Memory grows only with the pages that are due.

    Args:
        corpus: its URI, for the workers.
        overrides: `key=value` over the configuration that the corpus's runs recorded; only of `tiers`, `placement` and the
            location of the codec's checkpoint and of the font, and its chat template.
        as_of: the clock, in place of `tiers.as_of`.
        sharpen: also move pages to a sharper tier if the policy would choose it.

    Raises:
        ConfigError: an override is of another section, or the policy refuses a setting.
        UntrustedSetting: a run record names a path, an address or a template that no override names.
    """
    for override in overrides:
        if not override.strip().startswith(ALLOWED):
            raise ConfigError(
                f"--set {override!r}: re-tiering changes no other settings than tiers.*, placement.*, and what a corpus may not "
                "name: codec.path, codec.chat_template, codec.trust_remote_code and layout.cjk_font"
            )
    requested = [*overrides, *([f"tiers.as_of={json.dumps(as_of)}"] if as_of is not None else [])]
    plan = RetierPlan()
    cookbook = _Cookbook(store, snapshot, corpus, requested, one_way=not sharpen)
    replaced: dict[str, UnitPlan] = {}
    leaning: list[CommitRecord] = []
    for unit in snapshot.units:
        recipe = cookbook.recipe(unit)
        planned = UnitPlan(unit)
        if recipe is None:
            plan.unknown[unit.fingerprint] += 1
        else:
            plan.recipes[unit.fingerprint] = recipe
            plan.made[unit.fingerprint] = cookbook.made[unit.fingerprint]
            _look(store, planned, recipe, plan)
        if planned.touched:
            replaced[unit.unit_id] = planned
        elif unit.defers_to:
            leaning.append(unit)
    _lean(replaced, leaning)
    _name(replaced, plan.recipes)
    plan.units = list(replaced.values())
    return plan


def _look(store: ObjectStore, planned: UnitPlan, recipe: Recipe, plan: RetierPlan) -> None:
    policy = recipe.policy
    columns = [*_COLUMNS, "text"] if policy.predictor else _COLUMNS
    for shard in planned.old.shards:
        changes: dict[str, str] = {}
        for row in read_shard(store, shard, columns).to_pylist():
            plan.pages += 1
            tier, stays = due_tier(row, policy)
            plan.held += stays
            if tier is None:
                continue
            changes[row["page_id"]] = tier
            plan.moves[row["tier"], tier] += 1
            planned.text_tokens += row["num_text_tokens"] or 0
            planned.context_tokens += row["num_context_tokens"] or 0
            planned.tokens_as_text += (row["num_context_tokens"] or 0) if row["tier"] == TEXT_TIER else 0
        if changes:
            planned.touched.append(Touched(unit_id="", shard=shard, changes=changes))


def due_tier(row: dict[str, Any], policy: Policy) -> tuple[str | None, bool]:
    """The new tier of a stored page, or None; and whether it stays only because memory never sharpens."""
    if row["reason"] == FORGET:
        return None, False
    facts = facts_of(row, policy)
    tier = policy.tier(facts)
    stays = policy.one_way and tier == row["tier"] and replace(policy, one_way=False).tier(facts) != tier
    if tier == row["tier"] or (row["reason"] in STAY_TEXT and tier != FORGOTTEN):
        return None, stays and row["reason"] not in STAY_TEXT
    return tier, False


def _lean(replaced: dict[str, UnitPlan], leaning: Iterable[CommitRecord]) -> None:
    """Add the units that rely on a replaced one, directly or through others."""
    left = list(leaning)
    while more := [unit for unit in left if not replaced.keys().isdisjoint(unit.defers_to)]:
        replaced.update((unit.unit_id, UnitPlan(unit)) for unit in more)
        left = [unit for unit in left if unit.unit_id not in replaced]


def _name(replaced: dict[str, UnitPlan], recipes: dict[str, Recipe]) -> None:
    """Set the ids of the new units, first of those that others rely on."""

    def named(planned: UnitPlan) -> str:
        if not planned.new_id:
            old = planned.old
            planned.defers_to = tuple(sorted(named(replaced[name]) if name in replaced else name for name in old.defers_to))
            asked = {page: tier for touched in planned.touched for page, tier in touched.changes.items()}
            what: list[Any] = [sorted(asked.items()), planned.defers_to]
            recipe = recipes.get(old.fingerprint)
            if asked and recipe and recipe.policy.climbs:  # the final tier depends on more than the requested one
                what.append(tier_identity(recipe.config.tiers))
            digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()
            planned.new_id = unit_id(f"retier {old.unit_id}", old.source_version, old.slice, old.fingerprint, [digest])
            planned.touched = [replace(touched, unit_id=planned.new_id) for touched in planned.touched]
        return planned.new_id

    for planned in replaced.values():
        named(planned)


class _Cookbook:
    """Finds the recorded configuration that made a unit, by its fingerprint."""

    def __init__(self, store: ObjectStore, snapshot: Snapshot, corpus: str, overrides: Sequence[str], *, one_way: bool) -> None:
        self.store, self.corpus, self.overrides, self.one_way = store, corpus, overrides, one_way
        self.runs: list[str] = [snapshot.run_id]
        self.older: Iterator[str] = (
            read_snapshot(store, n).run_id for n in reversed(snapshot_numbers(store)) if n < snapshot.number
        )
        self.found: dict[str, Recipe | None] = {}
        self.made: dict[str, JobConfig] = {}
        self.configs: dict[str, tuple[JobConfig, tuple[str, str] | None] | None] = {}

    def recipe(self, unit: CommitRecord) -> Recipe | None:
        if unit.fingerprint not in self.found:
            self.found[unit.fingerprint] = self._find(unit)
        return self.found[unit.fingerprint]

    def _find(self, unit: CommitRecord) -> Recipe | None:
        makers = self._makers(unit)
        for run_id in self._candidates(unit):
            if run_id not in self.configs:
                self.configs[run_id] = self._recorded(run_id)
            recorded = self.configs[run_id]
            if recorded is None:
                continue
            recorded_config, of_run = recorded
            layout = make_layout(recorded_config.layout)
            earlier = recorded_config.replace(tiers=recorded_config.tiers.replace(cheap_text=False))  # recorded, had no effect
            for config in (recorded_config, earlier):
                for codec, revision in dict.fromkeys([*makers, *([of_run] if of_run else [])]):
                    if fingerprint(config, layout.identity, codec, revision) == unit.fingerprint:
                        self.made[unit.fingerprint] = config
                        return self._cooked(config, layout, codec, revision, unit.fingerprint)
        return None

    def _cooked(self, made: JobConfig, layout: Layout, codec: str, revision: str, print_: str) -> Recipe:
        config: JobConfig = parse(_plain(made), self.overrides)
        config, policy = policy_of(config.replace(out=self.corpus), layout, revision, published=True, one_way=self.one_way)
        return Recipe(config=config, layout=layout, policy=policy, codec=codec, revision=revision, fingerprint=print_)

    def _candidates(self, unit: CommitRecord) -> Iterator[str]:
        yield unit.run_id
        yield from self.runs
        for run_id in self.older:
            self.runs.append(run_id)
            yield run_id

    def _recorded(self, run_id: str) -> tuple[JobConfig, tuple[str, str] | None] | None:
        run = read_run(self.store, run_id)
        if not run.config:
            return None
        codec, revision = run.stats.get("codec"), run.stats.get("codec_revision")
        maker = (codec, revision) if isinstance(codec, str) and isinstance(revision, str) else None
        return run.job(self.overrides, lambda override: override.strip().startswith("layout.")), maker

    def _makers(self, unit: CommitRecord) -> list[tuple[str, str]]:
        """Codec and revision of its tokens; none if all its pages are text."""
        for shard in unit.shards:
            if shard.tier != TEXT_TIER:
                rows = read_shard(self.store, shard, ["codec", "codec_revision"])
                return [
                    (row["codec"], row["codec_revision"])
                    for row in rows.filter(pc.is_valid(rows["codec"])).slice(0, 1).to_pylist()
                ]
        return []


def _plain(config: JobConfig) -> dict[str, Any]:
    from palimpsest.config import to_toml

    return tomllib.loads(to_toml(config))


def shards_of(units: Collection[UnitPlan]) -> list[Touched]:
    return [touched for planned in units for touched in planned.touched]
