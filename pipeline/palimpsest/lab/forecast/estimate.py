"""Hours, machines, bytes and cost of a workload at given rates, and how they change when an assumption does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import ceil
from typing import Any

from palimpsest.codecs.modes import Mode
from palimpsest.codecs.token_storage import STORAGES, find_storage
from palimpsest.config import ConfigError
from palimpsest.lab.forecast.rates import Rate
from palimpsest.lab.forecast.workload import TEXT, Workload


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The assumptions of a forecast besides the workload and the rates.

    Attributes:
        verified, controlled: share of the pages that is decoded, and of these the share whose blank page is decoded too.
        storage: of the tokens.
        utilisation: share of its rented time that a device works on pages: loading, waiting, the last stragglers.
        retries: share of the pages that is done twice.
        interruptions: of a device, per hour: spot machines that are taken away.
        lost_seconds: of a device per interruption: until another is there and has loaded the model, and work that is done again.
        deadline_hours, price: of one device; 0 where not given.
    """

    verified: float = 1.0
    controlled: float = 0.02
    storage: str = "int8"
    utilisation: float = 0.9
    retries: float = 0.0
    interruptions: float = 0.0
    lost_seconds: float = 300.0
    deadline_hours: float = 0.0
    price: float = 0.0

    def __post_init__(self) -> None:
        for name, low, high in (("verified", 0, 1), ("controlled", 0, 1), ("utilisation", 0.01, 1), ("retries", 0, 100)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} = {getattr(self, name)}: expected a number from {low} to {high}")
        for name in ("interruptions", "lost_seconds", "deadline_hours", "price"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} = {getattr(self, name)}: must not be negative")
        if self.storage not in STORAGES:
            raise ConfigError(f"storage {self.storage!r}: choose one of {', '.join(STORAGES)}")
        if self.interrupted >= 1:
            raise ConfigError(
                f"{self.interruptions:g} interruptions an hour of {self.lost_seconds:g} s each leave no time to work: "
                "name fewer, or fewer lost seconds"
            )

    @property
    def interrupted(self) -> float:
        """Share of the time that interruptions take."""
        return self.interruptions * self.lost_seconds / 3600


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """The rates of a forecast, by mode; `job` alone where only a whole job was measured.

    Attributes:
        core: what one core supplies, where that was measured.
    """

    encode: Mapping[str, Rate]
    verify: Mapping[str, Rate]
    job: Mapping[str, Rate]
    core: Rate | None = None

    def used(self) -> list[Rate]:
        return [*self.encode.values(), *self.verify.values(), *self.job.values(), *([self.core] if self.core else [])]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The forecast.

    Attributes:
        hours: device hours by stage, and in all with retries, interruptions and idle time.
        machines: devices for the deadline, None without one.
        cores_per_device: that supply one device, None where no core was measured.
        storage_bytes: of the tokens, by token storage.
        costs: in the currency of the price; None without one.
    """

    hours: dict[str, float]
    total_hours: float
    machines: int | None
    cores_per_device: float | None
    storage_bytes: dict[str, float]
    bytes_per_page: dict[str, float]
    bytes_per_text_token: dict[str, float]
    text_bytes: float
    cost: float | None
    cost_per_million_pages: float | None
    cost_per_billion_text_tokens: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def estimate(work: Workload, speeds: Speeds, terms: Terms, modes: Mapping[str, Mode], token_dim: int) -> Estimate:
    """Device hours = sum of pages / rate by stage and mode, x (1 + retries) / (1 - time interrupted) / utilisation."""
    seconds = {"encode": 0.0, "verify": 0.0}
    for mode, pages in work.encodes.items():
        if mode in speeds.job:
            seconds["job"] = seconds.get("job", 0.0) + pages / speeds.job[mode].pages_per_second
            continue
        seconds["encode"] += pages / speeds.encode[mode].pages_per_second
        if terms.verified:
            decoded = pages * terms.verified * (1 + terms.controlled)
            seconds["verify"] += decoded / _per_second(speeds.verify[mode], work)
    hours = {stage: spent / 3600 for stage, spent in seconds.items() if spent}
    total = sum(hours.values()) * (1 + terms.retries) / (1 - terms.interrupted) / terms.utilisation
    busy_rate = sum(work.encodes.values()) / sum(seconds.values()) if sum(seconds.values()) else 0.0
    stored = {
        name: sum(pages * modes[tier].num_vision_tokens * find_storage(name).bytes_per_token(token_dim)
                  for tier, pages in work.tiers.items() if tier != TEXT)
        for name in STORAGES
    }  # fmt: skip
    cost = total * terms.price if terms.price else None
    return Estimate(
        hours=hours,
        total_hours=total,
        machines=max(1, ceil(total / terms.deadline_hours - 1e-9)) if terms.deadline_hours else None,
        cores_per_device=busy_rate / speeds.core.pages_per_second if speeds.core and "job" not in hours else None,
        storage_bytes=stored,
        bytes_per_page={name: size / work.pages for name, size in stored.items()},
        bytes_per_text_token={name: size / work.text_tokens for name, size in stored.items()},
        text_bytes=work.text_bytes,
        cost=cost,
        cost_per_million_pages=None if cost is None else cost / work.pages * 1e6,
        cost_per_billion_text_tokens=None if cost is None else cost / work.text_tokens * 1e9,
    )


def _per_second(rate: Rate, work: Workload) -> float:
    """A decoder's pages per second on pages of this corpus: their number of tokens decides."""
    return rate.pages_per_second * (rate.tokens / (work.text_tokens / work.pages) if rate.tokens else 1.0)


