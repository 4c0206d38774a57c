"""`corpus.json`: this prefix is a corpus, in this format."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from palimpsest.errors import UsageError
from palimpsest.storage.object_store import NoSuchObject, ObjectStore
from palimpsest.storage.stable_json import Damaged, read_json, to_bytes

KEY = "corpus.json"
FORMAT = "palimpsest corpus"
VERSION = 2


class NotACorpus(UsageError):
    """The output place holds something else, or a corpus of a format that this version does not know."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The content of `corpus.json`."""

    format: str = FORMAT
    version: int = VERSION


def create_corpus(store: ObjectStore) -> Corpus:
    """Make the place a corpus, or open the one that is there: safe to call by many writers at once.

    Raises:
        NotACorpus: the place holds other objects already, or a corpus that this version cannot write.
    """
    if not store.exists(KEY):
        other = next((info.key for info in store.list() if info.key != KEY and not info.key.startswith("_probe/")), None)
        if other is not None and not store.exists(KEY):  # another writer may have made it, and more, while we looked
            raise NotACorpus(f"{store.uri(other)} is in the way: the output must be empty or a corpus (with a {KEY})")
        store.create(KEY, to_bytes(asdict(Corpus())))
    return open_corpus(store)


def open_corpus(store: ObjectStore) -> Corpus:
    """The corpus that stands here.

    Raises:
        NotACorpus: there is none, or its format is another than this version reads.
    """
    try:
        record = read_json(store, KEY)
    except NoSuchObject:
        raise NotACorpus(f"{store.uri(KEY)} does not exist: this place is not a corpus") from None
    except Damaged as error:
        raise NotACorpus(str(error)) from error
    version = record.get("version")
    if record.get("format") != FORMAT or not isinstance(version, int) or version < 1:
        raise NotACorpus(f"{store.uri(KEY)} says {record}; a corpus has format {FORMAT!r} and a version of 1 or more")
    if version > VERSION:
        raise NotACorpus(f"{store.uri(KEY)} has format version {version}; this program reads {VERSION}: upgrade it")
    if version < VERSION:
        raise NotACorpus(
            f"{store.uri(KEY)} has format version {version}; this program reads {VERSION}, whose pages have other columns: "
            "process the sources again into a new output (palimpsest run --out …)"
        )
    return Corpus(format=FORMAT, version=version)
