"""Token storage pq by itself: its contract, its codebooks, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from palimpsest.codecs.token_storage import DamagedTokens, NonFiniteTokens, find_storage, pack, pq, unpack
from palimpsest.codecs.token_storage.codebook import Codebook, DamagedCodebook, parse
from palimpsest.codecs.token_storage.codebook_fit import fit_codebook
from palimpsest.codecs.token_storage.pq import UnknownCodebook, add_codebook

ABOUT = {"about": json.dumps({"format": "palimpsest pq 1"})}


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test begins as a fresh process that has read no codebook."""
    monkeypatch.setattr(pq, "_known", {})


@pytest.fixture(scope="module")
def sample() -> np.ndarray:
    """Tokens of a spectrum that falls, as a codec's does."""
    draw = np.random.default_rng(0)
    return ((draw.normal(size=(4000, 64)) * 0.9 ** np.arange(64)) @ draw.normal(size=(64, 64)) + 1).astype(np.float32)


def test_pq_keeps_the_contract_of_a_storage(sample: np.ndarray) -> None:
    name = add_codebook(fit_codebook(sample, 4.0).to_bytes({}))
    tokens = torch.from_numpy(sample[:160].reshape(4, 40, 64)).bfloat16()
    packed = pack(name, tokens)
    assert find_storage(name).name == name and find_storage(name).bytes_per_token(64) == 32
    assert all(len(page.payload) == 40 * 32 and page.scales is None for page in packed)
    assert [pack(name, tokens[page : page + 1])[0] for page in range(4)] == packed, "page by page as in a batch"
    back = unpack(name, packed, 40, 64)
    assert back.dtype == torch.bfloat16 and back.isfinite().all()
    assert (back.float() - tokens.float()).norm() / tokens.float().norm() < 0.1
    again = unpack(name, pack(name, back), 40, 64).float()
    assert (again - back.float()).norm() < 0.02 * back.float().norm(), "a second round trip adds little loss"
    back[0, 0, 0] = 5.0  # writable
    with pytest.raises(DamagedTokens, match="page 1 of the batch has"):
        unpack(name, [packed[0], type(packed[0])(packed[1].payload[:-1], None)], 40, 64)
    with pytest.raises(DamagedTokens, match="has 64"):
        unpack(name, packed, 40, 32)
    with pytest.raises(NonFiniteTokens):
        pack(name, torch.full((1, 1, 64), float("nan"), dtype=torch.bfloat16))
    assert pack(name, tokens[:0]) == [] and unpack(name, [], 40, 64).shape == (0, 40, 64)


def test_more_bits_lose_less_and_huge_tokens_stay_finite(sample: np.ndarray) -> None:
    tokens = torch.from_numpy(sample[:64][None]).bfloat16()
    names = [add_codebook(fit_codebook(sample, bits).to_bytes({})) for bits in (1.0, 2.0, 3.0, 4.0)]
    losses = [float((unpack(name, pack(name, tokens), 64, 64).float() - tokens.float()).square().mean()) for name in names]
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] / 20
    huge = torch.full((1, 2, 64), 3e38, dtype=torch.bfloat16)
    assert unpack(names[0], pack(names[0], huge), 2, 64).isfinite().all()


def test_what_the_reader_does_not_look_at_gets_no_bits(sample: np.ndarray) -> None:
    seen = np.diag(np.r_[np.ones(16), np.zeros(48)])
    tokens = torch.from_numpy(sample[:512][None]).bfloat16()
    plain, aware = (add_codebook(fit_codebook(sample, 1.0, metric).to_bytes({})) for metric in (None, seen))
    errors = [(unpack(name, pack(name, tokens), 512, 64).float() - tokens.float())[..., :16] for name in (plain, aware)]
    assert errors[1].square().mean() < errors[0].square().mean() / 4


def test_one_codebook_gives_the_same_bytes_whatever_the_threads_and_batches(sample: np.ndarray) -> None:
    book = fit_codebook(sample, 3.0)
    assert fit_codebook(sample, 3.0).to_bytes({}) == book.to_bytes({}), "the same sample, the same codebook"
    values = sample[:512].astype(np.float64)
    rounded = np.rint((values - book.mean) * float(book.scale[0]))
    exact = rounded.astype(np.int64) @ book.forward.astype(np.int64)  # no rounding, in any order
    assert np.array_equal(rounded @ book.matrices[0], exact)


def test_a_codebook_is_read_as_it_was_written_and_every_lie_in_it_is_refused(sample: np.ndarray) -> None:
    from safetensors.numpy import load, save

    book = fit_codebook(sample, 2.0)
    body = book.to_bytes({"codec": "embedded"})
    again = parse(body)
    assert all(np.array_equal(getattr(again, name), getattr(book, name)) for name in Codebook.__dataclass_fields__)
    parts = load(body)
    header = (1 << 40).to_bytes(8, "little")
    mean = {"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 1 << 62]}
    claims = json.dumps({"__metadata__": ABOUT, "mean": mean})
    lies = {
        "empty": b"",
        "short": body[:100],
        "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        "absurd header": header + body[8:],
        "absurd shape": len(claims).to_bytes(8, "little") + claims.encode(),
        "deep": (20_000).to_bytes(8, "little") + b"[" * 20_000,
        "other format": save(parts, {"about": json.dumps({"format": "another"})}),
        "a part missing": save({k: v for k, v in parts.items() if k != "levels"}, ABOUT),
    }
    wrong = {
        "bits": np.full_like(book.bits, 200),
        "forward": book.forward.astype(np.float32),
        "mean": np.full_like(book.mean, np.nan),
        "spread": np.zeros_like(book.spread),
        "levels": book.levels[::-1].copy(),
        "step": np.zeros(2, np.float32),
    }
    lies |= {name: save({**parts, name: value}, ABOUT) for name, value in wrong.items()}
    for name, lie in lies.items():
        with pytest.raises(DamagedCodebook):
            pytest.fail(f"{name} was taken for a codebook: {parse(lie)}")


def test_pq_without_its_codebook_is_a_clear_error(sample: np.ndarray) -> None:
    with pytest.raises(UnknownCodebook, match="needs a codebook"):
        pack("pq", torch.zeros(1, 2, 64, dtype=torch.bfloat16))
    with pytest.raises(UnknownCodebook, match="codebook 0000"):
        unpack("pq:" + "0" * 64, [], 1, 1)
