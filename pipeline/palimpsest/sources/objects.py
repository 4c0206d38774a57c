"""Source objects: what a listing finds."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass

UNREAD = "unread"  # the version of an object that could not be read when it was listed
MAGIC = re.compile(r"[*?\[]")  # the first character that makes a name a glob
_GLOB_TOKEN = re.compile(
    r"(?P<folders>(?:(?<=/)|^)\*\*/)|(?P<star>\*+)|(?P<one>\?)|\[(?P<negated>!?)(?P<set>\]?[^\]]*)\]|.", re.DOTALL
)


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
        return not re.match(r"[a-z][a-z0-9+.-]*://", self.key)


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


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One object of a listing.

    Attributes:
        name: its URI as rows and records have it.
        item: the object; its version is "" where nobody asked for it yet.
        status: of a local file, what shows that it is unchanged; "" in a bucket, whose listing gives the version.
        modified: when it was last changed, Unix time.
    """

    name: str
    item: SourceObject
    status: str
    modified: float


def record_name(uri: str) -> str:
    """A URI as rows and records have it: a file name need not be UTF-8."""
    return uri.encode("utf-8", "backslashreplace").decode()


def glob_pattern(pattern: str) -> re.Pattern[str]:
    """The rules of a local glob for keys: `*` and `?` stay within a folder, `**/` crosses any number of them. What lies below a
    folder that matches matches too; a pattern that ends in "/" matches folders only."""

    def rule(token: re.Match[str]) -> str:
        if token["folders"]:
            return "(?:[^/]+/)*"
        if token["star"]:
            return "[^/]*"
        if token["one"]:
            return "[^/]"
        if token["set"]:
            characters = re.sub(r"([\\\[\]^&~|])", r"\\\1", token["set"])
            return f"[{'^/' if token['negated'] else ''}{characters}]"
        return re.escape(token[0])

    below = "/.*" if pattern.endswith("/") else "(?:/.*)?"
    return re.compile(_GLOB_TOKEN.sub(rule, pattern.rstrip("/")) + below, re.DOTALL)