def sensitivity(work: Workload, speeds: Speeds, terms: Terms, modes: Mapping[str, Mode], dim: int) -> list[dict[str, Any]]:
    """The estimate once more for each thing that may turn out otherwise; one thing at a time."""
    rows: list[dict[str, Any]] = []
    base = estimate(work, speeds, terms, modes, dim)

    def row(what: str, work: Workload = work, speeds: Speeds = speeds, terms: Terms = terms) -> None:
        found = estimate(work, speeds, terms, modes, dim)
        size = found.storage_bytes[terms.storage]
        rows.append(
            {
                "what": what,
                "pages": work.pages,
                "hours": found.total_hours,
                "change": found.total_hours / base.total_hours - 1 if base.total_hours else 0.0,
                "machines": found.machines,
                "token_bytes": size,
                "cost": found.cost,
            }
        )

    row("as planned")
    for factor in (0.75, 1.25):
        row(f"rates {factor - 1:+.0%}", speeds=_faster(speeds, factor))
    for factor in (0.75, 1.25):
        row(f"characters per page {factor - 1:+.0%}", work=_paged(work, 1 / factor))
    for share in (0.0, 0.1, 1.0):
        if share != terms.verified and not speeds.job and (not share or set(work.encodes) <= set(speeds.verify)):
            row(f"verification share {share:g}", terms=replace(terms, verified=share))
    for retries in (0.01, 0.1):
        row(f"{retries:.0%} of the pages done twice", terms=replace(terms, retries=retries))
    for interruptions in (0.05, 0.5):
        try:
            changed = replace(terms, interruptions=interruptions)
        except ConfigError:
            continue
        row(f"{interruptions:g} interruptions an hour of {terms.lost_seconds:g} s", terms=changed)
    for storage in STORAGES:
        if storage != terms.storage:
            row(f"storage {storage}", terms=replace(terms, storage=storage))
    return rows


def _faster(speeds: Speeds, factor: float) -> Speeds:
    def scaled(rates: Mapping[str, Rate]) -> dict[str, Rate]:
        return {mode: replace(rate, pages_per_second=rate.pages_per_second * factor) for mode, rate in rates.items()}

    return replace(speeds, encode=scaled(speeds.encode), verify=scaled(speeds.verify), job=scaled(speeds.job))


def _paged(work: Workload, factor: float) -> Workload:
    def scaled(pages: Mapping[str, float]) -> dict[str, float]:
        return {tier: count * factor for tier, count in pages.items()}

    return replace(work, tiers=scaled(work.tiers), encodes=scaled(work.encodes))
