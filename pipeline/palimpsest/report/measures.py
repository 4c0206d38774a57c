"""Sums over the pages of one class and mode, in memory that does not grow with them."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from palimpsest.verification.errata import cost_of, of_row

STEPS = 10_000  # precision is counted to 1/STEPS, for quantiles and the bootstrap; means are exact
DRAWS = 1_000
_SUMMED = ("num_text_tokens", "num_context_tokens", "num_vision_tokens", "payload_bytes", "text_bytes")
_SEED = 7


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How the precision of `n` pages is distributed.

    `low` and `high` bound the mean with 95 % confidence (percentile bootstrap over pages, 1,000 draws); None for a single page.
    `median`, `p05` (the fifth percentile) and `worst` (the lowest) are exact to 1/10,000.
    """

    n: int
    mean: float
    low: float | None
    high: float | None
    median: float
    p05: float
    worst: float


@dataclass(frozen=True, kw_only=True)
class Group:
    """Pages of one class and mode. A figure is None where no page has it.

    Attributes:
        ratio: text tokens per token that the decoder's context spends, newline and separator rows included.
        paper_ratio: text tokens per visual token, those rows left out.
        precision: over the pages that were decoded.
        bounds: pages cut by early stopping, whose precision is an upper bound.
        exact_share, word_precision, set_precision, decoder_passes: means over the pages that have them.
        errata_pages, errata_words, errata_tokens: pages with misread words that are kept with them, and the cost of these.
        blank_pages: the control sample; on it, `blank_precision` is a mean, and `blank_gain` that of precision − blank precision.
        payload_bytes: visual tokens and their scales as stored, before Parquet.
        text_bytes: the text in UTF-8.
    """

    text_class: str
    mode: str
    pages: int
    text_tokens: int
    context_tokens: int
    vision_tokens: int
    payload_bytes: int
    text_bytes: int
    ratio: float | None
    paper_ratio: float | None
    payload_bytes_per_text_token: float | None
    precision: Spread | None
    bounds: int
    exact_share: float | None
    word_precision: float | None
    set_precision: float | None
    decoder_passes: float | None
    blank_pages: int
    blank_precision: float | None
    blank_gain: float | None
    errata_pages: int
    errata_words: int
    errata_tokens: int


@dataclass
class Mean:
    """A mean that can be added to: `value` is None where nothing was."""

    total: float = 0.0
    n: int = 0

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.n + other.n)

    @property
    def value(self) -> float | None:
        return over(self.total, self.n)


@dataclass
class Measures:
    """Sums over pages. They add up: what is known of two groups is known of both together."""

    counts: Counter[str] = field(default_factory=Counter)
    means: defaultdict[str, Mean] = field(default_factory=lambda: defaultdict(Mean))
    histogram: Counter[int] = field(default_factory=Counter)  # round(precision * STEPS) -> pages

    def __add__(self, other: Measures) -> Measures:
        total = Measures(counts=self.counts + other.counts, histogram=self.histogram + other.histogram)
        for means in (self.means, other.means):
            for name, mean in means.items():
                total.means[name] += mean
        return total

    def add(self, pages: pa.Table) -> None:
        """Take in pages: columns of the row contract, and `payload_bytes` and `text_bytes` (int64)."""
        self.counts["pages"] += pages.num_rows
        for name in _SUMMED:
            self.counts[name] += pc.sum(pages[name]).as_py() or 0
        judged = pages.filter(pc.is_valid(pages["precision"]))
        self.counts["bounds"] += pc.sum(pc.equal(judged["reason"], "early_stop")).as_py() or 0
        for name in ("precision", "word_precision", "set_precision", "exact", "decoder_passes"):
            self._average(name, _floats(judged[name].drop_null()))
        control = judged.filter(pc.is_valid(judged["blank_precision"]))
        blank = _floats(control["blank_precision"])
        self._average("blank", blank)
        self._average("blank_gain", _floats(control["precision"]) - blank)
        for errata in pages["errata"].drop_null().to_pylist():
            self.counts["errata_pages"] += 1
            self.counts["errata_words"] += len(errata)
            self.counts["errata_tokens"] += cost_of(of_row(errata))
        steps, pages_at = np.unique(np.rint(_floats(judged["precision"]) * STEPS), return_counts=True)
        self.histogram.update(dict(zip(steps.astype(int).tolist(), pages_at.tolist(), strict=True)))

    def _average(self, name: str, values: np.ndarray) -> None:
        self.means[name] += Mean(float(values.sum()), len(values))

    def group(self, text_class: str, mode: str) -> Group:
        text, context, vision, payload, plain = (self.counts[name] for name in _SUMMED)
        return Group(
            text_class=text_class,
            mode=mode,
            pages=self.counts["pages"],
            text_tokens=text,
            context_tokens=context,
            vision_tokens=vision,
            payload_bytes=payload,
            text_bytes=plain,
            ratio=over(text, context),
            paper_ratio=over(text, vision),
            payload_bytes_per_text_token=over(payload, text) if payload else None,
            precision=self.spread(),
            bounds=self.counts["bounds"],
            exact_share=self.means["exact"].value,
            word_precision=self.means["word_precision"].value,
            set_precision=self.means["set_precision"].value,
            decoder_passes=self.means["decoder_passes"].value,
            blank_pages=self.means["blank"].n,
            blank_precision=self.means["blank"].value,
            blank_gain=self.means["blank_gain"].value,
            errata_pages=self.counts["errata_pages"],
            errata_words=self.counts["errata_words"],
            errata_tokens=self.counts["errata_tokens"],
        )

    def spread(self) -> Spread | None:
        """The distribution of precision, None where no page was decoded."""
        if not self.histogram:
            return None
        values, counts = self.curve()
        n, mean = int(counts.sum()), self.means["precision"].total / self.means["precision"].n
        low = high = None
        if n > 1:
            draws = np.random.default_rng(_SEED)
            drawn = np.concatenate([draws.multinomial(n, counts / n, 100) @ values / n for _ in range(DRAWS // 100)])
            off = mean - counts @ values / n  # what counting in steps moved the mean by
            low, high = (float(np.clip(edge + off, 0, 1)) for edge in np.quantile(drawn, (0.025, 0.975)))
        median, p05 = (quantile(values, counts, share) for share in (0.5, 0.05))
        return Spread(n=n, mean=float(mean), low=low, high=high, median=median, p05=p05, worst=float(values[0]))

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Precisions that occur, ascending, and how many pages have each: float64 and int64, `[k]`."""
        steps = sorted(self.histogram)
        return np.array(steps, np.float64) / STEPS, np.array([self.histogram[step] for step in steps], np.int64)


def over(part: float, whole: float) -> float | None:
    """`part / whole`, or None for a whole of nothing."""
    return part / whole if whole else None


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    """A column without nulls as float64 `[n]`."""
    return column.to_numpy().astype(np.float64)


def quantile(values: np.ndarray, counts: np.ndarray, share: float) -> float:
    """`np.quantile` of the values, each repeated by its count, without repeating them."""
    ends = np.cumsum(counts)
    rank = share * (ends[-1] - 1)
    below, above = values[np.searchsorted(ends, [np.floor(rank), np.ceil(rank)], side="right")]
    return float(below + (above - below) * (rank % 1))
