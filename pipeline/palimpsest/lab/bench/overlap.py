"""Rendering, encoding and verifying at the same time: pages/s of one process on one device, and how long the device waits."""

from __future__ import annotations

import queue
import random
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from palimpsest.lab.bench.drafted import EncodedPages
from palimpsest.lab.bench.planting import plant_errors

ERRORS = 0.03
AHEAD = 2  # batches that wait between two threads
VERIFIERS = 2  # threads that verify: one prepares its next pass while the device computes the other's
JOIN_S = 20.0
WINDOW_S = 2.0  # what the profiler looks at: some ten thousand kernels


def overlapped(bench: Any) -> dict[str, Any]:
    """Run the three in threads for a while after a warm-up.

    The drafts are what the decoder is going to write, with 3 % of errors; every output is compared with that.
    """
    codec = bench.codec
    mode = codec.mode("tiny" if bench.tiny else "small")
    most, length = (
        (2, 24) if bench.tiny else (2 * (codec.encoder.fast_encoder.batch(mode.px) if codec.encoder.fast_encoder else 32), 480)
    )

    def prepared(step: int) -> tuple[Any, str, Any, Any, Any]:
        """Everything once in this thread: whatever is compiled or captured is, before others use the device."""
        draw, what = _page_source(mode.px, step, bench)
        expected, drafts, prompts = _drafts(bench, mode, step, length)
        EncodedPages(codec, _encoded(codec, draw(), mode), prompts, length).draft(drafts)
        bench.sync()
        return draw, what, expected, drafts, prompts

    step, (draw, what, expected, drafts, prompts) = bench.fitting(most, prepared, "render, encode, verify, pages,")
    line = _Line(
        codec.device,
        (lambda _: draw(), 1),
        (lambda images: _encoded(codec, images, mode), 1),
        (lambda features: EncodedPages(codec, features, prompts, length).draft(drafts), VERIFIERS if bench.gpu else 1),
    )
    row: dict[str, Any] = {
        "mode": mode.name,
        "pages": what,
        "batch": step,
        "tokens_per_page": length,
        "planted_errors": f"{ERRORS:.0%}",
        "verifying_threads": VERIFIERS if bench.gpu else 1,
    }
    with line:
        for _ in range(VERIFIERS):
            line.get()  # all threads are at work
        sampler = _Sampler(bench)
        start, pages, right = time.perf_counter(), 0, 0
        while not pages or time.perf_counter() - start < (0.5 if bench.tiny else min(15.0, 0.4 * bench.left)):
            read = line.get()
            pages += len(read)
            right += sum(list(page.ids) == ids for page, ids in zip(read, expected, strict=True))
        spent = time.perf_counter() - start
        sampled = sampler.busy_share()
        row |= {"pages_per_second": pages / spent, "right": f"{right} of {pages}"}
        row |= {f"{name}_alone_pages_per_second": None for name in ("render", "encode", "verify")}
        row |= {"device_idle_share": None, "idle_share_by_driver_samples": None if sampled is None else 1 - sampled}
        bench.keep({"pipeline": [row]})
        busy = _busy_share(bench, line.get)
    row["device_idle_share"] = None if busy is None else 1 - busy
    bench.keep({"pipeline": [row]})
    row |= _apart(bench, draw, codec, mode, prompts, drafts, length)
    if row["render_alone_pages_per_second"]:
        row["render_cores_per_device"] = row["pages_per_second"] / row["render_alone_pages_per_second"]
    return {"pipeline": [row]}


class _Line:
    """Threads behind each other, each some batches ahead of the next, on a stream of its own; an error comes out of `get`.

    Args:
        device: where they compute.
        stages: what a stage does with what the one before it made, and in how many threads.
    """

    def __init__(self, device: Any, *stages: tuple[Callable[[Any], Any], int]) -> None:
        self._device = device
        self._queues: list[queue.Queue[Any]] = [queue.Queue(AHEAD) for _ in stages]
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(work, self._queues[number - 1] if number else None, made), daemon=True)
            for number, ((work, count), made) in enumerate(zip(stages, self._queues, strict=True))
            for _ in range(count)
        ]

    def __enter__(self) -> _Line:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        end = time.perf_counter() + JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, end - time.perf_counter()))

    def get(self) -> Any:
        """The next batch of the last stage."""
        found = self._queues[-1].get(timeout=600)
        if isinstance(found, BaseException):
            raise found
        return found

    def _work(self, work: Callable[[Any], Any], source: queue.Queue[Any] | None, target: queue.Queue[Any]) -> None:
        import torch

        with ExitStack() as stack:
            if self._device.type == "cuda":
                stack.enter_context(torch.cuda.stream(torch.cuda.Stream(self._device)))
            while not self._stop.is_set():
                try:
                    taken = None if source is None else source.get(timeout=0.2)
                    made = taken if isinstance(taken, BaseException) else work(taken)
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
    """Features of a batch, ready on the device when this returns."""
    import torch

    features: list[Any] = codec.features(codec.encode(images, mode), mode)
    if codec.device.type == "cuda":
        torch.cuda.current_stream(codec.device).synchronize()
    return features


