"""Operating points of pretrained codecs whose weights are not here: what others published, marked as such.

They say what to expect (`palimpsest plan`). No policy climbs on them, and they are never taken for
measurements of this pipeline.
"""

from __future__ import annotations

import json
from pathlib import Path

from palimpsest.tiers.operating_points.point import OperatingPoint

FORMAT = 1


def published_points(codec: str) -> list[OperatingPoint]:
    """The published operating points of the codec preset `codec`; empty where there are none."""
    path = Path(__file__).parent / f"{codec}.published.json"
    if not path.is_file():
        return []
    record = json.loads(path.read_text("utf-8"))
    assert record["format"] == FORMAT and record["codec"] == codec, f"{path} is no file of published operating points"
    common = {name: record[name] for name in ("layout", "basis", "source")}
    return [OperatingPoint(**point, **common) for point in record["points"]]
