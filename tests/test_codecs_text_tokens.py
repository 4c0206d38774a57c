"""Counting text tokens with DeepSeek's vocabulary."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.codecs import text_tokens
from palimpsest.codecs.text_tokens import count_tokens, tokenizer


def test_known_counts() -> None:
    assert count_tokens(["", "Hello world", "Hello world\n", "你好，世界"]) == [0, 2, 3, 3]
    assert count_tokens([]) == []


def test_what_looks_like_a_special_token_is_text() -> None:
    assert count_tokens(["<｜end▁of▁sentence｜>"])[0] > 3


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), max_size=8))
def test_a_batch_counts_as_its_texts_alone(texts: list[str]) -> None:
    assert count_tokens(texts) == [len(tokenizer().encode(text, add_special_tokens=False).ids) for text in texts]


@pytest.mark.parametrize("text", ["word " * 4000, "line one\nline two\n" * 1500, "x" * 20_000, "漢字" * 8000])
def test_a_huge_text_counts_nearly_the_same_in_pieces(monkeypatch, text: str) -> None:
    whole = count_tokens([text, "after"])
    monkeypatch.setattr(text_tokens, "PIECE", 1000)
    monkeypatch.setattr(text_tokens, "BATCH", 5000)
    pieces = list(text_tokens._pieces(text))
    assert "".join(pieces) == text and max(map(len, pieces)) <= 1000
    counted = count_tokens([text, "after"])
    assert counted[1] == whole[1] and abs(counted[0] - whole[0]) <= 2 * len(pieces)
    if " " in text or "\n" in text:
        assert all(left.endswith("\n") or right.startswith(" ") for left, right in pairwise(pieces))
