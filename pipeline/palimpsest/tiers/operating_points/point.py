"""`OperatingPoint`: a layout and a mode of a codec, and what was read there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TARGETS = ("0.8", "0.9", "0.95", "0.97", "0.99")
"""Precisions for which a point tells the share of pages that reach them."""


@dataclass(frozen=True)
class OperatingPoint:
    """One mode of a codec on one layout, for one class of text.

    Attributes:
        text_class: of the pages; "all" for the mean of those that were measured.
        mode: of the codec.
        pages: that were scored.
        text_tokens: mean text tokens of a page.
        ratio: text tokens over context tokens, newline and separator rows included.
        vision_ratio: text tokens over visual tokens alone, as papers count.
        precision: mean over pages, under the score of the job that measured it (`verification.score`).
        p5: precision that 95 % of the pages reach.
        reached: share of the pages whose precision reaches a target, by target (TARGETS).
        layout: in words.
        basis: "measured", or "published, not measured here".
        source: the codec revision, or where published outputs come from.
        folded_precision, set_precision: means over pages (`verification.fidelity`, `codecs.dialects`); None where not measured.
    """

    text_class: str
    mode: str
    pages: int
    text_tokens: float
    ratio: float
    vision_ratio: float
    precision: float
    p5: float
    reached: Mapping[str, float]
    layout: str
    basis: str
    source: str
    folded_precision: float | None = None
    set_precision: float | None = None
