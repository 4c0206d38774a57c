"""The fast encoder against transformers': the same tokens in every mode, for both versions of DeepEncoder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_codec import write_tiny_codec
from transformers import (
    DeepseekOcr2Config,
    DeepseekOcr2ForConditionalGeneration,
    PreTrainedModel,
    UnlimitedOcrConfig,
    UnlimitedOcrForConditionalGeneration,
)

from palimpsest.codecs.adapter import load_codec
from palimpsest.codecs.fast import bfloat16
from palimpsest.codecs.fast.attention import WAYS, biased
from palimpsest.codecs.fast.deepencoder import DeepEncoder, gelu_in_product, linear_gelu, unfit
from palimpsest.codecs.fast.runner import FastEncoder, probe_page
from palimpsest.codecs.modes import MODES
from palimpsest.pages.layouts.grid import Grid

HALF = (0.5, 0.5, 0.5)
ON_CPU = ("augmented", "augmented-flash", "bias")  # the others need a GPU or a compiler: see below and `palimpsest bench gpu`


def _sam(window: int, globals_: tuple[int, ...]) -> dict[str, object]:
    """Two blocks of 16 features a head, so that a page of 1280 px takes no time."""
    return dict(
        hidden_size=32, output_channels=16, num_hidden_layers=2, num_attention_heads=2, image_size=1024, patch_size=16,
        window_size=window, global_attn_indexes=list(globals_), mlp_dim=32, downsample_channels=[16, 32],
    )  # fmt: skip


def version_1(window: int = 14, globals_: tuple[int, ...] = (1,)) -> PreTrainedModel:
    mixer = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=224, patch_size=14)
    text = dict(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=0, num_attention_heads=2, layer_types=[])
    config = UnlimitedOcrConfig(
        vision_config=dict(sam_config=_sam(window, globals_), encoder_config=mixer),
        text_config={**text, "num_key_value_heads": 2, "mlp_layer_types": []},
        image_token_id=3,
    )
    return UnlimitedOcrForConditionalGeneration(config)


def version_2() -> PreTrainedModel:
    mixer = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1)
    text = dict(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    config = DeepseekOcr2Config(
        vision_config=dict(sam_config=_sam(14, (1,)), encoder_config=mixer),
        text_config={**text, "num_key_value_heads": 2, "mlp_layer_types": ["dense"]},
        image_token_id=3,
    )
    return DeepseekOcr2ForConditionalGeneration(config)


BUILDERS: dict[str, Callable[[], PreTrainedModel]] = {
    "v1": version_1,
    "v1, windows that fit": lambda: version_1(window=8, globals_=()),
    "v2": version_2,
}
MODES_OF = {"v2": (768, 1024)}


@cache
def model(name: str, dtype: torch.dtype) -> PreTrainedModel:
    torch.manual_seed(3)
    made = BUILDERS[name]().eval().requires_grad_(False)
    for weight in made.parameters():  # positions and biases start at zero, which would hide a missing one
        torch.nn.init.normal_(weight, std=0.2) if weight.ndim > 1 else weight.data.add_(torch.randn_like(weight) * 0.2)
    return made.to(dtype)


def plain(name: str, images: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """Visual tokens as transformers computes them from three normalised channels, without newline and separator rows."""
    pixels = ((torch.from_numpy(images).float() / 255 - 0.5) / 0.5)[:, None].expand(-1, 3, -1, -1).to(dtype)
    rows = torch.stack(list(model(name, dtype).get_image_features(pixels, return_dict=True).pooler_output))[:, :-1]
    side = images.shape[1] // 64
    return rows if name == "v2" else rows.unflatten(1, (side, side + 1))[:, :, :-1].flatten(1, 2)


def pages(px: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(px).integers(0, 256, (count, px, px), np.uint8)


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("way", ON_CPU)
def test_tokens_equal_transformers_in_float32(name: str, way: str) -> None:
    fast = FastEncoder(DeepEncoder(model(name, torch.float32), HALF, HALF), ways=(way, way))
    for px in MODES_OF.get(name, [mode.px for mode in MODES.values()]):
        if way != "augmented-flash" and px > 640:
            continue  # the big ones once
        expected, found = plain(name, pages(px), torch.float32), fast.encode(pages(px), px)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < 1e-4 * expected.abs().max(), (name, px)
        assert expected.std(1).mean() > 0.05 * expected.abs().mean()  # the tokens of a page differ from each other


@pytest.mark.parametrize("name", BUILDERS)
def test_tokens_equal_transformers_within_rounding_in_bfloat16(name: str) -> None:
    """Both are compared with float32: the fast encoder may not be further from it than transformers' own bfloat16 is."""
    fast = FastEncoder(DeepEncoder(model(name, torch.bfloat16), HALF, HALF))
    px = 768 if name == "v2" else 640
    exact = plain(name, pages(px), torch.float32)
    theirs = (plain(name, pages(px), torch.bfloat16).float() - exact).abs()
    ours = (fast.encode(pages(px), px).float() - exact).abs()
    assert ours.mean() < 1.3 * theirs.mean() < 0.1 * exact.abs().mean()
    assert ours.quantile(0.99) < 1.5 * theirs.quantile(0.99)


