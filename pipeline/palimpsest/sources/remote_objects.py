"""Places other than disks and S3: Google Cloud Storage, Azure, HTTP, SFTP, HDFS and data sets of the Hugging Face hub.

    gs://bucket/key  az://container/key  sftp://user@host/path  hdfs://host/path    listed by fsspec, read by smart-open
    hf://datasets/owner/name/path                                                   listed and read by huggingface_hub
    http(s)://host/path                                                             single objects: HTTP cannot list

Credentials come from where each library looks for them (environment, profile, key files); a URI with a password in it is refused.
The packages behind a scheme are extras: palimpsest[gcs], palimpsest[azure], palimpsest[ssh].
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from palimpsest.errors import UsageError
from palimpsest.sources.objects import Listed, SourceObject, record_name
from palimpsest.storage.s3_client import redacted

EXTRAS = {"gs": "gcs", "az": "azure", "sftp": "ssh", "hdfs": "", "hf": "", "http": "", "https": ""}
SCHEMES = tuple(EXTRAS)
_PROTOCOLS = {"gs": "gs", "az": "az", "sftp": "sftp", "hdfs": "hdfs"}
_ALIASES = {"gcs": "gs", "azure": "az", "abfs": "az", "ssh": "sftp", "scp": "sftp"}
_SECONDS = 60


class Changed(Exception):
    """An object is no longer the version that was listed."""


class RemoteError(OSError):
    """A remote service could not do it; the message names the object and the cause."""


def scheme_of(uri: str) -> str:
    """The scheme of a URI of this module, under its usual name; "" for any other."""
    name = uri.partition("://")[0].lower()
    name = _ALIASES.get(name, name)
    return name if name in SCHEMES else ""


def canonical(uri: str) -> str:
    """The URI with the usual name of its scheme.

    Raises:
        UsageError: a password in the URI (which the message does not repeat), or no host.
    """
    parts = urlsplit(uri)
    if parts.password is not None:
        raise UsageError(f"source {redacted(uri)!r} holds credentials; give them to the service's own settings instead")
    if not parts.netloc:
        raise UsageError(f"source {redacted(uri)!r} names no host or bucket")
    return f"{scheme_of(uri)}://{uri.partition('://')[2]}"


class RemoteObjects:
    """The objects of a scheme of this module: entries of a listing, first bytes, streams."""

    def entries(self, prefix: str) -> Iterator[Listed]:
        """The objects whose URI begins with `prefix`: the one of this very name first, then folder by folder.

        Raises:
            UsageError: the packages of the scheme are not installed.
            RemoteError: the service refuses, or cannot be reached.
        """
        if scheme_of(prefix) in ("http", "https"):
            if found := self._http(prefix):
                yield found
            return
        with _explained("list", prefix):
            system = _system(prefix)
            system.invalidate_cache()
            path = _path(prefix)
            if not prefix.endswith("/"):
                with suppress(FileNotFoundError):
                    info = system.info(path)
                    if info["type"] == "file":
                        yield _listed(prefix, info)
            folder = path.rpartition("/")[0] if "/" in path else path
            for _, _, files in system.walk(folder or "/", detail=True, on_error=_unless_missing):
                for info in files.values():
                    uri = _uri(prefix, info["name"])
                    if uri.startswith(prefix):
                        yield _listed(uri, info)

    def head(self, uri: str, length: int) -> bytes:
        """The first bytes of an object; b"" where there is none."""
        if scheme_of(uri) in ("http", "https"):
            return b""
        with _explained("read", uri):
            try:
                with _system(uri).open(_path(uri), "rb", block_size=1 << 16) as file:
                    return bytes(file.read(length))
            except (FileNotFoundError, PermissionError, IsADirectoryError):
                return b""

    @contextmanager
    def opened(self, item: SourceObject) -> Iterator[BinaryIO]:
        """The bytes of an object, seekable.

        Raises:
            FileNotFoundError: it is gone.
            Changed: it is no longer the version that was listed.
            RemoteError: the service refuses, or cannot be reached.
        """
        uri = item.key
        now = next(self.entries(uri), None)
        if now is None or now.item.uri != uri:
            raise FileNotFoundError(uri)
        if (now.item.version, now.item.size) != (item.version, item.size):
            raise Changed(uri)
        with _explained("read", uri):
            file = _stream(uri)
            seeks = _seeks(file)
            file = file if seeks else _stream(uri)
        with file, tempfile.TemporaryFile() as copy:
            guarded = _Guarded(file, uri)
            if seeks:
                yield cast(BinaryIO, guarded)
                return
            while chunk := guarded.read(1 << 20):
                copy.write(chunk)
            copy.seek(0)
            yield copy

    def _http(self, uri: str) -> Listed | None:
        import requests

        with _explained("read", uri):
            answer = requests.head(uri, allow_redirects=True, timeout=_SECONDS, headers={"Accept-Encoding": "identity"})
            if answer.status_code in (404, 410):
                return None
            answer.raise_for_status()
        size = answer.headers.get("Content-Length")
        if size is None:
            raise RemoteError(f"cannot read {redacted(uri)}: the server does not tell its size")
        changed, tag = answer.headers.get("Last-Modified"), answer.headers.get("ETag")
        info = {"size": int(size), "etag": tag, "mtime": parsedate_to_datetime(changed) if changed else None}
        return _listed(uri, info)


class _Guarded(io.RawIOBase):
    """A stream of another library whose errors are RemoteError."""

    def __init__(self, file: Any, uri: str) -> None:
        super().__init__()
        self._file, self._uri = file, uri

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with _explained("read", self._uri):
            self._file.seek(offset, whence)
            return int(self._file.tell())

    def read(self, size: int | None = -1) -> bytes:
        with _explained("read", self._uri):
            return bytes(self._file.read(-1 if size is None else size))

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        got = self.read(len(view))
        view[: len(got)] = got
        return len(got)


def _seeks(file: Any) -> bool:
    """Whether a stream can be entered anywhere: some servers of HTTP ignore ranges, some protocols have none."""
    try:
        file.seek(1)
        file.seek(0)
    except (OSError, ValueError):  # io.UnsupportedOperation is both
        return False
    return True


def _stream(uri: str) -> Any:
    if scheme_of(uri) == "hf":
        return _system(uri).open(_path(uri), "rb")
    import smart_open

    options: dict[str, Any] = {}
    if scheme_of(uri) == "az":
        from azure.storage.blob import BlobServiceClient

        options["client"] = BlobServiceClient.from_connection_string(os.environ["AZURE_STORAGE_CONNECTION_STRING"])
        uri = "azure" + uri.removeprefix("az")
    return smart_open.open(uri, "rb", compression="disable", transport_params=options)


@lru_cache(maxsize=16)
def _made(protocol: str, process: int, options: tuple[tuple[str, Any], ...]) -> Any:
    import fsspec

    cache: dict[str, Any] = {} if protocol in ("sftp", "hdfs") else {"use_listings_cache": False}  # those two keep none
    return fsspec.filesystem(protocol, skip_instance_cache=True, **cache, **dict(options))


def _system(uri: str) -> Any:
    """The file system of fsspec or of huggingface_hub behind a URI."""
    scheme, parts = scheme_of(uri), urlsplit(uri)
    if scheme == "hf":
        from huggingface_hub import HfFileSystem

        return HfFileSystem()
    options: dict[str, Any] = {}
    if scheme in ("sftp", "hdfs"):
        options = {"host": parts.hostname}
        options |= {name: value for name, value in (("port", parts.port), ("username", parts.username)) if value is not None}
    if scheme == "hdfs" and "username" in options:
        options["user"] = options.pop("username")
    if scheme == "az":
        connection = os.environ.get("AZURE_STORAGE_CONNECTION_STRING")
        if connection is None:
            raise UsageError(f"source {uri!r}: set AZURE_STORAGE_CONNECTION_STRING")
        options = {"connection_string": connection}
    return _made(_PROTOCOLS[scheme], os.getpid(), tuple(sorted(options.items())))


def _path(uri: str) -> str:
    """The name of an object as its file system has it."""
    rest = uri.partition("://")[2]
    return "/" + rest.partition("/")[2] if scheme_of(uri) in ("sftp", "hdfs") else rest


def _uri(like: str, name: str) -> str:
    """The URI of an object of a listing; `like` is another one of the same place."""
    scheme, _, rest = like.partition("://")
    if scheme_of(like) in ("sftp", "hdfs"):
        return f"{scheme}://{rest.partition('/')[0]}/{urlsplit(name).path.lstrip('/')}"
    return f"{scheme}://{name.removeprefix(scheme + '://')}"


def _listed(uri: str, info: Mapping[str, Any]) -> Listed:
    changed = next((info[name] for name in ("mtime", "last_modified", "updated", "LastModified") if info.get(name)), None)
    if isinstance(changed, str):
        changed = datetime.fromisoformat(changed)
    modified = changed.timestamp() if isinstance(changed, datetime) else float(changed or 0)
    tag = next((str(info[name]) for name in ("etag", "ETag", "generation", "blob_id", "oid") if info.get(name)), "")
    size = int(info["size"] or 0)
    version = f"etag:{tag.strip(chr(34))}" if tag else f"time:{modified:.6f}-{size}"
    return Listed(
        name=record_name(uri), item=SourceObject(uri=uri, key=uri, size=size, version=version), status="", modified=modified
    )


def _unless_missing(error: Exception) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


@contextmanager
def _explained(action: str, uri: str) -> Iterator[None]:
    """Errors of the libraries as RemoteError, and packages that are missing as UsageError."""
    try:
        yield
    except (FileNotFoundError, UsageError, RemoteError, GeneratorExit):
        raise
    except ImportError as error:
        extra = EXTRAS[scheme_of(uri)]
        said = f"pip install 'palimpsest[{extra}]'" if extra else f"install {error.name}"
        raise UsageError(f"source {redacted(uri)!r} needs a package that is not installed ({error.name}): {said}") from error
    except Exception as error:  # every service has exceptions of its own, without a common base class
        raise RemoteError(f"cannot {action} {redacted(uri)}: {type(error).__name__}: {redacted(str(error))}") from error


REMOTE = RemoteObjects()
