"""Dry runs: what `palimpsest run` and `ingest` would refuse, and the plan of a run."""

from __future__ import annotations

from typing import Any

from palimpsest.config import JobConfig
from palimpsest.corpus.format import check_output
from palimpsest.corpus.running import check_running
from palimpsest.corpus.snapshots import latest
from palimpsest.flow.executor import check_machine
from palimpsest.flow.plan import source_uri
from palimpsest.flow.recipe import Recipe
from palimpsest.operations.codebooks import found_codebook
from palimpsest.operations.findings import check_fields
from palimpsest.operations.resolving import located, prepare
from palimpsest.sources.listing import list_sources
from palimpsest.sources.tables import plan_units
from palimpsest.storage.object_store import ObjectStore
from palimpsest.storage.opening import open_store


def refuse(config: JobConfig, store: ObjectStore) -> Recipe:
    """Raise what a job with work to do would refuse before it; nothing is written, and Ray is not started.

    Returns:
        the recipe of the job.
    """
    recipe = found_codebook(store, prepare(config))
    check_machine(config.placement)
    check_output(store)
    check_running(store, recipe.fingerprint)
    return recipe


def plan_only(config: JobConfig) -> dict[str, Any]:
    """The plan of `run`, as names and values; nothing is written, and Ray is not started.

    Raises:
        ValueError, AlreadyRunning: what `run` would refuse before its work.
    """
    config = located(config)
    store = open_store(config.out)
    recipe = refuse(config, store)
    listing = list_sources(config.sources, config.source, config.out)
    items = listing.objects
    units = [unit for item in items for unit in plan_units(item, config.source)]
    published_units = _published(store)
    if not published_units:
        check_fields(items, config.source)
    known = sum((source_uri(unit), unit.object.version, unit.slice, recipe.fingerprint) in published_units for unit in units)
    fitted = recipe.config.storage.tokens != "pq" or recipe.config.storage.codebook
    return {
        "sources": len(items),
        "passed over": str(listing.passed_over) or "no name",
        "bytes": sum(item.size for item in items),
        "units": len(units),
        "published already": known,
        "to process": len(units) - known,
        "layout": str(recipe.layout),
        "tiers": recipe.policy.described,
        "codec": f"{recipe.codec} {recipe.revision}",
        "fingerprint": recipe.fingerprint if fitted else "depends on the codebook, which the run fits to this corpus",
        "out": config.out,
    }


def _published(store: ObjectStore) -> set[tuple[str, str, str, str]]:
    """Source, version, slice and fingerprint of the units in the newest snapshot of a corpus that may not exist yet."""
    snapshot = latest(store)
    units = snapshot.units if snapshot else ()
    return {(unit.source_uri, unit.source_version, unit.slice, unit.fingerprint) for unit in units}