def test_channels_that_are_normalised_apart_are_folded_into_one() -> None:
    mean, std = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    network, images = model("v1", torch.float32), pages(512)
    channels = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]
    pixels = (torch.from_numpy(images).float()[:, None] / 255 - channels[0]) / channels[1]
    rows = torch.stack(list(network.get_image_features(pixels, return_dict=True).pooler_output))
    expected = rows[:, :-1].unflatten(1, (8, 9))[:, :, :-1].flatten(1, 2)
    found = FastEncoder(DeepEncoder(network, mean, std)).encode(images, 512)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_a_page_encodes_the_same_whatever_stands_beside_it() -> None:
    fast = FastEncoder(DeepEncoder(model("v1", torch.float32), HALF, HALF))
    alone = torch.cat([fast.encode(page[None], 512) for page in pages(512, 3)])
    torch.testing.assert_close(fast.encode(pages(512, 3), 512), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", [5, 14, 40])
def test_positions_as_features_are_positions_as_bias(side: int) -> None:
    torch.manual_seed(side)
    q, k, v = torch.randn(3, 2, 3, side * side, 16, dtype=torch.float64)
    tables = torch.randn(2, side, side, 16, dtype=torch.float64)
    expected = biased(q, k, v, *tables)
    without = biased(q, k, v, *torch.zeros_like(tables))
    assert (expected - without).abs().max() > 0.1
    for name in ("augmented", "augmented-flash"):
        torch.testing.assert_close(WAYS[name](q, k, v, *tables), expected)


@pytest.mark.parametrize("instructions", [True, False])
def test_products_of_bfloat16_are_rounded_once(monkeypatch: pytest.MonkeyPatch, instructions: bool) -> None:
    monkeypatch.setattr(bfloat16, "has_instructions", lambda: instructions)
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(2), torch.nn.Linear(36, 16, bias=False), torch.nn.Linear(16, 4)
    )
    bfloat16.speed_up(model.to(torch.bfloat16))
    x = torch.randn(5, 3, 8, 8).to(torch.bfloat16)
    for layer in model:
        exact = layer.double()(x.double())  # their own forward, for what is not bfloat16
        layer.to(torch.bfloat16)
        x = layer(x)
        assert x.dtype == torch.bfloat16
        assert ((x.double() - exact).abs() <= 2**-8 * exact.abs() + 2**-10).all()


def test_what_is_read_does_not_depend_on_how_products_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    codec, mode, grid = load_codec("embedded"), MODES["tiny"], Grid(64, 32, "latin")
    text = "The harbour master counted seventeen boats before noon, and wrote the number down twice. " * 20
    images = grid.render(*zip(*((text, page.drawing) for page in grid.paginate(text, "prose")), strict=True), mode.px)
    read, tokens = [], []
    for has_instructions in (lambda: True, lambda: False):
        monkeypatch.setattr(bfloat16, "has_instructions", has_instructions)
        tokens.append(codec.encode(images, mode))
        read.append("".join(codec.decode_ids(ids) for ids in codec.read_cells(tokens[-1], (64, 32))))
    assert read == [text, text]
    first, second = (found.float() for found in tokens)
    assert (first - second).abs().mean() < 0.01 * first.abs().mean()


def test_gelu_inside_the_product_is_gelu_within_rounding() -> None:
    """cuBLAS has its tanh form; on a CPU PyTorch computes the exact one, so that both must agree with both."""
    torch.manual_seed(0)
    x, weight, bias = torch.randn(3, 40, 32), torch.randn(64, 32) / 4, torch.randn(64)
    product = torch.nn.functional.linear(x, weight, bias)
    for expected in (torch.nn.functional.gelu(product), gelu_in_product(product)):
        torch.testing.assert_close(linear_gelu(x, weight, bias), expected, rtol=0, atol=5e-4)
    tokens = []
    for act in (torch.nn.functional.gelu, gelu_in_product):
        encoder = DeepEncoder(model("v1", torch.float32), HALF, HALF)
        assert encoder.act is torch.nn.functional.gelu
        encoder.act = act
        tokens.append(FastEncoder(encoder).encode(pages(512), 512))
    torch.testing.assert_close(*tokens, rtol=0, atol=2e-3 * float(tokens[0].abs().max()))


