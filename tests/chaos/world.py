"""Source objects that change every night, and what a corpus must hold of them in the end.

Everything follows from the seed. Texts are shared between objects, move from one to another, span several pages; there are bad
records, empty objects, unreadable ones, and the formats and compressions that people have.
"""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from palimpsest.sources.documents import document_id
from tests.mixed_sources import prose

SUFFIXES = ("jsonl", "jsonl", "jsonl.gz", "txt", "md", "parquet")
FOLDERS = ("", "a/", "deep/er/", "with space/", "ünï/")
SHARED = 3  # texts that two objects hold to begin with
BAD_LINE = '{"text": "never clo\n'


class World:
    """The objects below one prefix.

    Attributes:
        texts: of each object, by name; those of an object that cannot be read do not count.
        broken: names of objects that are no Parquet, although they say so.
    """

    def __init__(self, seed: int, put: Callable[[str, bytes], None], delete: Callable[[str], None], objects: int = 7) -> None:
        self._dice, self._put, self._delete = random.Random(f"world {seed}"), put, delete
        self._made = 0
        self.texts: dict[str, list[str]] = {}
        self.broken: set[str] = set()
        for _ in range(objects):
            self._add()
        for _ in range(SHARED):
            self._share()

    def night(self) -> None:
        """What happens to the objects until the next pass: some are rewritten, vanish, arrive, trade their texts."""
        for _ in range(self._dice.randint(2, 5)):
            self._dice.choice((self._add, self._rewrite, self._rewrite, self._remove, self._share, self._share, self._move))()

    def documents(self) -> dict[str, set[str]]:
        """Document ids, and the names of the objects that hold each."""
        holders: dict[str, set[str]] = {}
        for name, texts in self.texts.items():
            for text in texts:
                holders.setdefault(document_id(text), set()).add(name)
        return holders

    def _text(self) -> str:
        self._made += 1
        chars = self._dice.choice((60, 400, 1500, 3000, 5000))
        return f"{prose(chars, self._dice.randrange(1 << 30))} number {self._made}"

    def _add(self) -> None:
        name = f"{self._dice.choice(FOLDERS)}{self._made:03d}.{self._dice.choice(SUFFIXES)}"
        if self._dice.random() < 0.08:
            name = f"broken-{self._made:03d}.parquet"
            self._made += 1
            self.broken.add(name)
            self._put(name, b"PAR1 but no more of it")
            return
        single = name.endswith((".txt", ".md"))
        self._write(name, [self._text() for _ in range(1 if single else self._dice.choice((0, 1, 2, 3, 4)))])

    def _rewrite(self) -> None:
        name = self._dice.choice(sorted(self.texts))
        texts = self.texts[name]
        if texts and self._dice.random() < 0.5:
            texts = [*texts[:-1], self._text()]
        else:
            texts = [self._text() for _ in range(max(1, len(texts)))]
        self._write(name, texts)

    def _remove(self) -> None:
        if len(self.texts) > 4:
            name = self._dice.choice(sorted(self.texts))
            del self.texts[name]
            self._delete(name)

    def _share(self) -> None:
        """An object takes in a text that another one has."""
        texts = [text for held in self.texts.values() for text in held]
        if texts:
            name, text = self._dice.choice(self._several()), self._dice.choice(texts)
            if text not in self.texts[name]:
                self._write(name, [*self.texts[name], text])

    def _move(self) -> None:
        """A text leaves one object for another."""
        source = self._dice.choice([name for name in self._several() if self.texts[name]] or [""])
        target = self._dice.choice(self._several())
        if source and target != source:
            text = self.texts[source][0]
            self._write(source, self.texts[source][1:])
            if text not in self.texts[target]:
                self._write(target, [text, *self.texts[target]])

    def _several(self) -> list[str]:
        """Objects that hold any number of texts."""
        found = [name for name in sorted(self.texts) if not name.endswith((".txt", ".md"))]
        if not found:
            self._write("several.jsonl", [self._text()])
            return ["several.jsonl"]
        return found

    def _write(self, name: str, texts: Sequence[str]) -> None:
        self.texts[name] = list(texts)
        self._put(name, _body(name, texts, bad=self._dice.random() < 0.2))


def _body(name: str, texts: Sequence[str], *, bad: bool) -> bytes:
    if name.endswith(".parquet"):
        sink = io.BytesIO()
        pq.write_table(pa.table({"id": [str(n) for n in range(len(texts))], "text": pa.array(texts, pa.string())}), sink)
        return sink.getvalue()
    if name.endswith((".txt", ".md")):
        return texts[0].encode()
    lines = "".join(json.dumps({"id": str(number), "text": text}) + "\n" for number, text in enumerate(texts))
    body = (lines + (BAD_LINE if bad else "")).encode()
    return gzip.compress(body, mtime=0) if name.endswith(".gz") else body
