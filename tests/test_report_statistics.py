"""The statistics under the report, against hand-computed ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.report.measures import Measures, quantile
from palimpsest.report.summary import MAX_CLASSES, OTHER, summarise
from palimpsest.schemas import SHARD
from tests.report_corpora import DIM, Built, corpus, mixed, page

__all__ = ["mixed"]  # the fixture


def test_numbers_by_class_and_mode(mixed: Built) -> None:
    summary = summarise(*mixed)
    groups = {(group.text_class, group.mode): group for group in summary.groups}
    assert list(groups) == [("(none)", "text"), ("code", "tiny"), ("prose", "tiny"), ("prose", "small")]
    prose = groups["prose", "tiny"]
    assert (prose.pages, prose.text_tokens, prose.context_tokens, prose.vision_tokens) == (2, 400, 146, 128)
    assert prose.ratio == pytest.approx(400 / 146) and prose.paper_ratio == pytest.approx(400 / 128)
    assert prose.payload_bytes == 2 * 64 * (DIM + 4) and prose.text_bytes == 20
    assert prose.payload_bytes_per_text_token == pytest.approx(1536 / 400)
    spread = prose.precision
    assert spread is not None and spread.n == 2
    assert spread.mean == pytest.approx(0.95) and spread.median == pytest.approx(0.95) and spread.p05 == pytest.approx(0.905)
    assert spread.low == pytest.approx(0.9) and spread.high == pytest.approx(1)
    assert (prose.exact_share, prose.word_precision, prose.decoder_passes) == (0.5, 0.5, 2)
    assert (prose.blank_pages, prose.blank_precision, prose.blank_gain) == (1, 0.25, 0.75)
    code = groups["code", "tiny"]
    assert code.precision is not None and code.precision.n == 2 and code.pages == 3 and code.bounds == 1
    assert code.word_precision == 1, "a page cut by early stopping has no word precision"
    alone = groups["prose", "small"].precision
    assert alone is not None and (alone.n, alone.mean, alone.low) == (1, 0.5, None)
    kept = groups["(none)", "text"]
    assert (kept.ratio, kept.precision, kept.payload_bytes, kept.payload_bytes_per_text_token) == (1.0, None, 0, None)


def test_totals_and_counts(mixed: Built) -> None:
    store, snapshot = mixed
    summary = summarise(store, snapshot)
    assert summary.by_tier == {"tiny": 5, "small": 1, "text": 1}
    assert summary.by_status == {"below_target": 3, "verified": 2, "unverified": 1, "text": 1}
    assert summary.by_reason == {"loop": 1, "early_stop": 1, "not_covered": 1}
    assert summary.by_class == {"prose": 3, "code": 3, "(none)": 1}
    assert [group.mode for group in summary.modes] == ["tiny", "small", "text"]
    assert (summary.pages, summary.visual.pages, summary.text_tokens) == (7, 6, 1200)
    context = 5 * 73 + 111
    assert summary.visual.ratio == pytest.approx(1000 / context)
    assert summary.context_ratio == pytest.approx(1200 / (context + 200))
    assert summary.visual.precision is not None
    assert summary.visual.precision.mean == pytest.approx((1 + 0.9 + 0.5 + 1 + 0.2) / 5)
    stored = sum((store.root / shard.key).stat().st_size for unit in snapshot.units for shard in unit.shards)
    assert summary.shard_bytes == stored and summary.shard_bytes_per_text_token == pytest.approx(stored / 1200)
    assert summary.quarantine.reasons == {"invalid_utf8": 2, "null_text": 1}
    assert [record.record for reason in summary.quarantine.by_reason for record in reason.samples] == [
        b"abc\xff\x00\x1b[31m",
        b"\xfe",
        None,
    ]
    assert [(maker.codec, maker.token_dtype, maker.pages) for maker in summary.makers] == [("embedded", "int8", 6)]
    assert (summary.counts.documents_in, summary.counts.duplicates, summary.counts.documents_quarantined) == (12, 2, 3)
    again = json.loads(json.dumps(summary.to_json(), allow_nan=False))
    assert again["visual"]["pages"] == 6 and again["quarantine"] == {"invalid_utf8": 2, "null_text": 1}


def test_an_unknown_class_column_is_bounded(tmp_path: Path) -> None:
    summary = summarise(*corpus(tmp_path, [page(f"p{n:03}", "text", kind=f"class {n:03}") for n in range(MAX_CLASSES + 30)]))
    assert len(summary.by_class) == MAX_CLASSES + 1 and summary.by_class[OTHER] == 30
    assert sum(group.pages for group in summary.groups) == summary.pages == MAX_CLASSES + 30


@given(st.lists(st.integers(0, 20), min_size=1, max_size=40), st.floats(0, 1))
def test_quantiles_equal_those_of_the_repeated_values(places: list[int], share: float) -> None:
    values, counts = np.unique(np.array(places) / 20, return_counts=True)
    assert quantile(values, counts, share) == pytest.approx(float(np.quantile(np.array(places) / 20, share)), abs=1e-9)


def test_the_interval_holds_the_mean_and_narrows_with_pages(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    widths = []
    for count in (20, 500):
        values = rng.uniform(0.8, 1, count).astype(np.float32)
        names = [*SHARD.names, "payload_bytes", "text_bytes"]
        table = pa.Table.from_pylist([{**dict.fromkeys(names), "precision": float(value)} for value in values])
        table = pa.table(
            {name: table[name].cast(SHARD.field(name).type if name in SHARD.names else pa.int64()) for name in names}
        )
        measures = Measures()
        measures.add(table)
        spread = measures.spread()
        assert spread is not None and spread.low is not None and spread.high is not None
        assert spread.low < spread.mean < spread.high and spread.mean == pytest.approx(values.mean(dtype=np.float64))
        error = values.std() / np.sqrt(count)
        assert spread.high - spread.low == pytest.approx(2 * 1.96 * error, rel=0.15)
        widths.append(spread.high - spread.low)
    assert widths[1] < widths[0] / 3