def test_a_static_batch_is_halved_until_memory_suffices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A smaller call alone would be filled up to the same static batch: the encoder itself has to take fewer pages."""
    fast = FastEncoder(DeepEncoder(model("v1", torch.float32), HALF, HALF))
    assert [fast.batch(mode.px) for mode in MODES.values()] == [64, 32, 16, 8], "powers of two, so that blocks fill batches"
    tried: list[int] = []

    def capture(px: int) -> str:
        tried.append(fast.batch(px))
        if tried[-1] > 4:
            raise torch.OutOfMemoryError("tried to allocate 9 GiB")
        return "captured"

    monkeypatch.setattr(fast, "_capture", capture)
    assert fast._captured_as_fits(640) == "captured" and tried == [32, 16, 8, 4]
    assert fast.batch(640) == 4 and fast.batch(512) == 64, "other modes keep theirs"
    assert "16 pages of 640 px at a time, not 32" in fast.notes[0] and "out of memory" in fast.description
    monkeypatch.setattr(fast, "_most", {640: 1})
    monkeypatch.setattr(fast, "_capture", lambda px: (_ for _ in ()).throw(torch.OutOfMemoryError("no")))
    with pytest.raises(torch.OutOfMemoryError):
        fast._captured_as_fits(640)


@pytest.mark.slow
def test_the_tiled_kernel_equals_the_bias() -> None:
    """In Triton's interpreter, in a process of its own because it is chosen before Triton is imported; float32, as the
    interpreter multiplies no bfloat16."""
    if find_spec("triton") is None:
        pytest.skip("triton is not installed: it comes with PyTorch for CUDA; `pip install triton` runs this on a CPU too")
    script = (
        "import torch\n"
        "from palimpsest.codecs.fast.attention import biased, tiled\n"
        "for heads, side, dim in ((3, 14, 64), (2, 8, 32), (1, 20, 16), (1, 40, 64)):\n"
        "    torch.manual_seed(side)\n"
        "    q, k, v = torch.randn(2, side * side, 3, heads, dim).permute(2, 0, 3, 1, 4)\n"
        "    tables = torch.randn(2, side, side, dim) * 0.3\n"
        "    torch.testing.assert_close(tiled(q, k, v, *tables), biased(q, k, v, *tables), rtol=1e-4, atol=1e-5)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    eager = version_1()
    eager.config.vision_config.encoder_config._attn_implementation = "eager"
    assert "attn_implementation is 'eager'" in (unfit(eager) or "")
    eager.model.vision_tower = None
    assert unfit(eager) == "the encoder was not loaded"
    path = write_tiny_codec(tmp_path)
    codec = load_codec("embedded", path)
    assert codec.encoder.description.startswith("fast (attention")
    assert load_codec("embedded", path, fast="off").encoder.description == "transformers (codec.fast is off)"
    decoder = load_codec("embedded", path, parts="decoder", fast="on")
    with pytest.raises(ValueError, match="codec.fast = 'on': .* the encoder was not loaded"):
        decoder.encode(probe_page(512), decoder.mode("tiny"))
    with pytest.raises(ValueError, match="codec.fast = 'yes': choose one of auto, on, off"):
        load_codec("embedded", path, fast="yes")  # type: ignore[arg-type]


def test_an_encoder_that_errs_is_not_trusted(tmp_path: Path) -> None:
    """The comparison that a GPU makes before it encodes: right weights pass, a wrong one does not."""
    codec = load_codec("embedded", write_tiny_codec(tmp_path))
    mode, fast = codec.mode("tiny"), codec.encoder.fast_encoder
    assert fast is not None
    page = probe_page(mode.px)
    expected = load_codec("embedded", tmp_path, fast="off").encode(page, mode)
    assert fast.trust(page, mode.px, expected) < 0.02 and mode.px in fast.trusted
    fast.gpu, fast.trusted = True, set()
    fast.encode = lambda images, px: torch.flip(expected, [1])  # type: ignore[method-assign]
    assert torch.equal(codec.encode(page, mode), expected)
    assert codec.encoder.description.startswith("transformers (its tokens differ by")
