"""What is added up over the pages of one class and mode, in memory that does not grow with them."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

STEPS = 10_000  # precision is counted to 1/STEPS, for quantiles and the bootstrap; means are exact
DRAWS = 1_000
_SEED = 7


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How the precision of `n` pages is distributed.

    `low` and `high` bound the mean with 95 % confidence (percentile bootstrap over pages, 1,000 draws); None for a single page.
    `median` and `p05` (the fifth percentile) are exact to 1/10,000.
    """

    n: int
    mean: float
    low: float | None
    high: float | None
    median: float
    p05: float


@dataclass(frozen=True, kw_only=True)
class Group:
    """Pages of one class and mode. A figure is None where no page has it.

    Attributes:
        ratio: text tokens per token that the decoder's context spends, newline and separator rows included.
        paper_ratio: text tokens per visual token, those rows left out.
        precision: over the pages that were decoded.
        bounds: pages cut by early stopping, whose precision is an upper bound.
        exact_share, word_precision, decoder_passes: means over the pages that have them.
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
    decoder_passes: float | None
    blank_pages: int
    blank_precision: float | None
    blank_gain: float | None


@dataclass
class Measures:
    """Sums over pages: a commutative monoid under `+`, so that groups add up to their totals."""

    sums: defaultdict[str, float] = field(default_factory=lambda: defaultdict(int))
    histogram: Counter[int] = field(default_factory=Counter)  # round(precision * STEPS) -> pages

    def __add__(self, other: Measures) -> Measures:
        total = Measures(histogram=self.histogram + other.histogram)
        for name in self.sums.keys() | other.sums.keys():
            total.sums[name] = self.sums[name] + other.sums[name]
        return total

    def add(self, pages: pa.Table) -> None:
        """Take in pages: columns of the row contract, and `payload_bytes` and `text_bytes` (int64)."""
        sums = self.sums
        sums["pages"] += pages.num_rows
        for name in ("num_text_tokens", "num_context_tokens", "num_vision_tokens", "payload_bytes", "text_bytes"):
            sums[name] += pc.sum(pages[name]).as_py() or 0
        judged = pages.filter(pc.is_valid(pages["precision"]))
        for name in ("precision", "word_precision", "exact", "decoder_passes"):
            values = judged[name].drop_null()
            sums[f"{name}_n"] += len(values)
            sums[name] += float(np.sum(values.to_numpy(), dtype=np.float64))
        sums["bounds"] += pc.sum(pc.equal(judged["reason"], "early_stop")).as_py() or 0
        control = judged.filter(pc.is_valid(judged["blank_precision"]))
        blank = control["blank_precision"].to_numpy().astype(np.float64)
        sums["blank_n"] += len(blank)
        sums["blank"] += float(blank.sum())
        sums["blank_gain"] += float((control["precision"].to_numpy() - blank).sum())
        steps, counts = np.unique(np.rint(judged["precision"].to_numpy().astype(np.float64) * STEPS), return_counts=True)
        self.histogram.update(dict(zip(steps.astype(int).tolist(), counts.tolist(), strict=True)))

    def group(self, text_class: str, mode: str) -> Group:
        s, whole = self.sums, {name: int(value) for name, value in self.sums.items() if float(value).is_integer()}
        return Group(
            text_class=text_class,
            mode=mode,
            pages=s["pages"],
            text_tokens=s["num_text_tokens"],
            context_tokens=s["num_context_tokens"],
            vision_tokens=s["num_vision_tokens"],
            payload_bytes=s["payload_bytes"],
            text_bytes=s["text_bytes"],
            ratio=over(s["num_text_tokens"], s["num_context_tokens"]),
            paper_ratio=over(s["num_text_tokens"], s["num_vision_tokens"]),
            payload_bytes_per_text_token=over(s["payload_bytes"], s["num_text_tokens"]) if s["payload_bytes"] else None,
            precision=self.spread(),
            bounds=s["bounds"],
            exact_share=over(s["exact"], s["exact_n"]),
            word_precision=over(s["word_precision"], s["word_precision_n"]),
            decoder_passes=over(s["decoder_passes"], s["decoder_passes_n"]),
            blank_pages=s["blank_n"],
            blank_precision=over(s["blank"], s["blank_n"]),
            blank_gain=over(s["blank_gain"], s["blank_n"]),
        )

    def spread(self) -> Spread | None:
        """The distribution of precision, None where no page was decoded."""
        if not self.histogram:
            return None
        values, counts = self.curve()
        n, mean = int(counts.sum()), self.sums["precision"] / self.sums["precision_n"]
        low = high = None
        if n > 1:
            draws = np.random.default_rng(_SEED)
            drawn = [draws.multinomial(n, counts / n) @ values / n for _ in range(DRAWS)]
            off = mean - counts @ values / n  # what counting in steps moved the mean by
            low, high = (float(np.clip(edge + off, 0, 1)) for edge in np.quantile(drawn, (0.025, 0.975)))
        median, p05 = (quantile(values, counts, share) for share in (0.5, 0.05))
        return Spread(n=n, mean=float(mean), low=low, high=high, median=median, p05=p05)

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Precisions that occur, ascending, and how many pages have each: float64 and int64, `[k]`."""
        steps = sorted(self.histogram)
        return np.array(steps, np.float64) / STEPS, np.array([self.histogram[step] for step in steps], np.int64)


def over(part: float, whole: float) -> float | None:
    """`part / whole`, or None for a whole of nothing."""
    return part / whole if whole else None


def quantile(values: np.ndarray, counts: np.ndarray, share: float) -> float:
    """`np.quantile` of the values, each repeated by its count, without repeating them."""
    ends = np.cumsum(counts)
    place = share * (ends[-1] - 1)
    below, above = values[np.searchsorted(ends, [np.floor(place), np.ceil(place)], side="right")]
    return float(below + (above - below) * (place % 1))
