"""How far a job is: shares, estimates and the line that shows them; and how a job is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from palimpsest.cli import progress as shown
from palimpsest.cli.progress import LiveLine, described
from palimpsest.config import to_toml
from palimpsest.corpus.units import CommitRecord
from palimpsest.errors import Stopped
from palimpsest.flow.ledger import InFlight, SourceUnit
from palimpsest.flow.plan import PlannedUnit
from palimpsest.operations import progress as module
from palimpsest.operations.progress import Progress
from palimpsest.schemas import PAGE_COUNTS
from palimpsest.sources.objects import SourceObject
from palimpsest.sources.units import Unit
from tests.conftest import JobFactory
from tests.mixed_sources import prose

UNIT_BYTES, PAGES, TEXT = 1000, 10, 80  # of a unit: stored bytes, pages, bytes of text of a page; a fifth of a source is no text


def written(pages: int) -> dict[str, object]:
    counts = dict.fromkeys(PAGE_COUNTS, 0) | {"pages": pages, "first_pages": pages, "text_bytes": pages * TEXT}
    return {"kind": "written", "counts": counts}


def unit() -> SourceUnit:
    item = SourceObject(uri="a", key="a", size=UNIT_BYTES, version="v")
    arrived = InFlight()
    arrived.counts.update({"pages": PAGES, "text_bytes": PAGES * TEXT})
    return SourceUnit(PlannedUnit(unit=Unit(object=item), unit_id="u", bytes=UNIT_BYTES), "f", arrived)


def test_the_estimate_is_good_after_a_fifth_of_the_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty seconds of starting up, then a page a second: the start must not count, nor what of a source is no text."""
    now = 1000.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    units = 10
    progress = Progress(units_total=units, bytes_total=units * UNIT_BYTES, began=now)
    assert progress.share == 0 and progress.seconds_left is None and progress.estimated_pages is None
    now += 20
    record = CommitRecord.__new__(CommitRecord)
    for page in range(1, units * PAGES + 1):
        now += 1
        progress.arrived(written(1))
        if page % PAGES == 0:
            progress.committed(unit(), record)
        left = units * PAGES - page
        if page >= units * PAGES // 5 and left:
            assert progress.seconds_left is not None and left / 1.5 <= progress.seconds_left <= left * 1.5
            assert progress.estimated_pages is not None and abs(progress.estimated_pages - units * PAGES) <= 5
    assert progress.share == 1.0
    progress.stages = lambda: {"encode": {"rows": 120.0}}
    assert described(progress) == "100 of about 100 pages  1.0 pages/s  10/10 units committed  (120 encoded)"


def test_verified_pages_count_before_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard gathers many pages, and the time left cannot wait for it; what the executor did before is of another job."""
    now, verified = 1000.0, {"pages": 500, "text_bytes": 500 * TEXT}
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    progress = Progress(units_total=10, bytes_total=100 * TEXT, began=now, stages=lambda: {"verify": verified})
    progress.look()
    assert progress.share == 0 and progress.seconds_left is None and progress.rate == 0
    now += 20
    for page in range(1, 11):
        now += 2
        verified = {"pages": 500 + page, "text_bytes": (500 + page) * TEXT}
        progress.look()
        assert progress.pages_done == page and progress.estimated_pages == 100
        assert page == 1 or (progress.rate, progress.seconds_left) == (pytest.approx(0.5), pytest.approx(2 * (100 - page)))
    assert described(progress).startswith("0 of about 100 pages  0.5 pages/s  0/10 units committed  about 3 min 00 s left")
    with pytest.raises(Stopped, match="repeats 10 pages"), progress.stoppable():
        raise KeyboardInterrupt
    progress.again(unit())  # with 10 pages that never arrived here: the workers' counts go on, and what they did is done again
    assert progress.pages_done == progress.pages


def test_pages_that_are_known_beforehand_are_no_estimate() -> None:
    progress = Progress(pages_total=40)
    progress.read(10)
    assert progress.share == 0.25 and described(progress).startswith("10 of 40 pages")


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_says_what_is_kept_and_what_is_repeated(stop: signal.Signals, job: JobFactory, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in range(40):
        lines = [json.dumps({"text": prose(20_000, 100 * name + number)}) for number in range(3)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    preset = tmp_path / "job.toml"
    preset.write_text(to_toml(job(folder, out, "placement.render_batch=4", "placement.shard_batch=4")))
    command = [sys.executable, "-m", "palimpsest.cli", "run", str(preset)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})
    try:
        deadline = time.monotonic() + 300
        while not any((out / "_units").glob("*.json")) and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        child.send_signal(stop)
        _, errors = child.communicate(timeout=400)
    finally:
        child.kill()
    assert child.returncode == 1, errors
    last = errors.strip().splitlines()[-1]
    assert "stopped with" in last and "of 40 units committed" in last and "repeats" in last, errors
    assert "Traceback" not in errors
    assert len(list((out / "_units").glob("*.json"))) >= 1


def test_a_heartbeat_repeats_what_was_shown_last(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A command that shows its own lines, such as training, has not gone back to its start when a beat is due."""
    monkeypatch.setattr(shown, "BEAT", 0.1)
    monkeypatch.setattr(shown, "REDRAW", 0.02)
    with LiveLine("training") as line:
        line.show("step 5/10", 5, 10)
        time.sleep(0.4)
    lines = [text.split(" s  ")[1] for text in capsys.readouterr().err.splitlines()]
    assert len(lines) > 2 and set(lines) == {"step 5/10"}
