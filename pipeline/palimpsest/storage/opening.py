"""The store behind a path or URI, found by its scheme."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from palimpsest.errors import UsageError
from palimpsest.storage.object_store import ObjectStore
from palimpsest.storage.s3_client import redacted

SCHEMES = ("file", "s3")


def open_store(uri: str | Path) -> ObjectStore:
    """The store at a path or URI, found by its scheme. Creates nothing, and asks no service.

    Raises:
        ValueError: no store has this scheme, or the URI contains credentials.
    """
    scheme, separator, _ = str(uri).partition("://")
    if not separator:
        scheme, path = "file", str(uri)
    match scheme.lower():  # a new kind of storage is one new file and one case here
        case "file":
            from palimpsest.storage.local_store import LocalStore

            if separator:
                parts = urlsplit(str(uri))
                path = url2pathname(parts.path)
            if not path or (separator and parts.netloc not in ("", "localhost")):
                shown = redacted(str(uri))
                raise UsageError(f"store {shown!r} names no local path; write file:///an/absolute/path or a plain path")
            return LocalStore(path)
        case "s3":
            from palimpsest.storage.s3_store import S3Store

            return S3Store(str(uri))
        case _:
            supported = ", ".join(["a plain path", *(f"{name}://" for name in SCHEMES)])
            raise UsageError(f"store {redacted(str(uri))!r} has the scheme {scheme!r}; supported: {supported}")
