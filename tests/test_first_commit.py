"""The measurement of a job's first minutes reads the lines and the commits right (tests/first_commit.py)."""

from __future__ import annotations

from tests.first_commit import measured, seconds_left

LINES = [
    (8.1, "     8 s  starting"),
    (16.2, "    16 s  0 of about 1,000 pages  2.0 pages/s  0/2 units committed  about 8 min 20 s left  (10 verified)"),
    (28.2, "    28 s  128 of about 1,000 pages  2.0 pages/s  0/2 units committed  about 6 min 40 s left  (200 verified)"),
    (30.0, "12:00:01 unit_committed pages=500"),
]


def test_what_was_seen_is_measured() -> None:
    found = measured(LINES, [90.0, 200.5], 428.2)
    assert found["seconds to the first heartbeat"] == 8.1 and found["seconds between heartbeats, at most"] == 12.0
    assert found["seconds to the first time left"] == 16.2
    assert (found["seconds to the first commit"], found["seconds from commit to commit, at most"]) == (90.0, 110.5)
    assert found["time left said / time left"] == {"20%": 1.0}  # 400 s said at 28.2 of 428.2


def test_a_stopped_run_has_no_end() -> None:
    found = measured(LINES[:1], [], None)
    assert found["seconds to the first time left"] is None and found["seconds to the first commit"] is None
    assert "seconds in all" not in found


def test_every_form_of_a_duration_is_read() -> None:
    assert [seconds_left(f"about {text} left") for text in ("52 s", "2 min 02 s", "1 h 05 min")] == [52, 122, 3900]
