"""Rendering, encoding and verifying at the same time: pages/s of one process on one device, and how long the device waits."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from pipeline.bench.planting import plant_errors

ERRORS = 0.03
AHEAD = 2  # batches that wait between two threads


def overlapped(bench: Any) -> dict[str, Any]:
    """Run the three in threads for a while after a warm-up.

    The drafts are what the decoder is going to write, with 3 % of errors; every output is compared with that.
    """
    codec = bench.codec
    mode = codec.mode("tiny" if bench.tiny else "small")
    step, length = (2, 24) if bench.tiny else (codec.fast_encoder.batch(mode.px) if codec.fast_encoder else 32, 480)
    seconds = 0.5 if bench.tiny else 20.0
    draw_pages, what = _page_source(mode.px, step, bench)
    wanted, drafts, prompts = _drafts(bench, mode, step, length)

    def run(limit: float) -> tuple[int, float, int]:
        """Pages verified, seconds, and pages whose output is what it should be."""
        with _Line(draw_pages, lambda images: _encoded(codec, images, mode)) as line:
            line.get()  # both threads are at work
            start, pages, right = time.perf_counter(), 0, 0
            while not pages or time.perf_counter() - start < limit:
                features = line.get()
                read = _verified(codec, features, prompts, drafts, length)
                pages += len(read)
                right += sum(list(page.ids) == ids for page, ids in zip(read, wanted, strict=True))
            bench.sync()
            return pages, time.perf_counter() - start, right

    run(0.0)
    pages, spent, right = run(seconds)
    busy = _busy_share(bench, lambda: run(min(3.0, seconds)))
    parts = _apart(bench, draw_pages, codec, mode, prompts, drafts, length)
    return {
        "pipeline": [
            {
                "mode": mode.name,
                "pages": what,
                "batch": step,
                "tokens_per_page": length,
                "planted_errors": f"{ERRORS:.0%}",
                "pages_per_second": pages / spent,
                "right": f"{right} of {pages}",
                **parts,
                "device_idle_share": None if busy is None else 1 - busy,
            }
        ]
    }


class _Line:
    """Two threads behind each other, each some batches ahead of the next; an error in one comes out of `get`."""

    def __init__(self, draw: Callable[[], Any], encode: Callable[[Any], Any]) -> None:
        self._images: queue.Queue[Any] = queue.Queue(AHEAD)
        self._features: queue.Queue[Any] = queue.Queue(AHEAD)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(draw, None, self._images), daemon=True),
            threading.Thread(target=self._work, args=(encode, self._images, self._features), daemon=True),
        ]

    def __enter__(self) -> _Line:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def get(self) -> Any:
        """The next batch, encoded."""
        found = self._features.get(timeout=600)
        if isinstance(found, BaseException):
            raise found
        return found

    def _work(self, work: Callable[..., Any], source: queue.Queue[Any] | None, target: queue.Queue[Any]) -> None:
        while not self._stop.is_set():
            try:
                taken = [] if source is None else [source.get(timeout=0.2)]
                made = taken[0] if taken and isinstance(taken[0], BaseException) else work(*taken)
            except queue.Empty:
                continue
            except Exception as error:  # goes to whoever takes from the line
                made = error
            while not self._stop.is_set():
                try:
                    target.put(made, timeout=0.2)
                    break
                except queue.Full:
                    continue


def _encoded(codec: Any, images: Any, mode: Any) -> list[Any]:
    """Features of a batch, computed on a stream of this thread's own and ready when this returns."""
    import torch

    gpu = codec.device.type == "cuda"
    stream = torch.cuda.Stream(codec.device) if gpu else None
    with torch.cuda.stream(stream) if stream else nullcontext():
        features: list[Any] = codec.features(codec.encode(images, mode), mode)
    if stream:
        stream.synchronize()
    return features


def _verified(codec: Any, features: list[Any], prompts: list[Any], drafts: list[Any], length: int) -> list[Any]:
    from pipeline.verification.greedy import decode
    from pipeline.verification.reading import DraftedPage

    pages = [
        DraftedPage(features=f, prompt_ids=p, draft_ids=d, max_new_tokens=length)
        for f, p, d in zip(features, prompts, drafts, strict=True)
    ]
    return decode(codec, pages, image_inputs=codec.image_inputs)


def _drafts(bench: Any, mode: Any, count: int, length: int) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    """What the decoder is going to write, the drafts, and the prompts."""
    from pipeline.codecs.full_size import chain, prompt

    prompts = [prompt(bench.codec, mode, page) for page in range(count)]
    wanted = [chain(bench.codec, ids, length) for ids in prompts]
    draw, choices = random.Random(1), sorted({token for ids in wanted for token in ids})
    return wanted, [plant_errors(ids, ERRORS, choices, draw) for ids in wanted], prompts


def _page_source(px: int, count: int, bench: Any) -> tuple[Callable[[], Any], str]:
    """What draws a batch of pages, and what they are."""
    try:
        from pipeline.bench.texts import bench_pages
        from pipeline.pages.grid import Grid
        from pipeline.pages.pagination import render

        grid = Grid(64, 32)
        made = [page for _, page in bench_pages(count, grid)]
        return lambda: render(made, grid, px), f"rendered, {grid}"
    except ImportError as error:
        from pipeline.bench.gpu import _noise

        bench.notes.append(f"pages are noise, not rendered: {error}")
        return lambda: _noise(count, px), "noise"


def _apart(bench: Any, draw: Any, codec: Any, mode: Any, prompts: Any, drafts: Any, length: int) -> dict[str, float]:
    """Pages per second of each of the three alone."""
    images = draw()
    features = _encoded(codec, images, mode)
    seconds = 0.0 if bench.tiny else 2.0
    alone = {
        "render": bench.timed(draw, seconds)[0],
        "encode": bench.timed(lambda: codec.encode(images, mode), seconds)[0],
        "verify": bench.timed(lambda: _verified(codec, features, prompts, drafts, length), seconds)[0],
    }
    return {f"{name}_alone_pages_per_second": len(images) / spent for name, spent in alone.items()}


def _busy_share(bench: Any, work: Callable[[], Any]) -> float | None:
    """Share of the time in which at least one kernel or copy runs on the device; None without a GPU or a profiler."""
    if not bench.gpu:
        return None
    from torch.profiler import ProfilerActivity, profile

    try:
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            work()
        spans = sorted((e.time_range.start, e.time_range.end) for e in profiled.events() if "cuda" in str(e.device_type).lower())
    except RuntimeError as error:
        bench.notes.append(f"no idle share: {error}")
        return None
    if not spans:
        bench.notes.append("no idle share: the profiler saw no kernels")
        return None
    busy, end = 0.0, spans[0][0]
    for first, last in spans:
        busy += max(0.0, last - max(first, end))
        end = max(end, last)
    return busy / (end - spans[0][0])
