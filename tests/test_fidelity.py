"""The metrics: their bounds, symmetries and relations on any text, and their values on texts worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.verification.fidelity import (
    diff_spans,
    exact,
    fox_precision,
    precision,
    word_precision,
)

METRICS = [precision, word_precision, fox_precision]
TEXT = st.one_of(st.text(max_size=30), st.text("ab c\nАа字", max_size=30))
PAIRS = st.lists(st.tuples(TEXT, TEXT), max_size=6)


@pytest.mark.parametrize("metric", METRICS)
@given(pairs=PAIRS)
def test_bounds_identity_and_empty_texts(metric, pairs) -> None:
    references, decoded = [r for r, _ in pairs], [d for _, d in pairs]
    scores = metric(references, decoded)
    assert scores.shape == (len(pairs),) and scores.dtype == np.float64 and ((scores >= 0) & (scores <= 1)).all()
    assert (metric(references, references) == 1).all()
    assert metric(["", "", "x"], ["", "x", ""]).tolist() == [1, 0, 0]


@given(pairs=PAIRS)
def test_symmetry_and_order_of_metrics(pairs) -> None:
    references, decoded = [r for r, _ in pairs], [d for _, d in pairs]
    for metric in (precision, word_precision):
        assert metric(references, decoded).tolist() == metric(decoded, references).tolist()
    assert (exact(references, decoded) == (precision(references, decoded) == 1)).all()


@given(r=TEXT, d=TEXT)
def test_difference_joins_to_both_texts(r, d) -> None:
    spans = diff_spans(r, d)
    assert "".join(span.reference for span in spans) == r and "".join(span.decoded for span in spans) == d
    assert all((span.reference == span.decoded) == (span.tag == "equal") for span in spans)
    edits = sum(max(len(span.reference), len(span.decoded)) for span in spans if span.tag != "equal")
    assert precision([r], [d])[0] == pytest.approx(1 - edits / max(len(r), len(d), 1))


def test_values_by_hand() -> None:
    assert precision(["kitten"], ["sitting"])[0] == pytest.approx(1 - 3 / 7)
    assert word_precision(["a b b c"], ["b c b b d"])[0] == pytest.approx(3 / 5)
    assert fox_precision(["a b b c"], ["b c b b d"])[0] == pytest.approx(2 / 3)
    assert fox_precision(["a b c d"], ["a"])[0] == 1.0 and word_precision(["a b c d"], ["a"])[0] == 0.25
    assert word_precision(["日本語 text"], ["日本 text"])[0] == pytest.approx(3 / 4)


def test_lists_of_different_length_are_refused() -> None:
    for metric in [*METRICS, exact]:
        with pytest.raises(ValueError, match="2 references but 1 decoded"):
            metric(["a", "b"], ["a"])
