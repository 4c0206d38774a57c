"""Operating points of pretrained codecs whose weights are not here: what others published, marked as such.

An operating point is a layout and a mode of a codec, with the compression ratio and the precision that were measured there, by
class of text. Those of the codec that ships are in its own file (`measured.py`); policies climb on those alone. Published ones
say what to expect (`palimpsest plan`), and are never taken for a measurement of this pipeline.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "operating_points"
FORMAT = 1


@dataclass(frozen=True)
class OperatingPoint:
    """One mode of a codec on one layout, for one class of text.

    Attributes:
        text_class: prose, or random (letters that no language model can guess).
        mode: of the codec.
        pages: that were scored.
        text_tokens: mean text tokens of a page.
        ratio: text tokens over context tokens, newline and separator rows included.
        vision_ratio: text tokens over visual tokens alone, as papers count.
        precision, folded_precision, set_precision: means over pages (`verification.fidelity`, `codecs.dialects`).
        p5: folded precision that 95 % of the pages reach.
        reached: share of the pages whose folded precision reaches a target, by target.
        layout: in words.
        basis: "published, not measured here".
        source: where the outputs come from.
    """

    text_class: str
    mode: str
    pages: int
    text_tokens: float
    ratio: float
    vision_ratio: float
    precision: float
    folded_precision: float
    p5: float
    set_precision: float
    reached: Mapping[str, float]
    layout: str
    basis: str
    source: str


def published_points(codec: str) -> list[OperatingPoint]:
    """The published operating points of the codec preset `codec`; empty where there are none."""
    path = FOLDER / f"{codec}.published.json"
    if not path.is_file():
        return []
    record = json.loads(path.read_text("utf-8"))
    assert record["format"] == FORMAT and record["codec"] == codec, f"{path} is no file of published operating points"
    common = {name: record[name] for name in ("layout", "basis", "source")}
    return [OperatingPoint(**point, **common) for point in record["points"]]
