"""The result of `palimpsest verify`, and the sums that it is made from, in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from palimpsest.codecs.token_storage import find_storage
from palimpsest.report.measures import STEPS, Mean, Measures, Spread
from palimpsest.report.summary import MAX_CLASSES, OTHER, UNNAMED
from palimpsest.verification import fidelity

if TYPE_CHECKING:
    from palimpsest.verification.verdict import Verdict

TOLERANCE = 0.01
"""How far two readings of a page may be apart: on a GPU, a near tie can turn with the batch that the page is in."""
NAMED = 1_000  # disagreements and damages that are named; all are counted
BASELINE = "bf16"
COUNTED = ("pages", "text_pages", "compared", "identical", "agreeing", "disagreeing", "damaged", "remade", "not_remade")


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A page that reads otherwise than its row says; `reason` is why its output was cut now, if it was."""

    page_id: str
    recorded_precision: float
    found_precision: float
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class Damage:
    """A page (or, where `page_id` is None, a shard from there on) that cannot be decoded, and why."""

    page_id: str | None
    what: str


@dataclass(frozen=True, kw_only=True)
class GroupPrecision:
    """Pages of one class and mode: the precisions that their rows record (None where none does), and those found now."""

    text_class: str
    mode: str
    pages: int
    recorded: Spread | None
    found: Spread


@dataclass(frozen=True, kw_only=True)
class StorageLoss:
    """The decode loss of one token storage, over the pages that all storages were tried on in this run.

    Attributes:
        text_class: of these pages; None for all pages.
        bytes_per_token: stored bytes of one visual token, scales included.
        bytes_per_text_token: stored bytes of the pages' visual tokens over their text tokens.
        loss: mean over the pages of the precision from bf16 minus the precision from this storage; below 0 is luck.
        loss_low, loss_high: its 95 % confidence interval (normal approximation over pages); None for a single page.
        changed: pages whose decoded text differs from that of bf16.
    """

    storage: str
    text_class: str | None
    pages: int
    bytes_per_token: int
    bytes_per_text_token: float
    precision: Spread
    loss: float
    loss_low: float | None
    loss_high: float | None
    changed: int


@dataclass(frozen=True, kw_only=True)
class ReverifyResult:
    """The result of a verification.

    Attributes:
        rows: of the snapshot that could be read; `pages` of them were decoded.
        text_pages: rows of tier text, which have no tokens.
        compared: decoded pages whose row records a verdict; the others were not decoded when they were made.
        identical: compared pages that read letter by letter as recorded.
        agreeing, disagreeing: compared pages, by whether what is read now and its precision differ from what is recorded by more
            than TOLERANCE. Where that is the upper bound of an early stop, a whole reading may be anything up to it.
        disagreements, damages: by name, the first NAMED of them.
        remade, not_remade: pages that were encoded again, with `storages` or because no tokens are stored: whose text gave the
            recorded tokens again, and whose text did not.
    """

    corpus: str
    snapshot: int
    codec: str
    codec_revision: str
    dtype: str
    share: float
    rows: int
    pages: int
    text_pages: int
    compared: int
    identical: int
    agreeing: int
    disagreeing: int
    damaged: int
    disagreements: tuple[Disagreement, ...]
    damages: tuple[Damage, ...]
    groups: tuple[GroupPrecision, ...]
    storages: tuple[StorageLoss, ...]
    remade: int
    not_remade: int
    seconds: float

    @property
    def findings(self) -> int:
        """Pages that are not what they should be, and shards that cannot be read."""
        return self.disagreeing + self.damaged

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "findings": self.findings}


@dataclass
class _StorageSums:
    precision: Measures = field(default_factory=Measures)
    losses: list[float] = field(default_factory=lambda: [0.0, 0.0])  # their sum and the sum of their squares
    changed: int = 0
    tokens: list[int] = field(default_factory=lambda: [0, 0])  # visual tokens and text tokens

    def add(self, page: dict[str, Any], verdict: Verdict, best: Verdict) -> None:
        _note(self.precision, verdict.precision)
        loss = best.precision - verdict.precision
        self.losses = [self.losses[0] + loss, self.losses[1] + loss * loss]
        self.changed += verdict.decoded_text != best.decoded_text
        self.tokens = [self.tokens[0] + page["num_vision_tokens"], self.tokens[1] + page["num_text_tokens"]]


