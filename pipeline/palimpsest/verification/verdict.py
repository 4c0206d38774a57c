"""The verdict on a page: the columns of the row contract on its decoded text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from palimpsest.codecs.dialects import DIALECTS, Dialect, Folded
from palimpsest.errors import UsageError
from palimpsest.verification import fidelity
from palimpsest.verification.reading import Decoded

Status = Literal["verified", "below_target", "unfinished"]
Score = Literal["raw", "folded", "set"]
"""The column that is compared with the target, by score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result of decoding a page's stored tokens.

    Attributes:
        precision: character precision; with reason "early_stop", its proven upper bound.
        folded_precision: character precision under the codec's dialect: its markup undone, whitespace folded (`codecs.dialects`).
        set_precision: distinct words of the output that occur in the text.
        word_precision: multiset word precision.
        exact: the decoded text equals the reference; under dialect "document", their folded texts are equal.
        decoder_passes: forward passes.
        blank_precision: precision of the text decoded from an empty page's tokens; None for pages outside the control sample.
        decoded_text: the decoded text; None if it equals the reference.
        misread: spans of the page's text that were read wrongly, as `fidelity.misread` gives them; empty when exact.
        status: "verified" when the whole output was read and reaches the target, "unfinished" when the model had not ended after
            the most tokens that it may write, otherwise "below_target".
        reason: why the output was cut ("loop", "length", "early_stop"), or None. A cut page is never verified: its precision
            describes the text up to the cut, not the decoder's whole output.
        detail: the evidence for the reason.

    With reason "early_stop" the rest of the page is unread: all of folded, set and word precision and misread are None.
    """

    precision: float
    folded_precision: float | None
    set_precision: float | None
    word_precision: float | None
    exact: bool
    decoder_passes: int
    blank_precision: float | None
    decoded_text: str | None
    misread: list[dict[str, int]] | None
    status: Status
    reason: str | None
    detail: str | None


def judge(
    references: Sequence[str],
    texts: Sequence[str],
    decoded: Sequence[Decoded],
    *,
    target_precision: float,
    blank_texts: Sequence[str | None] | None = None,
    dialect: Dialect = DIALECTS["plain"],
    score: Score = "raw",
) -> list[Verdict]:
    """Compare the decoded texts with the references, one verdict per page.

    Args:
        references: the pages' normalised texts.
        texts: `decoded[i].ids` as text.
        decoded: what `greedy.decode` returned.
        target_precision: in [0, 1]; a page at or above it is verified.
        blank_texts: texts decoded from an empty page's tokens, None for pages outside the control sample.
        dialect: of the codec; precision and set precision are of the text as it was written.
        score: which precision must reach the target.

    Raises:
        ValueError: the target is outside [0, 1], or the lists have different lengths.
    """
    if not 0 <= target_precision <= 1:
        raise UsageError(f"target_precision is {target_precision}; it must lie in [0, 1]")
    blanks = [None] * len(references) if blank_texts is None else blank_texts
    if not len(references) == len(texts) == len(decoded) == len(blanks):
        raise UsageError(
            f"{len(references)} references, {len(texts)} texts, {len(decoded)} decoded pages and {len(blanks)} blank texts; "
            "there must be one for each page"
        )
    blank_scores = iter(
        fidelity.precision(
            [reference for reference, blank in zip(references, blanks, strict=True) if blank is not None],
            [blank for blank in blanks if blank is not None],
        )
    )
    plain = [dialect.undo(text, reference) for text, reference in zip(texts, references, strict=True)]
    folded_references, folded_texts = [dialect.fold(text) for text in references], [dialect.fold(text) for text in plain]
    scores = zip(
        references,
        texts,
        folded_references,
        folded_texts,
        decoded,
        blanks,
        fidelity.precision(references, texts),
        fidelity.precision([folded.text for folded in folded_references], [folded.text for folded in folded_texts]),
        fidelity.fox_precision(references, texts),
        fidelity.word_precision(references, texts),
        fidelity.exact(references, texts),
        strict=True,
    )
    verdicts = []
    for reference, text, folded_reference, folded_text, page, blank, precision, folded, distinct, words, same in scores:
        bound = page.cut.precision_bound if page.cut else None
        reached = {"raw": precision, "folded": folded, "set": distinct}[score] >= target_precision
        exact = folded_reference.text == folded_text.text if dialect.document else bool(same)
        spans = _folded_spans(reference, folded_reference, folded_text) if dialect.document else fidelity.misread(reference, text)
        verdicts.append(
            Verdict(
                precision=float(precision) if bound is None else bound,
                folded_precision=float(folded) if bound is None else None,
                set_precision=float(distinct) if bound is None else None,
                word_precision=float(words) if bound is None else None,
                exact=exact and page.cut is None,
                decoder_passes=page.passes,
                blank_precision=None if blank is None else float(next(blank_scores)),
                decoded_text=None if same and page.cut is None else text,
                misread=[{"start": start, "end": end} for start, end in spans] if bound is None else None,
                status=_status(page, bool(reached)),
                reason=page.cut.reason if page.cut else None,
                detail=page.cut.detail if page.cut else None,
            )
        )
    return verdicts


def _status(page: Decoded, reached: bool) -> Status:
    if page.cut is None:
        return "verified" if reached else "below_target"
    return "unfinished" if page.cut.reason == "length" else "below_target"


def _folded_spans(reference: str, folded: Folded, text: Folded) -> list[tuple[int, int]]:
    """The misread parts of the folded text, as spans of the page's own text."""
    origin = [*folded.origin, len(reference)]
    return [
        (origin[start], origin[end - 1] + 1 if end > start else origin[start])
        for start, end in fidelity.misread(folded.text, text.text)
    ]
