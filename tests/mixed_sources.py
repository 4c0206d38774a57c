"""A folder with every kind of source and many kinds of bad records, and what a run must make of it."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SENTENCE = "the ship sailed over a grey sea and nobody on board knew where the wind would carry them before winter"


def prose(chars: int, seed: int) -> str:
    """Words, about `chars` characters of them."""
    chosen = random.Random(seed).choices(SENTENCE.split(), k=chars // 4)
    return " ".join(chosen)[:chars]


LONG, SHORT, TABLE = prose(5000, 1), prose(300, 2), "".join(f"{n},{n * n},{n**3}\n" for n in range(60))
ARABIC, CHINESE = "كانت السفينة تبحر في بحر رمادي. " * 4, "船在灰色的海上航行，没有人知道风会把他们带到哪里。" * 3
BAD_LINES: list[tuple[str, bytes]] = [
    ("invalid_json", b'{"id": "cut", "text": "never clo'),
    ("invalid_json", b"[1, 2]"),
    ("missing_text", b'{"id": "m", "body": "x"}'),
    ("null_text", b'{"id": "n", "text": null}'),
    ("non_string_text", b'{"id": "i", "text": 5}'),
    ("empty_text", b'{"id": "e", "text": ""}'),
    ("empty_text", json.dumps({"id": "z", "text": "\u200b\ufeff\u200b"}).encode()),  # nothing is left after normalising
    ("invalid_utf8", b'{"id": "u", "text": "\xff\xfe"}'),
    ("lone_surrogates", b'{"id": "s", "text": "\\ud800"}'),
    ("non_string_text", b'{"id": "t", "text": ["y"], "timestamp": "soon"}'),
]
GOOD_LINES = [
    {"id": "first", "text": prose(2500, 3), "timestamp": "2024-05-06T07:08:09Z", "importance": 0.25, "text_class": "letters"},
    {"id": 7, "text": prose(40, 4)},
    {"id": "arabic", "text": ARABIC},
    {"id": "chinese", "text": CHINESE},
    {"id": "again", "text": prose(40, 4)},  # a duplicate within the unit
    {"id": "copy", "text": SHORT},  # a duplicate of the .md file
]
PARQUET = [("p1", TABLE), ("p2", LONG), ("p3", None), ("p4", prose(900, 5))]

STORED = [LONG, SHORT, prose(2500, 3), prose(40, 4), ARABIC, CHINESE, TABLE, prose(900, 5)]
DUPLICATES = 3
REASONS = Counter([*(reason for reason, _ in BAD_LINES), "null_text"])
DOCUMENTS = len(STORED) + DUPLICATES + REASONS.total()


def write_mixed_sources(folder: Path) -> Path:
    (folder / "a.txt").write_text(LONG)
    (folder / "b.md").write_text(SHORT)
    lines = [*(json.dumps(record).encode() for record in GOOD_LINES), *(line for _, line in BAD_LINES)]
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(b"\n".join(lines), mtime=0))
    ids, texts = zip(*PARQUET, strict=True)
    pq.write_table(pa.table({"id": ids, "text": texts}), folder / "d.parquet")
    (folder / "e.bin").write_bytes(b"\0\1\2")  # passed over: it is no document and no finding
    return folder
