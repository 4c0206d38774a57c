"""Run records, in `runs/<run_id>/`: the configuration, the environment and the outcome of a run.

`stats.json` is always written. Its `outcome` is "published", "nothing" (nothing to do, or nothing to publish) or "failed", with
the reason. The driver writes it into the store, so it outlives the cluster.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
import tomllib
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from palimpsest import config as configs
from palimpsest.config import JobConfig, SourceConfig
from palimpsest.errors import UsageError
from palimpsest.storage.object_store import NoSuchObject, ObjectStore, StoreError
from palimpsest.storage.stable_json import Damaged, read_json, to_bytes

_log = logging.getLogger(__name__)
PUBLISHED, NOTHING, FAILED = "published", "nothing", "failed"
_PACKAGES = ("palimpsest", "ray", "torch", "transformers", "pyarrow", "numpy", "pillow", "tokenizers", "safetensors")


_OUTSIDE: tuple[tuple[str, str, Callable[[str], bool]], ...] = (
    ("codec", "path", lambda value: False),
    ("codec", "chat_template", lambda value: value in ("", "checkpoint")),
    ("layout", "cjk_font", lambda value: value in ("auto", "none")),
    ("tiers", "predictor", lambda value: value in ("", "none") or value.lstrip().startswith("{")),
    ("placement", "address", lambda value: value in ("local", "auto")),
)
"""Settings that lead out of a corpus, or are programs: section, name, and the values that are harmless."""


class UntrustedSetting(UsageError):
    """A corpus names something that only the user may name."""


def new_run_id() -> str:
    """A unique name; names sort by the microsecond at which their runs began."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:6]}"


def began_at(run_id: str) -> datetime | None:
    """When the run of this name began, UTC; None for a name of another kind."""
    for form in ("%Y%m%dT%H%M%S", "%Y%m%dT%H%M%S%f"):  # names of older corpora have no microseconds
        with suppress(ValueError):
            return datetime.strptime(run_id.partition("-")[0], form).replace(tzinfo=UTC)
    return None


def record_configuration(store: ObjectStore, config: JobConfig, run_id: str) -> None:
    """Write the configuration and the environment, before the snapshot whose readers need them."""
    store.put(f"runs/{run_id}/config.toml", configs.to_toml(config).encode())
    store.put(f"runs/{run_id}/environment.json", to_bytes(environment()))


def record_stats(store: ObjectStore, run_id: str, stats: Mapping[str, Any]) -> None:
    """Write `stats.json`, with counts, rates and reasons."""
    store.put(f"runs/{run_id}/stats.json", to_bytes({"run_id": run_id, **stats}))


def record_failure(store: ObjectStore, run_id: str, error: BaseException, stats: Mapping[str, Any]) -> None:
    """Write `stats.json` of a run that failed, unless the store itself failed."""
    with suppress(StoreError, OSError):
        reason = f"{type(error).__name__}: {error}".strip()
        record_stats(store, run_id, {**stats, "outcome": FAILED, "reason": reason[:4000]})


def environment() -> dict[str, Any]:
    """Versions and machine, for the run record."""
    versions = {name: metadata.version(name) for name in _PACKAGES if _installed(name)}
    return {"python": sys.version.split()[0], "platform": platform.platform(), "processors": _processors(), "packages": versions}


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """`config` is the TOML as written ("" where absent)."""

    run_id: str
    config: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    stats: dict[str, Any] = field(default_factory=dict)

    def settings(self, overrides: Iterable[str] = ()) -> dict[str, Any]:
        """Its configuration, as far as a corpus may be trusted with it.

        A corpus is untrusted input. `codec.trust_remote_code` is left out, because it runs code. Settings that open a file or an
        address, and a chat template, which is a program in Jinja, must be repeated by the user, or changed.

        Args:
            overrides: `key=value` of the command line.

        Raises:
            UntrustedSetting: it names a path, an address or a template that `overrides` do not name.
            Damaged: it is no TOML; the message names the object.
        """
        key, table = f"runs/{self.run_id}/config.toml", self._table()
        named = {override.partition("=")[0].strip() for override in overrides}
        for section, name, harmless in _OUTSIDE:
            value = settings.get(name) if isinstance(settings := table.get(section), dict) else None
            if value is not None and f"{section}.{name}" not in named and not harmless(str(value)):
                raise UntrustedSetting(
                    f"{key} of the corpus sets {section}.{name} = {ascii(value)[:200]}. A path, an address or a template in a "
                    f"corpus is not used. If you trust it, repeat it: --set {section}.{name}=…"
                )
        codec = table.get("codec")
        if isinstance(codec, dict) and codec.pop("trust_remote_code", False):
            _log.warning("%s sets codec.trust_remote_code, which a corpus may not; it is off unless your command sets it", key)
        return table

    def _table(self) -> dict[str, Any]:
        try:
            return tomllib.loads(self.config)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise Damaged(f"runs/{self.run_id}/config.toml is no TOML: {str(error) or 'nested too deeply'}") from error

    def source(self) -> SourceConfig:
        """How it read its sources; the defaults where that is not recorded. Raises UsageError, Damaged."""
        return self._parsed({name: table for name, table in self._table().items() if name == "source"}).source

    def _parsed(self, table: Mapping[str, Any]) -> JobConfig:
        try:
            return configs.parse(table)
        except configs.ConfigError as error:
            raise UsageError(f"runs/{self.run_id}/config.toml of the corpus: {error}") from error

    def job(self, overrides: Iterable[str] = (), kept: Callable[[str], bool] = lambda override: True) -> JobConfig:
        """Its configuration with the overrides that are `kept`.

        Raises:
            UsageError: `settings` refuses it, or it is no configuration of a job; the message names the object.
        """
        table, overrides = self.settings(overrides), [override for override in overrides if kept(override)]
        self._parsed(table)
        return configs.parse(table, overrides)

    def seconds(self, name: str) -> float | None:
        """A number of `stats` that is above zero, else None: `seconds`, `total_seconds`, `pages_per_second`."""
        value = self.stats.get(name)
        return float(value) if isinstance(value, int | float) and value > 0 else None


def read_run(store: ObjectStore, run_id: str) -> RunRecord:
    """The record of a run; missing parts are empty.

    Raises:
        Damaged: a JSON file is not an object.
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
