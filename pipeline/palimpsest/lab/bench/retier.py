"""The cost of re-tiering a corpus of which a part grew old, compared with a run over that part alone.

The corpus is made as text, which needs no model; then the clock moves, and a part of it is due the tier that the run gives to the
same documents. Both sides draw, encode and verify the same pages through the same flow; re-tiering also looks at all other pages,
and writes those again that share a shard with one that changes. All files of the old snapshot are hashed before and after.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from palimpsest import config as configs
from palimpsest.config import JobConfig
from palimpsest.lab.bench.machine import machine
from palimpsest.lab.bench.texts import bench_pages
from palimpsest.operations.resolving import prepare
from palimpsest.operations.retier import retier
from palimpsest.operations.run import run
from palimpsest.operations.status import list_versions

BAR = 1.3
PAGES_PER_DOCUMENT = 4
WARM = 25  # documents of the run that warms workers and caches up
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def bench_retier(
    config: JobConfig, *, pages: int = 1000, aged: float = 0.1, mode: str = "tiny", spread: bool = False, text: Path | None = None
) -> dict[str, Any]:
    """Measure; the corpora go to a temporary folder, one Ray serves both sides.

    Args:
        pages: of the corpus, full ones.
        aged: share of the documents that grow old.
        mode: the tier that they are then due.
        spread: old and new documents lie side by side in every source; otherwise the old ones have sources of their own.
        text: a file to read instead of invented prose.

    Raises:
        ValueError: for a share that leaves no document on either side.
    """
    if not 0 < aged < 1 or pages < 2 * PAGES_PER_DOCUMENT:
        raise ValueError(f"--aged {aged}, --pages {pages}: a share between 0 and 1, of at least {2 * PAGES_PER_DOCUMENT} pages")
    prepared = prepare(config)
    made = [text for text, _ in bench_pages(pages, prepared.layout, text)]
    texts = ["".join(made[at : at + PAGES_PER_DOCUMENT]) for at in range(0, pages, PAGES_PER_DOCUMENT)]
    old = set(range(0, len(texts), max(1, round(1 / aged))))
    policy = config.tiers.replace(policy="age", as_of=NOW.isoformat(), ages=(f"30d {mode}",))
    with tempfile.TemporaryDirectory(prefix="palimpsest-bench-") as place:
        folder = Path(place)
        groups = [list(range(len(texts)))] if spread else [sorted(old), [n for n in range(len(texts)) if n not in old]]
        whole = [_write(folder / "in", f"{n}.jsonl", texts, group, old) for n, group in enumerate(groups)]
        part = _write(folder / "part", "0.jsonl", texts, sorted(old), old)
        from palimpsest.flow.ray_executor import connected

        with connected(config.placement):
            base = run(config.replace(sources=tuple(whole), out=str(folder / "corpus"), tiers=policy))
            fixed = config.tiers.replace(policy="fixed", mode=mode)
            few = _write(folder / "few", "0.jsonl", texts, sorted(old)[:WARM], old)
            warm = run(config.replace(sources=(few,), out=str(folder / "warm"), tiers=fixed))
            alone = run(config.replace(sources=(part,), out=str(folder / "alone"), tiers=fixed))
            before = _hashes(folder / "corpus")
            later = (NOW + timedelta(days=25)).isoformat()
            start = time.perf_counter()
            result = retier(str(folder / "corpus"), as_of=later)
            seconds = time.perf_counter() - start
            start = time.perf_counter()
            again = retier(str(folder / "corpus"), as_of=later)
            nothing = time.perf_counter() - start
            once_more = run(config.replace(sources=(part,), out=str(folder / "again"), tiers=fixed))
            beside = (alone.total_seconds + once_more.total_seconds) / 2
        now = _hashes(folder / "corpus")
        old_snapshot, new_snapshot = list_versions(str(folder / "corpus"))
    assert result.due == alone.fresh.pages_committed and not again.due, (result, alone)
    return {
        "codec": f"{prepared.codec} {prepared.revision}",
        "grid": str(prepared.layout),
        "pages": base.fresh.pages_committed,
        "aged_pages": result.due,
        "spread": spread,
        "shards_touched": f"{result.shards_touched} of {result.shards}",
        "shards_shared": f"{new_snapshot.shards_shared} of {new_snapshot.shards}",
        "bytes_new": f"{new_snapshot.bytes_new} of {new_snapshot.bytes}",
        "files_of_the_old_snapshot_unchanged": f"{sum(now.get(key) == value for key, value in before.items())} of {len(before)}",
        "tiers_before": old_snapshot.tiers,
        "tiers_now": new_snapshot.tiers,
        "retier_seconds": round(seconds, 3),
        "run_alone_seconds": round(beside, 3),
        "ratio": round(seconds / beside, 3),
        "bar": BAR,
        "passed": seconds <= BAR * beside,
        "second_retier_seconds": round(nothing, 3),
        "rows": [
            {
                "what": "run over a few of them, to warm up",
                "seconds": warm.total_seconds,
                "pages": warm.fresh.pages_committed,
            },
            {
                "what": "run over the aged part alone",
                "seconds": alone.total_seconds,
                "pages": alone.fresh.pages_committed,
            },
            {"what": "re-tiering the whole corpus", "seconds": round(seconds, 3), "pages": result.due},
            {
                "what": "run over the aged part alone, after it",
                "seconds": once_more.total_seconds,
                "pages": once_more.fresh.pages_committed,
            },
            {"what": "re-tiering it once more", "seconds": round(nothing, 3), "pages": again.due},
        ],
        "notes": [
            "Both sides run in one Ray that was started before; planning and loading of models are part of both.",
            "The run alone is measured before and after the re-tiering, and it is compared with their mean: where the two "
            "differ much, something else ran on the machine, and the ratio says little.",
        ],
        "config": configs.to_json(config),
        "machine": machine(),
    }


def _write(folder: Path, name: str, texts: list[str], numbers: list[int], old: set[int]) -> str:
    """Documents as JSON lines, the old ones ten days before NOW, the others new; returns the file."""
    folder.mkdir(exist_ok=True)
    dates = {True: NOW - timedelta(days=10), False: NOW}
    lines = [json.dumps({"id": str(n), "text": texts[n], "timestamp": dates[n in old].isoformat()}) for n in numbers]
    (folder / name).write_text("\n".join(lines) + "\n", "utf-8")
    return str(folder / name)


def _hashes(corpus: Path) -> dict[str, str]:
    """SHA-256 of all files of a corpus but those of its runs."""
    files = (path for path in sorted(corpus.rglob("*")) if path.is_file())
    named = {str(path.relative_to(corpus)): path for path in files}
    return {key: hashlib.sha256(path.read_bytes()).hexdigest() for key, path in named.items() if not key.startswith("runs/")}
