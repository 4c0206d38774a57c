"""`make chaos`: python -m tests.chaos [--seed N] [--faults N] [--nodes N] [--json] [--write FOLDER]"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests import s3_servers
from tests.chaos.nights import Arena, Episode, Failed, Tally
from tests.chaos.proxy import ChaosProxy
from tests.chaos.result import as_result
from tests.tiny_codec import write_short_codec

NIGHTS = 4  # of a light episode


def chaos(*, seed: int, faults: int, cluster_nights: int, folder: Path, tell: Any = lambda text: None) -> dict[str, Any]:
    """Inject at least `faults` faults and return what was done and found.

    Raises:
        Failed: something was lost, doubled or changed; `folder` has what every pass said.
    """
    tally, began = Tally(), time.monotonic()
    with ExitStack() as stack:
        server = stack.enter_context(s3_servers.seaweedfs())
        os.environ.update(server.environment())
        proxies = tuple(stack.enter_context(ChaosProxy(server.endpoint, seed)) for _ in range(2))
        codec = write_short_codec(folder / "codec")
        arena = Arena(server, proxies, codec, folder, seed)

        def progress() -> bool:
            spent, pages = time.monotonic() - began, sum(verdict.pages for verdict in tally.verdicts)
            tell(f"{spent:6.0f} s  {tally.total:5,} of {faults:,} faults  {dict(tally.rounds)}  {pages:,} pages judged")
            return tally.total >= faults

        number = 0
        while tally.total < faults:
            number += 1
            Episode(arena, number, tally).run(NIGHTS, progress)
        if cluster_nights:
            from tests.chaos.cluster import ClusterEpisode, two_nodes

            with two_nodes(arena) as nodes:
                ClusterEpisode(arena, 0, tally, nodes).run(cluster_nights, lambda: progress() and False)
    return as_result(tally, seed=seed, seconds=time.monotonic() - began)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Ingestions under fire.")
    parser.add_argument("--seed", type=int, default=1, help="of the worlds, the nights and the faults")
    parser.add_argument("--faults", type=int, default=1000, help="inject at least so many")
    parser.add_argument("--cluster-nights", type=int, default=6, help="nights through Ray on two nodes; 0 for none")
    parser.add_argument("--json", action="store_true", help="the result as JSON")
    parser.add_argument("--write", type=Path, help="folder for the result as Markdown and JSON")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="palimpsest-chaos-"))

    def tell(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        result = chaos(seed=asked.seed, faults=asked.faults, cluster_nights=asked.cluster_nights, folder=folder, tell=tell)
    except Failed as found:
        tell(f"failed: {found}")
        return 1
    from rich.console import Console

    from palimpsest.lab.bench.machine import table_of, write_results

    if asked.write:
        tell(f"written: {write_results('chaos', result, asked.write, command=result['command'])}")
    if asked.json:
        print(json.dumps(result, indent=1, ensure_ascii=False))
    else:
        Console(highlight=False).print(table_of("chaos", result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
