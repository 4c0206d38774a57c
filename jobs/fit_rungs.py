r"""Measure which modes of the codec that ships are rungs on each grid, and write its rungs file
(pipeline/palimpsest/tiers/operating_points).

    python jobs/fit_rungs.py codec_text.jsonl
    python jobs/fit_rungs.py codec_text.jsonl --grid 80x40 --pages 20

To be run again whenever the codec's weights change: the file is named after their hash. The pages are drawn from the end of the
codec's text that its training never saw (`jobs/gather_codec_text.py` gathers it).
"""

from __future__ import annotations

import argparse
import sys
import time

from palimpsest.config import JobConfig, load
from palimpsest.lab.bench.tiers import fit_rungs
from palimpsest.lab.training.codec_pages import SHARES, PageSampler
from palimpsest.operations.resolving import identify
from palimpsest.pages.layouts.grid import Grid
from palimpsest.tiers.measured import SHIPPED, shipped

GRIDS = ("64x32", "80x40", "96x48", "112x56", "128x64", "160x80")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", help="JSON lines, as jobs/gather_codec_text.py writes them; plain or .xz")
    parser.add_argument("--grid", action="append", help=f"may be repeated; else {', '.join(GRIDS)}")
    parser.add_argument("--pages", type=int, default=5, help="of each class of text")
    options = parser.parse_args()
    config: JobConfig = load("local")
    config = config.replace(verification=config.verification.replace(control_share=0.0))
    path = shipped(identify(config).revision)
    sampler = PageSampler(options.text, seed=5, held_out=True)
    for name in options.grid or GRIDS:
        began = time.monotonic()
        sampler.reseed(5)
        cells = Grid.parse(name).cells
        texts = {kind: "\n\n".join(sampler.text(kind, cells) for _ in range(options.pages)) for kind in SHARES}
        laid_out = config.replace(layout=config.layout.replace(grid=name))
        entry = fit_rungs(laid_out, texts, path, max_pages=options.pages)
        read = zip(entry["modes"], entry["precision"], entry["reached"]["0.97"], strict=True)
        measured = ", ".join(
            f"{mode} {precision:.2%} ({reached:.0%} of the pages reach 97 %)" for mode, precision, reached in read
        )
        print(
            f"{name}: {measured}; fading {entry['fading']}, climbing {entry['climbing']}; {time.monotonic() - began:.0f} s",
            flush=True,
        )
    print(f"written: {path}")
    for other in sorted(set(SHIPPED.glob("sha256-*.json")) - {path}):
        print(f"of other weights, delete it: {other}", file=sys.stderr)


if __name__ == "__main__":
    main()
