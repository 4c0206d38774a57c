"""Batch sizes: the probe, and what happens when a device's memory does not suffice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from palimpsest import telemetry
from palimpsest.config import JobConfig, parse
from palimpsest.flow.batching import Batches, Size, TooLittleMemory
from palimpsest.flow.stages import Encode, Paginate, Render, Verify
from palimpsest.pages.layouts.grid import Grid
from palimpsest.schemas import DOCUMENTS
from palimpsest.telemetry import Metric
from palimpsest.tiers.policies.protocol import policy_of


class Device:
    """A model that costs time, and has memory for so many items at once."""

    def __init__(self, fixed: float, each: float, room: int = 10**9) -> None:
        self.fixed, self.each, self.room = fixed, each, room
        self.now = 0.0
        self.calls: list[int] = []

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.calls.append(len(items))
        self.now += self.fixed + self.each * len(items)
        if len(items) > self.room:
            raise torch.OutOfMemoryError(f"tried to allocate {len(items)} GiB")
        return [-item for item in items]

    def batches(self, most: int, *, grows: bool = True) -> Batches:
        return Batches("encode", most, grows, clock=lambda: self.now)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, dict[str, str]]]:
    found: list[tuple[str, float, dict[str, str]]] = []

    def sink(name: str, metric: Metric, value: float, labels: dict[str, str]) -> None:
        found.append((name, value, labels))

    monkeypatch.setattr(telemetry, "_sinks", [sink])
    return found


def test_a_batch_grows_as_long_as_it_makes_a_page_cheaper() -> None:
    device = Device(fixed=7.0, each=1.0)  # 16 pages at once cost 23, 32 cost 39: 1.18 times the rate; 64 cost 71: 1.10; 128: 1.05
    batches = device.batches(most=64)
    items = list(range(2000))
    assert list(batches.over("base", items, device)) == [-item for item in items]
    assert device.calls[:6] == [1, 1, 1, 2, 2, 2]
    assert batches.sizes["base"].pages == 64 and batches.sizes["base"].settled
    assert max(device.calls) == 64


def test_a_batch_stops_growing_where_nothing_is_gained() -> None:
    device = Device(fixed=1.0, each=1.0)  # rates 0.5, 0.67, 0.8, 0.89, 0.94, 0.97: from 16 to 32 pages it is 1.03 times
    batches = device.batches(most=1024)
    assert len(list(batches.over("base", range(500), device))) == 500
    assert batches.sizes["base"].pages == 16
    assert device.calls[-2] == 16


def test_each_kind_has_a_size_of_its_own() -> None:
    fast, slow = Device(fixed=100.0, each=1.0), Device(fixed=0.0, each=1.0)
    batches = Batches("encode", 8, True, clock=lambda: fast.now + slow.now)
    list(batches.over("tiny", range(100), fast))
    list(batches.over("large", range(100), slow))
    assert {kind: size.pages for kind, size in batches.sizes.items()} == {"tiny": 8, "large": 1}


def test_a_small_batch_says_nothing_about_its_size() -> None:
    device = Device(fixed=7.0, each=1.0)
    batches = device.batches(most=8)
    for _ in range(3):
        list(batches.over("base", range(1), device))
    for _ in range(20):
        list(batches.over("base", range(1), device))  # a size of two is due, and never comes
    assert batches.sizes["base"].pages == 2 and not batches.sizes["base"].settled


def test_out_of_memory_halves_the_batch_says_so_and_goes_on(
    recorded: list[tuple[str, float, dict[str, str]]], capfd: pytest.CaptureFixture[str]
) -> None:
    device = Device(fixed=100.0, each=1.0, room=5)
    batches = device.batches(most=64)
    items = list(range(100))
    assert list(batches.over("base", items, device)) == [-item for item in items]
    assert device.calls.count(8) == 1  # tried once, never again
    assert batches.sizes["base"].pages == 4
    assert recorded == [("palimpsest_batches_halved", 1, {"stage": "encode"})]
    assert "batch_halved" in (said := capfd.readouterr().err) and "pages=8" in said and "now=4" in said
    drained = batches.drain()
    assert drained["halved"] == 1 and drained["model_pages"] == 100 and drained["model_seconds"] == device.now
    assert batches.drain() == {}


def test_memory_that_others_take_later_halves_a_settled_batch_too() -> None:
    device = Device(fixed=100.0, each=1.0)
    batches = device.batches(most=16)
    list(batches.over("base", range(200), device))
    device.room = 3
    assert list(batches.over("base", range(20), device)) == [-item for item in range(20)]
    assert batches.sizes["base"].pages == 2
    assert batches.drain()["halved"] == 3  # 16, 8, 4


def test_one_page_that_does_not_fit_is_an_error_that_says_what_helps() -> None:
    device = Device(fixed=0.0, each=1.0, room=0)
    with pytest.raises(TooLittleMemory, match=r"encode: one page alone .*placement\.gpus_per_worker"):
        list(device.batches(most=8).over("base", range(4), device))
    assert device.calls == [1]


def test_other_errors_pass() -> None:
    def work(items: Sequence[int]) -> list[int]:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        list(Batches("encode", 8, True).over("base", [1], work))


@pytest.fixture(scope="module")
def config(tiny_codec: Path) -> JobConfig:
    settings = {"share": 1.0, "control_share": 0.0}
    return parse(
        {"codec": {"path": str(tiny_codec)}, "verification": settings, "placement": {"encode_batch": 8, "verify_batch": 8}}
    )


@pytest.fixture(scope="module")
def images(config: JobConfig) -> pa.Table:
    grid = Grid.parse("64x32", "latin")
    row: dict[str, Any] = {"unit_id": "u", "kind": "document", "doc_id": "d" * 32, "text": "So it goes. " * 900}
    row |= {"source_uri": "s", "source_version": "v"}
    pages = pa.concat_tables(Paginate(config, grid, policy_of(config, grid, "")[1])(pa.Table.from_pylist([row], DOCUMENTS)))
    assert pages.num_rows == 6
    return Render(grid)(pages)


def short_of_memory(work: Callable[..., Any], room: int, sizes: list[int]) -> Callable[..., Any]:
    """The same work on a device with memory for `room` pages."""

    def limited(pages: Any, *rest: Any) -> Any:
        sizes.append(len(pages))
        if len(pages) > room:
            raise torch.OutOfMemoryError("no memory")
        return work(pages, *rest)

    return limited


def test_on_a_cpu_the_stages_take_one_page_at_a_time(
    config: JobConfig, images: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, sizes = Encode(config, "f" * 16), []  # type: ignore[var-annotated]
    monkeypatch.setattr(encode.codec, "encode", short_of_memory(encode.codec.encode, 100, sizes))
    encode(images)
    assert sizes == [1] * 6


def test_stages_that_run_out_of_memory_make_the_same_rows(
    config: JobConfig, images: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where several pages go at once: with memory for two of six, every page comes out, in order."""
    encode, verify = Encode(config, "f" * 16), Verify(config, "f" * 16)
    plain = verify(encode(images))
    for stage, owner, method in ((encode, encode.codec, "encode"), (verify, verify, "verdicts")):
        sizes: list[int] = []
        stage.batched = Batches("encode", 8, grows=True)
        stage.batched.sizes["tiny"] = Size(pages=6, most=8, settled=True)
        monkeypatch.setattr(owner, method, short_of_memory(getattr(owner, method), 2, sizes))
        again = verify(encode(images))
        assert sizes[:2] == [6, 3] and sizes[2:] == [1] * 6
        assert stage.batched.drain()["halved"] == 2
        for column in ("page_id", "decoded_text", "num_vision_tokens", "status"):
            assert again[column].to_pylist() == plain[column].to_pylist()
