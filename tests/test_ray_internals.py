"""The parts of Ray that are no public API, in the Ray that is installed (flow/ray_internals.py)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from palimpsest.flow.ray_internals import KeyValues, task_attempt

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_session")]


def test_values_are_shared_by_the_keys_of_a_run_and_outlive_their_writer() -> None:
    import ray

    mine, other = KeyValues("palimpsest contract "), KeyValues("palimpsest another ")

    @ray.remote(num_cpus=0.1)
    def write() -> int:
        KeyValues("palimpsest contract ").put("task", b"\x00written")
        return os.getpid()

    assert ray.get(write.remote()) != os.getpid()
    mine.put("driver", b"1")
    mine.put("driver", b"2")
    other.put("driver", b"3")
    assert mine.get("task") == b"\x00written" and mine.get("nobody") is None
    assert sorted(mine.values()) == [b"\x00written", b"2"]
    mine.clear()
    assert list(mine.values()) == [] and other.get("driver") == b"3"
    other.clear()


def test_a_task_knows_how_often_it_was_tried(tmp_path: Path) -> None:
    import ray

    @ray.remote(num_cpus=0.1, max_retries=3)
    def dies_twice(folder: str) -> list[int]:
        attempt = task_attempt()
        (Path(folder) / f"{attempt}").touch()
        if attempt < 2:
            os._exit(1)
        return sorted(int(path.name) for path in Path(folder).iterdir())

    assert ray.get(dies_twice.remote(str(tmp_path))) == [0, 1, 2]
