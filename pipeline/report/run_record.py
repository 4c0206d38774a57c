"""What a run left beside the corpus: `runs/<run_id>/config.toml`, `environment.json` and `stats.json`, each where it is there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline.store.object_store import NoSuchObject, ObjectStore
from pipeline.store.stable_json import read_json


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """`config` is the TOML as written ("" where absent)."""

    run_id: str
    config: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    stats: dict[str, Any] = field(default_factory=dict)

    def seconds(self, name: str) -> float | None:
        """A number of `stats` that is above zero, else None: `seconds`, `total_seconds`, `pages_per_second`."""
        value = self.stats.get(name)
        return float(value) if isinstance(value, int | float) and value > 0 else None


def read_run(store: ObjectStore, run_id: str) -> RunRecord:
    """The record of a run; whatever is absent stays empty.

    Raises:
        Damaged: a JSON file that is there and is not an object.
    """
    folder = f"runs/{run_id}"
    try:
        config = store.read(f"{folder}/config.toml").decode("utf-8", "replace")
    except NoSuchObject:
        config = ""
    return RunRecord(
        run_id=run_id,
        config=config,
        environment=_json(store, f"{folder}/environment.json"),
        stats=_json(store, f"{folder}/stats.json"),
    )


def _json(store: ObjectStore, key: str) -> dict[str, Any]:
    try:
        return read_json(store, key)
    except NoSuchObject:
        return {}
