"""Tokens to bytes and back: exact for bf16, within half a step for int8, small for int4, and damage is never read as tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from hashlib import sha256

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from palimpsest.codecs.token_storage import STORAGES, DamagedTokens, NonFiniteTokens, PackedTokens, find_storage, pack, unpack
from palimpsest.codecs.token_storage.codebook_fit import fit_codebook
from palimpsest.codecs.token_storage.pq import add_codebook
from palimpsest.codecs.token_storage.rows import CodecMismatch, refuse_other_codec

KEEPING = [name for name in STORAGES if name not in ("none", "pq")]


@pytest.fixture(scope="module")
def storage_of() -> Callable[[str, int], str]:
    """The name under which a storage packs tokens of so many channels: of pq, with a codebook fitted to tokens as below."""

    @cache
    def named(name: str, dim: int) -> str:
        if name != "pq":
            return name
        sample = torch.randn(4000, dim, generator=torch.Generator().manual_seed(0)).numpy()
        return add_codebook(fit_codebook(sample, 6.0).to_bytes({}))

    return named


FINITE = st.integers(0, 0xFFFF).filter(lambda bits: bits & 0x7F80 != 0x7F80)  # every sign, subnormals and -0 included
TOKENS = arrays(np.uint16, array_shapes(min_dims=3, max_dims=3, max_side=6), elements=FINITE)


def tensor(bits: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)


def bits_of(tokens: torch.Tensor) -> np.ndarray:
    return tokens.view(torch.int16).numpy().view(np.uint16)


@given(TOKENS)
def test_bf16_keeps_every_bit(bits: np.ndarray) -> None:
    packed = pack("bf16", tensor(bits))
    assert np.array_equal(bits_of(unpack("bf16", packed, *bits.shape[1:])), bits)
    assert [page.payload for page in packed] == [page.astype("<u2").tobytes() for page in bits]


@given(TOKENS)
def test_int8_moves_no_value_by_more_than_half_a_step(bits: np.ndarray) -> None:
    packed = pack("int8", tensor(bits))
    before = tensor(bits).double().numpy()
    after = unpack("int8", packed, *bits.shape[1:]).double().numpy()
    steps = np.abs(before).max(axis=-1, keepdims=True) / 127
    rounding = np.abs(before).max(axis=-1, keepdims=True) * 2.0**-8 + 1e-40  # of bfloat16, and of subnormal steps
    assert (np.abs(after - before) <= steps / 2 + rounding).all()
    assert np.isfinite(after).all()


def test_int8_rounds_half_to_even_and_keeps_zeros_and_peaks() -> None:
    tokens = torch.tensor([[[127.0, 0.5, 1.5, 2.5, -0.5, -127.0], [0.0] * 6]], dtype=torch.bfloat16)
    (page,) = pack("int8", tokens)
    assert np.frombuffer(page.payload, np.int8).tolist() == [127, 0, 2, 2, 0, -127] + [0] * 6
    assert np.frombuffer(page.scales, "<f4").tolist() == [1.0, 0.0]
    assert unpack("int8", [page], 2, 6)[0].tolist() == [[127.0, 0.0, 2.0, 2.0, 0.0, -127.0], [0.0] * 6]


@given(arrays(np.int8, (2, 3, 5)), arrays(np.float32, (2, 3, 1), elements=st.floats(0, 2.0**100, width=32)))
def test_int8_comes_back_rounded_as_torch_rounds(steps: np.ndarray, scales: np.ndarray) -> None:
    pages = [PackedTokens(q.tobytes(), s.tobytes()) for q, s in zip(steps, scales, strict=True)]
    expected = (torch.from_numpy(steps).float() * torch.from_numpy(scales)).to(torch.bfloat16)
    assert np.array_equal(bits_of(unpack("int8", pages, 3, 5)), bits_of(expected))


@pytest.mark.parametrize("name", [*KEEPING, "pq"])
def test_bytes_per_token_is_what_is_stored(name: str, storage_of: Callable[[str, int], str]) -> None:
    name = storage_of(name, 24)
    packed = pack(name, torch.randn(2, 5, 24).bfloat16())
    for page in packed:
        assert len(page.payload) + len(page.scales or b"") == 5 * find_storage(name).bytes_per_token(24)
        assert page.sha256 == sha256(page.payload).hexdigest()


@pytest.mark.parametrize("name", [*KEEPING, "pq"])
def test_every_storage_keeps_its_contract(name: str, storage_of: Callable[[str, int], str]) -> None:
    """Found by its file's name; the same bytes for the same tokens, page by page; a second round trip adds no loss; the result
    is writable; cut payloads are refused."""
    assert find_storage(name).name == name
    name = storage_of(name, 24)
    assert find_storage(name).name == name
    tokens = torch.randn(3, 5, 24).bfloat16()
    tokens[1] = 0
    packed = pack(name, tokens)
    assert [pack(name, tokens[page : page + 1])[0] for page in range(3)] == packed
    back = unpack(name, packed, 5, 24)
    assert back.dtype == torch.bfloat16 and back.shape == tokens.shape and back.isfinite().all()
    error = (back.float() - tokens.float()).norm() / tokens.float().norm()
    assert error < 0.1, "what a storage loses must be small against the tokens"
    again = unpack(name, pack(name, back), 5, 24)
    assert torch.allclose(again.float(), back.float(), rtol=2**-7, atol=2**-7)  # of a scale: one step of bfloat16
    back[0, 0, 0] = 5.0
    for damaged in (PackedTokens(packed[0].payload[:-1], packed[0].scales), PackedTokens(b"", packed[0].scales)):
        with pytest.raises(DamagedTokens, match="page 1 of the batch has"):
            unpack(name, [packed[1], damaged], 5, 24)


@pytest.mark.parametrize("name", [*KEEPING, "pq"])
def test_no_pages_are_no_pages(name: str, storage_of: Callable[[str, int], str]) -> None:
    name = storage_of(name, 8)
    assert pack(name, torch.empty(0, 5, 8, dtype=torch.bfloat16)) == []
    assert unpack(name, [], 5, 8).shape == (0, 5, 8)


@pytest.mark.parametrize("name", [*KEEPING, "pq"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_tokens_name_their_pages(name: str, value: float, storage_of: Callable[[str, int], str]) -> None:
    name = storage_of(name, 3)
    tokens = torch.zeros(4, 2, 3, dtype=torch.bfloat16)
    tokens[1, 1, 2] = tokens[3, 0, 0] = value
    with pytest.raises(NonFiniteTokens, match=r"pages \[1, 3\]") as caught:
        pack(name, tokens)
    assert caught.value.pages == [1, 3]


def test_none_stores_nothing_and_says_what_to_do() -> None:
    (page,) = pack("none", torch.randn(1, 4, 8).bfloat16())
    assert (page.payload, page.scales, find_storage("none").bytes_per_token(8)) == (b"", None, 0)
    assert unpack("none", [], 4, 8).shape == (0, 4, 8)
    with pytest.raises(DamagedTokens, match="stores no tokens: encode the page again"):
        unpack("none", [page], 4, 8)
    assert set(STORAGES) == {*KEEPING, "none", "pq"}, "every other storage is in the tests of the contract"


def test_bytes_of_another_size_are_refused() -> None:
    (page,) = pack("int8", torch.randn(1, 4, 8).bfloat16())
    with pytest.raises(DamagedTokens, match="page 1 of the batch has 31 bytes, 4 x 8 i1 take 32"):
        unpack("int8", [page, PackedTokens(page.payload[:-1], page.scales)], 4, 8)
    with pytest.raises(DamagedTokens, match="12 bytes, 4 x 1 <f4 take 16"):
        unpack("int8", [PackedTokens(page.payload, page.scales[:-4])], 4, 8)
    with pytest.raises(DamagedTokens, match="without token_scales"):
        unpack("int8", [PackedTokens(page.payload, None)], 4, 8)
    with pytest.raises(DamagedTokens, match="page 0 of the batch has 32 bytes"):
        unpack("bf16", [page], 4, 8)


@given(TOKENS)
def test_int4_loses_a_tenth_at_most_of_any_finite_token(bits: np.ndarray) -> None:
    before = tensor(bits).double().numpy()
    after = unpack("int4", pack("int4", tensor(bits)), *bits.shape[1:]).double().numpy()
    assert np.isfinite(after).all()
    size = np.linalg.norm(before, axis=-1)
    worst = 0.35 * size + np.sqrt(bits.shape[-1]) * 1e-38  # one value in a block of one: a level of a Gaussian, or a subnormal
    assert (np.linalg.norm(after - before, axis=-1) <= worst).all()


def test_int4_takes_half_of_int8_and_one_large_channel_does_not_drown_the_others() -> None:
    assert 2 * find_storage("int4").bytes_per_token(1024) == find_storage("int8").bytes_per_token(1024)
    tokens = torch.randn(1, 64, 1024, generator=torch.Generator().manual_seed(0))
    tokens[..., 7] = 40.0
    back = unpack("int4", pack("int4", tokens.bfloat16()), 64, 1024).float()
    others = [channel for channel in range(1024) if channel != 7]
    error = (back - tokens)[..., others].square().mean() / tokens[..., others].square().mean()
    assert error < 0.04, "a scale for each token alone would lose most of them"


def test_int4_bytes_are_the_same_everywhere() -> None:
    tokens = (torch.arange(2 * 3 * 96).reshape(2, 3, 96) * 0.37).sin().bfloat16()
    stored = b"".join(page.payload + (page.scales or b"") for page in pack("int4", tokens))
    assert sha256(stored).hexdigest()[:16] == "9be982c744d86aa5"


def test_wrong_names_and_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match="token_dtype 'fp4': choose one of bf16, int4, int8, none, pq"):
        unpack("fp4", [], 1, 1)
    with pytest.raises(ValueError, match=r"torch.float32 \[1, 2, 3\], expected torch.bfloat16"):
        pack("bf16", torch.zeros(1, 2, 3))


def test_only_the_codec_that_wrote_tokens_reads_them() -> None:
    refuse_other_codec(("embedded", "sha256:1"), ("embedded", "sha256:1"))
    for other in (("embedded", "sha256:2"), ("deepseek-ocr", "sha256:1")):
        with pytest.raises(CodecMismatch, match=f"'embedded' at revision 'sha256:1' .* '{other[0]}' at revision '{other[1]}'"):
            refuse_other_codec(("embedded", "sha256:1"), other)