@dataclass
class Findings:
    """Sums over the corpus while it streams by."""

    counts: Counter[str] = field(default_factory=Counter)
    disagreements: list[Disagreement] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)
    by_group: dict[tuple[str, str], tuple[Measures, Measures]] = field(default_factory=dict)
    by_storage: dict[tuple[str, str | None], _StorageSums] = field(default_factory=dict)

    def damage(self, page_id: str | None, what: str) -> None:
        self.counts["damaged"] += 1
        if len(self.damages) < NAMED:
            self.damages.append(Damage(page_id=page_id, what=what))

    def compare(self, rows: pa.Table, verdicts: Sequence[Verdict]) -> None:
        """Take in decoded rows."""
        columns = ["page_id", "text", "text_class", "mode", "reason", "precision", "exact", "decoded_text"]
        for row, verdict in zip(rows.select(columns).to_pylist(), verdicts, strict=True):
            self.counts["pages"] += 1
            recorded, found = self._group(row["text_class"] or UNNAMED, row["mode"])
            precision = float(np.float32(verdict.precision))  # as a row keeps it
            _note(found, precision)
            if row["precision"] is None:
                continue
            _note(recorded, row["precision"])
            agrees = _agrees(row, verdict, precision)
            self.counts["compared"] += 1
            self.counts["agreeing" if agrees else "disagreeing"] += 1
            self.counts["identical"] += verdict.exact == row["exact"] and verdict.decoded_text == row["decoded_text"]
            if not agrees and len(self.disagreements) < NAMED:
                self.disagreements.append(
                    Disagreement(
                        page_id=row["page_id"],
                        recorded_precision=row["precision"],
                        found_precision=precision,
                        reason=verdict.reason,
                    )
                )

    def remade(self, remade: int, pages: int) -> None:
        """Take in how many of the pages that were encoded again gave the recorded tokens."""
        self.counts["remade"] += remade
        self.counts["not_remade"] += pages - remade

    def store(self, rows: pa.Table, verdicts: dict[str, Sequence[Verdict]]) -> None:
        """Take in what one batch of pages read from each storage."""
        baseline = verdicts[BASELINE]
        pages = rows.select(["text_class", "mode", "num_vision_tokens", "num_text_tokens"]).to_pylist()
        for storage, read in verdicts.items():
            for page, verdict, best in zip(pages, read, baseline, strict=True):
                text_class, _ = self._key(page["text_class"] or UNNAMED, page["mode"])
                for key in ((storage, None), (storage, text_class)):
                    self.by_storage.setdefault(key, _StorageSums()).add(page, verdict, best)

    def _group(self, text_class: str, mode: str) -> tuple[Measures, Measures]:
        return self.by_group.setdefault(self._key(text_class, mode), (Measures(), Measures()))

    def _key(self, text_class: str, mode: str) -> tuple[str, str]:
        new = (text_class, mode) not in self.by_group
        return (OTHER, mode) if new and len(self.by_group) >= MAX_CLASSES else (text_class, mode)

    def groups(self) -> Iterator[GroupPrecision]:
        for (text_class, mode), (recorded, found) in sorted(self.by_group.items()):
            spread = found.spread()
            assert spread is not None
            yield GroupPrecision(text_class=text_class, mode=mode, pages=spread.n, recorded=recorded.spread(), found=spread)

    def losses(self, dim: int) -> Iterator[StorageLoss]:
        """Of each storage, over all pages first and then by class."""
        order = sorted(self.by_storage, key=lambda key: (key[1] is not None, key[1] or ""))
        for storage, text_class in order:
            sums = self.by_storage[storage, text_class]
            spread = sums.precision.spread()
            assert spread is not None
            n, (total, squares), (vision, text) = spread.n, sums.losses, sums.tokens
            mean = total / n
            half = 1.96 * (max(0.0, squares - n * mean * mean) / (n - 1) / n) ** 0.5 if n > 1 else None
            size = find_storage(storage).bytes_per_token(dim)
            yield StorageLoss(
                storage=storage,
                text_class=text_class,
                pages=n,
                bytes_per_token=size,
                bytes_per_text_token=round(size * vision / max(1, text), 2),
                precision=spread,
                loss=mean,
                loss_low=None if half is None else mean - half,
                loss_high=None if half is None else mean + half,
                changed=sums.changed,
            )


def _agrees(row: dict[str, Any], verdict: Verdict, precision: float) -> bool:
    if row["reason"] == "early_stop" != verdict.reason:
        return precision <= row["precision"] + TOLERANCE
    then, now = (row["text"] if text is None else text for text in (row["decoded_text"], verdict.decoded_text))
    alike = then == now or fidelity.precision([then], [now])[0] >= 1 - TOLERANCE
    return bool(alike) and abs(precision - row["precision"]) <= TOLERANCE


def _note(measures: Measures, precision: float) -> None:
    measures.means["precision"] += Mean(precision, 1)
    measures.histogram[round(precision * STEPS)] += 1
