"""The seam between operations and executors. A new executor is one new file, and one line here.

with started(config.placement) as executor:
    for row in executor.run_units(units, recipe, pending): ...     # dicts of the WRITTEN schema

ray      ray_executor.py     tasks and actors on one machine or a cluster; quarantines documents that end a worker
local    local_executor.py   one process without Ray, for small jobs and tests; a document that ends the process ends the job
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib import import_module
from typing import Any, Protocol

from palimpsest.config import ConfigError, PlacementConfig, SourceConfig
from palimpsest.flow.plan import PlannedUnit
from palimpsest.flow.recipe import Recipe
from palimpsest.flow.stages.reread import Touched
from palimpsest.sources.units import Unit

EXECUTORS = {"ray": "palimpsest.flow.ray_executor", "local": "palimpsest.flow.local_executor"}
"""Modules by name, each with a context manager `connected(placement)` that gives an `Executor`."""

TASK_CPUS = 0.25
"""CPUs that Ray reserves for a task that reads, lays out, renders or writes."""

Row = dict[str, Any]
"""A row of the WRITTEN schema."""

StageSeconds = dict[str, dict[str, float]]
"""Per stage, summed over its workers: `seconds` in batches, the number of `batches`, and the output `rows`. Stages with a model
add
the keys that `flow/supply.py` reads."""


class Executor(Protocol):
    """Runs the stages; rows arrive in any order."""

    def index_units(self, units: Sequence[Unit], config: SourceConfig) -> Iterator[list[str]]:
        """The document ids of each unit, in order."""
        ...

    def run_units(
        self, units: Sequence[PlannedUnit], recipe: Recipe, pending: Callable[[], Collection[PlannedUnit]]
    ) -> Iterator[Row]:
        """Process units; yields the WRITTEN rows as they arrive.

        A row of the kind "again" revokes all earlier rows of its unit.

        Args:
            pending: returns the units that are incomplete.

        Raises:
            WorkerFailed: a worker met a bug, or died too often; committed units are kept.
        """
        ...

    def retier(self, shards: Sequence[Touched], recipe: Recipe) -> Iterator[Row]:
        """Move pages of published shards to other tiers; yields the WRITTEN rows as they arrive.

        Raises:
            WorkerFailed: as for `run_units`; a document that ends its workers is an error here.
        """
        ...

    def stage_seconds(self) -> StageSeconds:
        """The times of everything that this executor has run."""
        ...


def started(placement: PlacementConfig) -> AbstractContextManager[Executor]:
    """The executor that `placement.executor` names, while the context is open."""
    connect: Callable[[PlacementConfig], AbstractContextManager[Executor]] = import_module(
        EXECUTORS[placement.executor]
    ).connected
    return connect(placement)


def check_machine(placement: PlacementConfig) -> None:
    """Raise ConfigError where the executor would, for want of CPUs or GPUs on this machine; nothing is started."""
    if placement.executor != "ray":
        return
    available = {"CPU": float(len(os.sched_getaffinity(0)))}
    if placement.gpus_per_worker:
        import torch

        available["GPU"] = float(torch.cuda.device_count())
    refuse_too_little(placement, available)


def refuse_too_little(placement: PlacementConfig, there: Mapping[str, float]) -> None:
    """Raise ConfigError if the model actors leave no room for the tasks that feed them: Ray would wait for ever.

    Args:
        there: "CPU" and "GPU" of a local Ray; a cluster may grow.
    """
    workers = placement.encode_workers + placement.verify_workers
    for resource, each, spare in (("CPU", placement.cpus_per_worker, TASK_CPUS), ("GPU", placement.gpus_per_worker, 0.0)):
        required, available = workers * each + spare, there.get(resource, 0.0)
        if required > available and placement.address == "local":
            setting = f"placement.{resource.lower()}s_per_worker"
            raise ConfigError(
                f"{setting} = {each}: {workers} model actors and the tasks that feed them need {required:g} {resource}s, this "
                f"machine has {available:g}; lower {setting}, placement.encode_workers or placement.verify_workers"
            )


class LazyExecutor:
    """An executor that starts on its first use, for work that may not need one."""

    def __init__(self, placement: PlacementConfig, stack: ExitStack) -> None:
        self._placement, self._stack = placement, stack
        self._executor: Executor | None = None

    def __call__(self) -> Executor:
        if self._executor is None:
            self._executor = self._stack.enter_context(started(self._placement))
        return self._executor

    def index(self, units: Sequence[Unit], config: SourceConfig) -> Iterator[list[str]]:
        """As `Executor.index_units`; starts the executor at the first unit."""
        yield from self().index_units(units, config)

    def stage_seconds(self) -> StageSeconds:
        """As `Executor.stage_seconds`; empty if the executor never started."""
        return self._executor.stage_seconds() if self._executor else {}


@contextmanager
def lazily(placement: PlacementConfig) -> Iterator[LazyExecutor]:
    """A `LazyExecutor` that ends with the context."""
    with ExitStack() as stack:
        yield LazyExecutor(placement, stack)
