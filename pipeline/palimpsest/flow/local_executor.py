"""The stages in this process, without Ray: for small jobs, for machines where Ray cannot start, and for tests.

It yields the same rows as the Ray executor. It uses one process (plus the codec's threads), exports no metrics and does not
isolate
documents: one that ends the process, by a fault in native code or by exhausting memory, ends the job. Committed units are kept.
The same command with `placement.executor = "ray"` quarantines such a document.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc

from palimpsest import telemetry
from palimpsest.config import PlacementConfig, SourceConfig
from palimpsest.flow.clock import Clock, added_up
from palimpsest.flow.executor import Row, StageSeconds
from palimpsest.flow.plan import PlannedUnit, document_ids, units_table
from palimpsest.flow.recipe import Recipe
from palimpsest.flow.stages import Encode, Paginate, RateControl, Read, Render, Verify, Write
from palimpsest.flow.stages.reread import Reread, Touched, touched_table
from palimpsest.schemas import RowKind
from palimpsest.sources.units import Unit

Judge = Callable[[pa.Table], pa.Table]


@contextmanager
def connected(placement: PlacementConfig) -> Iterator[LocalExecutor]:
    """The executor; it needs no start and no end."""
    yield LocalExecutor()


class LocalExecutor:
    """The `executor.Executor` in this process."""

    def __init__(self) -> None:
        self.clock = Clock()
        self._judges: dict[str, Judge] = {}

    def index_units(self, units: Sequence[Unit], config: SourceConfig) -> Iterator[list[str]]:
        return (document_ids(unit, config) for unit in units)

    def run_units(
        self, units: Sequence[PlannedUnit], recipe: Recipe, pending: Callable[[], Collection[PlannedUnit]]
    ) -> Iterator[Row]:
        read, paginate = Read(recipe.config.source), Paginate(recipe.config, recipe.layout, recipe.policy)
        for planned in units:
            documents = self.clock.timed("read", read(units_table([planned])))
            pages = (table for some in documents for table in self.clock.timed("paginate", paginate(some)))
            yield from self._written(pages, recipe)

    def retier(self, shards: Sequence[Touched], recipe: Recipe) -> Iterator[Row]:
        reread = Reread(recipe.config, recipe.layout, recipe.policy)
        for touched in shards:
            yield from self._written(self.clock.timed("reread", reread(touched_table([touched]))), recipe)

    def stage_seconds(self) -> StageSeconds:
        return added_up([self.clock.spent])

    def _written(self, pages: Iterable[pa.Table], recipe: Recipe) -> Iterator[Row]:
        """Verdicts of all `pages`, written when `shard_batch` pages have gathered and at the end."""
        config = recipe.config
        write = Write(config.out, config.storage.row_group_bytes)
        judge = self._judges.get(recipe.fingerprint) or self._judges.setdefault(recipe.fingerprint, self._judging(recipe))
        gathered: list[pa.Table] = []
        rows = 0

        def flush() -> Iterator[Row]:
            for table in self.clock.timed("write", (write(verdicts) for verdicts in [pa.concat_tables(gathered)])):
                yield from table.to_pylist()
            gathered.clear()

        for table in pages:
            gathered.append(judge(table))
            rows += table.num_rows
            if rows >= config.placement.shard_batch:
                yield from flush()
                rows = 0
        if gathered:
            yield from flush()

    def _judging(self, recipe: Recipe) -> Judge:
        """PAGES -> VERDICTS."""
        config, print_ = recipe.config, recipe.fingerprint
        if recipe.policy.climbs:
            rate = RateControl(config, print_, recipe.layout, recipe.policy)
            return lambda pages: self._one("verify", rate, pages)
        render, encode, verify = Render(recipe.layout), Encode(config, print_), Verify(config, print_)

        def judge(pages: pa.Table) -> pa.Table:
            return self._one("verify", verify, self._one("encode", encode, self._one("render", render, pages)))

        return judge

    def _one(self, name: str, stage: Judge, table: pa.Table) -> pa.Table:
        """One table through one stage, timed."""
        (output,) = self.clock.timed(name, (stage(some) for some in [table]))
        if name != "render":
            self.clock.model(name, stage)
        if name == "verify":
            observe_precision(output)
        return output


def observe_precision(verdicts: pa.Table) -> None:
    """Record the precision of each decoded page."""
    pages = verdicts.filter(pc.and_(pc.equal(verdicts["kind"], RowKind.PAGE), pc.is_valid(verdicts["precision"])))
    for mode, precision in zip(pages["mode"].to_pylist(), pages["precision"].to_pylist(), strict=True):
        telemetry.record("palimpsest_page_precision", precision, mode=mode)
