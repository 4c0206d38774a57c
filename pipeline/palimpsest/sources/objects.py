"""The objects that a listing finds, and which names a listing passes over."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass

UNREAD = "unread"  # the version of an object that could not be read when it was listed
MAGIC = re.compile(r"[*?\[]")  # the first character that makes a name a glob


@dataclass(frozen=True, kw_only=True)
class SourceObject:
    """One object of a listing.

    Attributes:
        uri: as it was asked for (a relative path stays relative); rows carry this.
        key: what identifies the object wherever the program is started: the absolute path, or the URI.
        size: bytes.
        version: "sha256:…" of a local file's bytes, "etag:…" of a bucket's object, or UNREAD. Same bytes, same version: copying
            or touching a file does not make it new.
    """

    uri: str
    key: str
    size: int
    version: str

    @property
    def is_local(self) -> bool:
        return not self.key.startswith("s3://")


def local_object(path: str) -> SourceObject:
    """The object at `path`; one that cannot be read has the version UNREAD, and reading it will say why, in the quarantine."""
    try:
        size, version = _content(path)
    except OSError:
        size, version = 0, UNREAD
    return SourceObject(uri=path, key=os.path.abspath(path), size=size, version=version)


def _content(path: str) -> tuple[int, str]:
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for its writer
        raise OSError(f"{path} is not a regular file")
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), f"sha256:{digest}"


def is_hidden(name: str, asked: str) -> bool:
    """Whether a step of the path `name` begins with "." or "_" (markers such as `_SUCCESS`), unless `asked` spells it out."""
    spelled = {"", ".", "..", *asked.split("/")}
    return any(step.startswith((".", "_")) and step not in spelled for step in name.split("/"))
