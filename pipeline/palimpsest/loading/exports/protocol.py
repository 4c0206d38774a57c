"""The formats of exports by name, and their writers' protocol.

export("lance", Corpus("corpora/books"), Path("books.lance"))       # {"pages": 1041, …}
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from palimpsest.codecs.token_storage.pq import PREFIX
from palimpsest.corpus.codebooks import codebook_bytes, codebook_key
from palimpsest.corpus.reader import Corpus
from palimpsest.errors import UsageError
from palimpsest.loading.exports.snapshot_pages import SnapshotPages


class Format(NamedTuple):
    """What a format needs installed; None where it needs nothing.

    Attributes:
        module: its import name.
        package: its name for pip.
    """

    module: str | None = None
    package: str | None = None


FORMATS = {"hf": Format(), "lance": Format("lance", "pylance"), "mds": Format(), "webdataset": Format("webdataset", "webdataset")}
"""Formats by name, each the module of this folder of that name."""


class Writer(Protocol):
    """The function `write` of a format."""

    def __call__(self, pages: SnapshotPages, target: Path, **options: Any) -> None:
        """Write every page of a snapshot once.

        Args:
            target: an empty folder.
            options: the format's own.
        """
        ...


def export(name: str, corpus: Corpus, target: Path, **options: Any) -> dict[str, Any]:
    """Write a snapshot as the data set of another tool; its counts.

    The codebooks of tokens that are stored as pq lie beside it in `_codebooks/`, by the sha256 that `token_dtype` names.

    Raises:
        UsageError: an unknown format, one whose package is not installed, or a target that is not empty.
        Damaged: a shard or a codebook is.
    """
    if name not in FORMATS:
        raise UsageError(f"format = {name!r}: choose {', '.join(FORMATS)}")
    needed = FORMATS[name]
    if needed.module is not None and find_spec(needed.module) is None:
        raise UsageError(f"{needed.package} is not installed: pip install 'palimpsest[export]'")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{str(target)!r} is not empty: an export needs a new or empty folder")
    target.mkdir(parents=True, exist_ok=True)
    pages = SnapshotPages(corpus)
    write: Writer = import_module(f"palimpsest.loading.exports.{name}").write
    write(pages, target, **options)
    _add_codebooks(pages, target)
    return pages.facts()


def _add_codebooks(pages: SnapshotPages, target: Path) -> None:
    for dtype in sorted(pages.counts["token_dtype"]):
        if dtype.startswith(PREFIX):
            key = codebook_key(dtype.removeprefix(PREFIX))
            body = codebook_bytes(pages.corpus.store, key)
            (target / key).parent.mkdir(exist_ok=True)
            (target / key).write_bytes(body)
