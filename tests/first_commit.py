"""The first minutes of a job: python -m tests.first_commit --megabytes 20 --write docs/results

Writes invented prose as JSON lines and runs the preset `local` over it, stderr in a pipe. Measures when the first heartbeat,
the first time left and the first commit are there, how long it is from commit to commit, and how far off the time left is.
`--units 4` stops the run, as a scheduler would (SIGTERM), when so many units are committed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.mixed_sources import prose
from tests.paths import PYTHONPATH

CHARACTERS = 4000  # of a document
SHARES = (0.2, 0.4, 0.6, 0.8)
BEAT = re.compile(r" *\d+ s  (?P<what>starting|[\d,]+(?: of (?:about )?(?P<total>[\d,]+))? pages  .*)")
LEFT = re.compile(r"about (?:(\d+) h )?(?:(\d+) min )?(?:(\d+) s )?left")
VERIFIED = re.compile(r"([\d,]+) verified")

Line = tuple[float, str]
"""Seconds since the command was started, and a line that it printed."""


def seconds_left(line: str) -> float | None:
    found = LEFT.search(line)
    return sum(int(part or 0) * unit for part, unit in zip(found.groups(), (3600, 60, 1), strict=True)) if found else None


def measured(lines: Sequence[Line], commits: Sequence[float], finished: float | None) -> dict[str, Any]:
    """What the lines and the commits of a run show.

    Args:
        commits: seconds since the start at which units were committed, sorted.
        finished: seconds until the end; None for a run that was stopped.
    """
    beats = [(at, line) for at, line in lines if BEAT.fullmatch(line.rstrip())]
    lefts = [(at, line, left) for at, line in beats if (left := seconds_left(line)) is not None]
    between = [later - earlier for earlier, later in zip((0.0, *commits), commits, strict=False)]
    found: dict[str, Any] = {
        "seconds to the first heartbeat": round(beats[0][0], 1) if beats else None,
        "seconds between heartbeats, at most": round(
            max((b[0] - a[0] for a, b in zip(beats, beats[1:], strict=False)), default=0), 1
        ),
        "seconds to the first time left": round(lefts[0][0], 1) if lefts else None,
        "seconds to the first commit": round(commits[0], 1) if commits else None,
        "seconds from commit to commit, at most": round(max(between[1:], default=0), 1),
        "units committed": len(commits),
    }
    if finished is not None:
        found["seconds in all"] = round(finished, 1)
        found["time left said / time left"] = _factors(lefts, finished)
    return found


def _factors(lefts: Sequence[tuple[float, str, float]], finished: float) -> dict[str, float]:
    factors = {}
    for share in SHARES:
        for at, line, left in lefts:
            beat, verified = BEAT.fullmatch(line.rstrip()), VERIFIED.search(line)
            if beat and beat["total"] and verified and _number(verified[1]) >= share * _number(beat["total"]):
                factors[f"{share:.0%}"] = round(left / (finished - at), 2)
                break
    return factors


def _number(text: str) -> int:
    return int(text.replace(",", ""))


def run(source: Path, out: Path, units: int | None) -> dict[str, Any]:
    """Run `palimpsest run local`, to its end or until `units` units are committed."""
    command = [sys.executable, "-m", "palimpsest.cli", "run", "local", "--source", str(source), "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    began, wall = time.monotonic(), time.time()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    lines: list[Line] = []
    assert child.stdout is not None
    follow = threading.Thread(target=lambda: lines.extend((time.monotonic() - began, line) for line in child.stdout or ()))
    follow.start()
    stopped = False
    while child.poll() is None:
        time.sleep(0.2)
        if units and not stopped and len(list((out / "_units").glob("*.json"))) >= units:
            stopped = True
            child.send_signal(signal.SIGTERM)
    follow.join()
    ended = time.monotonic() - began
    commits = sorted(path.stat().st_mtime - wall for path in (out / "_units").glob("*.json"))
    found = measured(lines, commits, None if stopped else ended)
    return {**found, "exit code": child.returncode, "last line": next((line for _, line in reversed(lines) if line.strip()), "")}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--megabytes", type=float, default=20.0)
    parser.add_argument("--units", type=int, help="stop when so many are committed")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "texts.jsonl")
        with source.open("w") as file:
            for number in range(round(options.megabytes * 1e6 / CHARACTERS)):
                file.write(json.dumps({"id": str(number), "text": prose(CHARACTERS, number)}) + "\n")
        load = os.getloadavg()[0]
        result = run(source, Path(folder, "out"), options.units)
    result = {"megabytes": options.megabytes, "load before and after": f"{load:.1f}, {os.getloadavg()[0]:.1f}", **result}
    print(json.dumps(result, indent=1))
    if options.write:
        from palimpsest.lab.bench.machine import write_results

        stopped = f" --units {options.units}" if options.units else ""
        command = f"python -m tests.first_commit --megabytes {options.megabytes:g}{stopped}"
        print(write_results("first-minutes", result, options.write, command=command))


if __name__ == "__main__":
    main()
