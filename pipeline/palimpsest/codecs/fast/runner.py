"""`FastEncoder`: uint8 pages of one mode in, visual tokens out, as fast as the device allows.

On a GPU every mode has one static batch: a smaller call is filled up. The blocks are compiled, the whole pass is captured as a
CUDA graph, and the pages of the next batch are copied from pinned memory while one is computed. A page's tokens so depend neither
on its batch nor on its neighbours in the batch. On a CPU the pages are computed as they come, without compiling.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import gelu

from palimpsest.codecs.fast.bfloat16 import is_slow, linear
from palimpsest.codecs.fast.deepencoder import DeepEncoder, Plan, gelu_in_product, linear_gelu, plain_block, sam_block

STATIC_PLACES = 65_536  # patches of a static batch: 16 pages at 1024 px, enough to fill the matrix units of an H100
GPU_WAYS = ("tiled", "augmented-flash", "bias")  # the first that works is taken
VARIANTS = 64  # shapes that one function may be compiled for; PyTorch gives up at 8 and goes on uncompiled
CPU_WAYS = ("augmented-flash", "augmented-flash")  # over the page, inside windows
_log = logging.getLogger(__name__)


@dataclass
class _Slot:
    """One of two places where pages wait: pinned memory, its copy on the device, and who is done with them."""

    pinned: Tensor
    device: Tensor
    copied: Any
    used: Any


@dataclass
class _Captured:
    """One mode on a GPU."""

    run: Callable[[], Any]
    pages: Tensor
    tokens: Tensor
    slots: list[_Slot]
    turn: int = 0


@dataclass
class FastEncoder:
    """The encoder of one model on one device.

    Args:
        encoder: its weights and functions.
        compiled: compile the blocks (GPU only).
        graphs: capture the pass (GPU only).
        ways: attention over the page and inside windows, of `attention.WAYS`; None chooses by device.
        static_places: patches of a static batch on a GPU.

    Attributes:
        notes: requests that could not be met, with the reason.
        trusted: sizes in pixels at which `trust` has compared it.
    """

    encoder: DeepEncoder
    compiled: bool = True
    graphs: bool = True
    ways: tuple[str, str] | None = None
    static_places: int = STATIC_PLACES
    notes: list[str] = field(default_factory=list)
    trusted: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.device = self.encoder.patch.weight.device
        self.gpu = self.device.type == "cuda"
        self._plans: dict[int, Plan] = {}
        self._captured: dict[int, _Captured] = {}
        self._most: dict[int, int] = {}  # pages of a static batch that memory sufficed for, by px, where it did not for more
        if self.gpu:
            self._copies = torch.cuda.Stream(self.device)
        self.chosen = self.ways or (self._choose() if self.gpu else CPU_WAYS)
        if self.gpu:
            self._fuse_activation()
        if self.gpu and self.compiled:
            self._compile()

    @property
    def description(self) -> str:
        """One line for the run record: what this encoder does."""
        parts = [
            f"attention {self.chosen[0]}"
            if self.chosen[0] == self.chosen[1]
            else f"attention {self.chosen[0]}, windows {self.chosen[1]}"
        ]
        if self.gpu:
            parts += ["compiled"] * self.compiled + ["CUDA graphs"] * self.graphs
        return f"fast ({', '.join(parts + self.notes)})"

    def batch(self, px: int) -> int:
        """Pages of a static batch of `px` pixels: a power of two, so that blocks of pages fill whole batches."""
        fitting = max(1, self.static_places // (px // self.encoder.config.patch_size) ** 2)
        return min(1 << fitting.bit_length() - 1, self._most.get(px, fitting))

    @torch.no_grad()
    def encode(self, images: np.ndarray, px: int) -> Tensor:
        """Visual tokens `[n, tokens, D]` in the model's dtype of gray pages, uint8 `[n, px, px]`."""
        if not self.gpu:
            return self._forward(torch.from_numpy(images), px)
        captured = self._captured.get(px) or self._captured_as_fits(px)
        step = len(captured.pages)
        tokens = torch.empty(len(images), *captured.tokens.shape[1:], dtype=captured.tokens.dtype, device=self.device)
        for start in range(0, len(images), step):
            some = torch.from_numpy(images[start : start + step])
            self._bring(captured, some)
            captured.run()
            tokens[start : start + len(some)].copy_(captured.tokens[: len(some)])
        return tokens

    def trust(self, page: np.ndarray, px: int, plain: Tensor) -> float:
        """Mean difference of a page's tokens from transformers' `plain` ones, over their mean size."""
        found = self.encode(page, px).float()
        self.trusted.add(px)
        return float((found - plain.float()).abs().mean() / plain.float().abs().mean())

    def _forward(self, pages: Tensor, px: int) -> Tensor:
        if px not in self._plans:
            self._plans[px] = self.encoder.plan(px)
        return self.encoder.forward(pages, self._plans[px], *self.chosen)

    def _bring(self, captured: _Captured, some: Tensor) -> None:
        """Copy pages to where the captured pass reads them, while another batch is computed."""
        slot = captured.slots[captured.turn % 2]
        captured.turn += 1
        slot.copied.synchronize()  # the last copy out of this pinned memory
        slot.pinned[: len(some)].copy_(some)
        with torch.cuda.stream(self._copies):
            self._copies.wait_event(slot.used)
            slot.device.copy_(slot.pinned, non_blocking=True)
            slot.copied.record(self._copies)
        current = torch.cuda.current_stream(self.device)
        current.wait_event(slot.copied)
        captured.pages.copy_(slot.device)
        slot.used.record(current)

    def _captured_as_fits(self, px: int) -> _Captured:
        """`_capture`, with half the static batch as long as memory does not suffice: a smaller call would be filled up to it."""
        while True:
            try:
                return self._capture(px)
            except torch.OutOfMemoryError as error:
                if (pages := self.batch(px)) == 1:
                    raise
                self._note(f"out of memory: {pages // 2} pages of {px} px at a time, not {pages}", error)
                self._most[px] = pages // 2
            if self.gpu:
                torch.cuda.empty_cache()  # here, where the error and what its frames held are gone

    def _capture(self, px: int) -> _Captured:
        pages = torch.full((self.batch(px), px, px), 255, dtype=torch.uint8, device=self.device)
        try:
            tokens = self._warm(pages, px)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:
            if not self.compiled:
                raise
            self._note("not compiled", error)
            self.give_up_compiling()
            tokens = self._warm(pages, px)
        run = self._graph(pages, px) if self.graphs else None
        if run is None:
            tokens = torch.empty_like(tokens)

            def run_plain() -> None:
                tokens.copy_(self._forward(pages, px))

            replay: Callable[[], Any] = run_plain
        else:
            replay, tokens = run
        slots = [
            _Slot(
                self._pinned(pages),
                torch.empty_like(pages),
                torch.cuda.Event(),
                torch.cuda.Event(),
            )
            for _ in range(2)
        ]
        self._captured[px] = _Captured(replay, pages, tokens, slots)
        return self._captured[px]

    def _pinned(self, pages: Tensor) -> Tensor:
        waiting = torch.empty_like(pages, device="cpu")
        try:
            return waiting.pin_memory()
        except RuntimeError as error:
            self._note("no pinned memory", error)
            return waiting

    def _warm(self, pages: Tensor, px: int) -> Tensor:
        """Compiles, and lets libraries allocate what must not be allocated while capturing."""
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for _ in range(2):
                tokens = self._forward(pages, px)
        torch.cuda.current_stream(self.device).wait_stream(side)
        return tokens

    def _graph(self, pages: Tensor, px: int) -> tuple[Callable[[], Any], Tensor] | None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                tokens = self._forward(pages, px)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:
            torch.cuda.synchronize(self.device)
            self.graphs = False
            self._note("no CUDA graphs", error)
            return None
        return graph.replay, tokens

    def _compile(self) -> None:
        import torch._dynamo

        torch._dynamo.config.recompile_limit = max(VARIANTS, torch._dynamo.config.recompile_limit)
        self.encoder.sam_block = torch.compile(sam_block, dynamic=False)
        self.encoder.plain_block = torch.compile(plain_block, dynamic=False)

    def give_up_compiling(self) -> None:
        """Go on with the blocks as they are; what was captured stays."""
        self.encoder.sam_block, self.encoder.plain_block, self.compiled = sam_block, plain_block, False

    def _fuse_activation(self) -> None:
        """SAM's gelu inside the product before it, where the device computes that right: tried on the first block's weights."""
        up = self.encoder.blocks[0].up
        if self.encoder.act is not gelu or up.bias is None or up.weight.dtype == torch.float32 or is_slow(up.weight):
            return
        try:
            x = torch.randn(64, up.weight.shape[1], generator=torch.Generator().manual_seed(0)).to(up.weight)
            difference = (linear_gelu(x, up.weight, up.bias) - gelu(linear(x, *up))).abs().max().item()
            size = linear(x, *up).abs().max().item()
            if not difference < 0.01 * max(size, 1.0):
                raise ValueError(f"differs by {difference:.3g} at values up to {size:.3g}")
        except Exception as error:
            self._note("gelu apart from its product", error)
            return
        self.encoder.act = gelu_in_product

    def _choose(self) -> tuple[str, str]:
        """The first way of attention that runs on this device, tried on one small page with and without windows."""
        size = self.encoder.config.patch_size
        px = 4 * size * max(1, -(-(self.encoder.config.window_size or 1) // 4))
        pages = torch.full((1, px, px), 255, dtype=torch.uint8, device=self.device)
        for way in GPU_WAYS:
            try:
                self.encoder.forward(pages, self.encoder.plan(px), way, way)
                torch.cuda.synchronize(self.device)
            except torch.cuda.OutOfMemoryError:
                raise
            except Exception as error:
                self._note(f"no {way} attention", error)
                continue
            return way, way
        return "bias", "bias"

    def _note(self, what: str, error: Exception) -> None:
        reason = f"{what}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
        _log.warning("fast encoder: %s", reason)
        self.notes.append(reason)


def probe_page(px: int) -> np.ndarray:
    """A page of random gray patches, uint8 `[1, px, px]`."""
    patches = np.random.default_rng(0).integers(0, 256, (1, px // 16, px // 16), np.uint8)
    return patches.repeat(16, 1).repeat(16, 2)
