"""`corpus.json`: marks a location as a corpus and names its format."""

from __future__ import annotations

from palimpsest.errors import UsageError
from palimpsest.storage.object_store import NoSuchObject, ObjectStore
from palimpsest.storage.stable_json import Damaged, read_json, to_bytes

KEY = "corpus.json"
FORMAT = "palimpsest corpus"
VERSION = 2
REBUILD = "process the sources again into a new output (palimpsest run --out …)"
_SAMPLES_BEFORE = "memory.json"  # of sets of memory samples, before they were corpora


class NotACorpus(UsageError):
    """The location has other objects, or a corpus of a format that this version does not read."""


def create_corpus(store: ObjectStore, holds: str = "pages") -> None:
    """Create a corpus of "pages" or memory "samples", or open an existing one; many writers may call it at once.

    Raises:
        NotACorpus: the location has other objects already, or a corpus that this version cannot write.
    """
    check_output(store, holds)
    if not store.exists(KEY):
        store.create(KEY, to_bytes({"format": FORMAT, "version": VERSION, "holds": holds}))
        open_corpus(store, holds)


def check_output(store: ObjectStore, holds: str = "pages") -> None:
    """Raise NotACorpus as `create_corpus` would; nothing is written."""
    if not store.exists(KEY):
        other = next((info.key for info in store.list() if info.key != KEY and not info.key.startswith("_probe/")), None)
        if other == _SAMPLES_BEFORE:
            raise _deleted(store.uri(other), "memory samples of format 1")
        if other is None:
            return
        if not store.exists(KEY):  # another writer may have made it, and more, while we looked
            raise NotACorpus(f"{store.uri(other)} is in the way: the output must be empty or a corpus (with a {KEY})")
    open_corpus(store, holds)


def open_corpus(store: ObjectStore, holds: str | None = None) -> str:
    """The content of the corpus: "pages" or memory "samples".

    Raises:
        NotACorpus: there is no corpus, its content is not `holds` (if given), or this version does not read its format; the
            message names the remedy.
    """
    uri = store.uri(KEY)
    try:
        record = read_json(store, KEY)
    except NoSuchObject:
        if store.exists(_SAMPLES_BEFORE):
            raise _deleted(store.uri(_SAMPLES_BEFORE), "memory samples of format 1") from None
        raise NotACorpus(f"{uri} does not exist: this is not a corpus") from None
    except Damaged as error:
        raise NotACorpus(str(error)) from error
    version, content = record.get("version"), record.get("holds", "pages")
    if record.get("format") != FORMAT or not isinstance(version, int) or version < 1 or content not in ("pages", "samples"):
        raise NotACorpus(f"{uri} says {str(record)[:200]}; a corpus has format {FORMAT!r} and a version of 1 or more")
    if version > VERSION:
        raise NotACorpus(f"{uri} has format version {version}; this program reads version {VERSION}: upgrade it")
    if version < VERSION:
        raise _deleted(uri, f"a corpus of format version {version}")
    if holds not in (None, content):
        raise NotACorpus(f"{uri}: this corpus holds {content}, not {holds}; choose another corpus or output")
    return str(content)


def _deleted(uri: str, what: str) -> NotACorpus:
    return NotACorpus(f"{uri}: {what}, which is not read any more; {REBUILD}")
