"""The quarantine of a unit is the same object's worth of rows, whether it fitted into memory or not."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from palimpsest.corpus import quarantine_rows
from palimpsest.corpus.quarantine_rows import QuarantineRows
from palimpsest.corpus.shards import read_shard
from palimpsest.storage.local_store import LocalStore


def fill(rows: QuarantineRows, seed: int) -> QuarantineRows:
    order = list(range(50))
    random.Random(seed).shuffle(order)
    for number in order:
        reason = "invalid_json" if number % 3 else "unreadable"
        row = {"unit_id": "u", "source_uri": "s", "reason": reason, "detail": None, "record": f"{number:02d}".encode()}
        rows.append(row)
    return rows


def test_rows_beyond_the_bound_lie_on_disk_and_come_out_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    held = fill(QuarantineRows(), 1).write(store, unit_id="u", attempt="held")
    monkeypatch.setattr(quarantine_rows, "ROWS_IN_MEMORY", 7)
    spilled = [fill(QuarantineRows(), seed).write(store, unit_id="u", attempt=f"spilled{seed}") for seed in (2, 3)]
    assert held and all(spilled)
    assert spilled[0].sha256 == spilled[1].sha256  # type: ignore[union-attr]
    expected = read_shard(store, held, verify=True)
    for shard in spilled:
        assert shard and shard.rows == 50 and read_shard(store, shard, verify=True) == expected


def test_reasons_are_counted_and_a_row_of_each_is_at_hand() -> None:
    rows = QuarantineRows()
    assert (
        len(rows) == 0
        and rows.first({"unreadable"}) is None
        and rows.write(LocalStore("/nowhere"), unit_id="u", attempt="a") is None
    )
    fill(rows, 1)
    assert (len(rows), rows.reasons["unreadable"]) == (50, 17)
    row = rows.first({"unreadable", "vanished"})
    assert row is not None and row["reason"] == "unreadable" and rows.first({"vanished"}) is None