def _drafts(bench: Any, mode: Any, count: int, length: int) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    """The ids that the decoder is going to write, the drafts, and the prompts."""
    from palimpsest.lab.full_size import chain, prompt

    prompts = [prompt(bench.codec, mode, page) for page in range(count)]
    expected = [chain(bench.codec, ids, length) for ids in prompts]
    draw, choices = random.Random(1), sorted({token for ids in expected for token in ids})
    return expected, [plant_errors(ids, ERRORS, choices, draw) for ids in expected], prompts


def _page_source(px: int, count: int, bench: Any) -> tuple[Callable[[], Any], str]:
    """A function that draws a batch of pages, and what they are."""
    try:
        from palimpsest.lab.bench.texts import bench_pages
        from palimpsest.pages.layouts.grid import Grid

        grid = Grid(64, 32)
        made = bench_pages(count, grid)
        texts, drawings = [text for text, _ in made], [page.drawing for _, page in made]
        grid.render(texts[:1], drawings[:1], px)
        return lambda: grid.render(texts, drawings, px), f"rendered, {grid}"
    except Exception as error:  # a machine without a library or a font still measures the rest
        from palimpsest.lab.bench.gpu_encode import noise

        bench.notes.append(f"pages are noise, not rendered: {type(error).__name__}: {error}")
        return lambda: noise(count, px), "noise"


def _apart(bench: Any, draw: Any, codec: Any, mode: Any, prompts: Any, drafts: Any, length: int) -> dict[str, float]:
    """Pages per second of each of the three alone."""
    images = draw()
    features = _encoded(codec, images, mode)
    seconds = 0.0 if bench.tiny else 1.5
    alone = {
        "render": bench.timed(draw, seconds)[0],
        "encode": bench.timed(lambda: codec.encode(images, mode), seconds)[0],
        "verify": bench.timed(lambda: EncodedPages(codec, features, prompts, length).draft(drafts), seconds)[0],
    }
    return {f"{name}_alone_pages_per_second": len(images) / spent for name, spent in alone.items()}


class _Sampler:
    """The driver's own figure, ten times a second: the share of its last period in which a kernel ran."""

    def __init__(self, bench: Any) -> None:
        self._bench, self._process = bench, None
        if not bench.gpu:
            return
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100"]
        try:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        except OSError as error:
            bench.notes.append(f"no driver samples: {error}")

    def busy_share(self) -> float | None:
        """The mean since the start; None where the driver says nothing."""
        if self._process is None:
            return None
        self._process.terminate()
        try:
            output, _ = self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            output = ""
        shares = [float(line) / 100 for line in output.split() if line.strip().isdigit()]
        if not shares:
            self._bench.notes.append("no driver samples: nvidia-smi names no utilisation")
            return None
        return sum(shares) / len(shares)


def _busy_share(bench: Any, work: Callable[[], Any]) -> float | None:
    """Share of a window of time in which at least one kernel or copy runs on the device; None without a GPU or a profiler."""
    if not bench.gpu:
        return None
    try:
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            end = time.perf_counter() + WINDOW_S
            while time.perf_counter() < end:
                work()
        spans = sorted(
            (event.time_range.start, event.time_range.end)
            for event in profiled.events()
            if "cuda" in str(event.device_type).lower() and not getattr(event, "is_user_annotation", False)
        )
    except Exception as error:  # a profiler that the machine does not allow is no reason to lose the figures
        bench.notes.append(f"no idle share: {type(error).__name__}: {error}")
        return None
    if not spans:
        bench.notes.append("no idle share: the profiler saw no kernels")
        return None
    busy, end = 0.0, spans[0][0]
    for first, last in spans:
        busy += max(0.0, last - max(first, end))
        end = max(end, last)
    return busy / (end - spans[0][0])
