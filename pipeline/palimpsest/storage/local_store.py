"""A directory as an object store.

A write goes to a file under `.unfinished/`, is synced to disk, and only then gets its name. If the name must not exist yet, a
hard link gives it: this is atomic, and the kernel refuses an existing name. Otherwise a rename gives it. Files that a crash
leaves behind are in this one folder, which no listing shows.

Symbolic links below the root are not followed: listings omit them, and a key whose path has one is refused. The root itself may
be a link.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from palimpsest.storage.object_store import Body, NoSuchObject, ObjectInfo, StoreError, check_key, is_key

UNFINISHED = ".unfinished"
_HINTS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than this process may write",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "this user may not do that here",
    errno.EPERM: "this user may not do that here, or the file system has no hard links",
    errno.EOPNOTSUPP: "the file system has no hard links",
    errno.EXDEV: "a part of the corpus lies on another file system; keep it on one",
    errno.ENOTDIR: "a part of the path is a file, not a directory",
}


class LocalStore:
    """Objects are files below `root`; the first write creates it."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().absolute()

    def __repr__(self) -> str:
        return f"LocalStore({str(self.root)!r})"

    def create(self, key: str, body: Body) -> bool:
        target = self._path(key)
        with _explained("create", target):
            if target.exists():
                return False
            with self._written(body) as temporary:
                self._make_directory(target.parent)
                try:
                    os.link(temporary, target)
                except FileExistsError:
                    # Network file systems repeat a link whose answer was lost: then the existing file is ours.
                    if not os.path.samefile(temporary, target):
                        return False
            _sync_directory(target.parent)
        return True

    def put(self, key: str, body: Body) -> None:
        target = self._path(key)
        with _explained("write", target), self._written(body) as temporary:
            self._make_directory(target.parent)
            os.replace(temporary, target)
            _sync_directory(target.parent)

    def read(self, key: str) -> bytes:
        with self.open(key) as stream, _explained("read", self._path(key)):
            return stream.read()

    def open(self, key: str) -> BinaryIO:
        target = self._path(key)
        with _explained("read", target):
            try:
                return target.open("rb")
            except FileNotFoundError:
                raise NoSuchObject(f"{target} does not exist") from None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        folder = prefix.rpartition("/")[0]
        start = self._path(folder) if folder else self.root
        for info in self._walk(start, f"{folder}/" if folder else ""):
            if info.key.startswith(prefix) and is_key(info.key):
                yield info

    def exists(self, key: str) -> bool:
        target = self._path(key)
        with _explained("read", target):
            return target.is_file()

    def delete(self, key: str) -> None:
        target = self._path(key)
        with _explained("delete", target), suppress(FileNotFoundError):
            os.unlink(target)

    def uri(self, key: str) -> str:
        return str(self._path(key))

    def unfinished(self) -> Iterator[ObjectInfo]:
        yield from self._walk(self._unlinked(self.root / UNFINISHED), f"{UNFINISHED}/")

    def discard(self, key: str) -> None:
        target = self._unlinked(self.root / UNFINISHED) / Path(key).name
        with _explained("delete", target), suppress(FileNotFoundError):
            os.unlink(target)

    def _path(self, key: str) -> Path:
        return self._unlinked(self.root / check_key(key))

    def _unlinked(self, path: Path) -> Path:
        """`path`, unless it or a folder above it, up to the root, is a symbolic link. Raises StoreError."""
        inside = (part for part in (path, *path.parents) if self.root in part.parents)
        link = next((part for part in inside if part.is_symlink()), None)
        if link is not None:
            raise StoreError(f"{link} is a symbolic link: a corpus has none, and none is followed")
        return path

    def _walk(self, folder: Path, prefix: str) -> Iterator[ObjectInfo]:
        with _explained("list", folder):
            try:
                entries = os.scandir(folder)
            except FileNotFoundError:
                return
            with entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.is_symlink():
                        continue
                    if entry.is_dir():
                        yield from self._walk(Path(entry.path), f"{prefix}{entry.name}/")
                        continue
                    with suppress(FileNotFoundError):  # deleted while we look
                        status = entry.stat()
                        yield ObjectInfo(prefix + entry.name, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))

    @contextmanager
    def _written(self, body: Body) -> Iterator[Path]:
        """A synced file with the content of `body`; it is deleted afterwards unless it was renamed."""
        self._make_directory(self._unlinked(self.root / UNFINISHED))
        temporary = self.root / UNFINISHED / f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            with temporary.open("xb") as sink:
                if isinstance(body, Path):
                    with body.open("rb") as source:
                        shutil.copyfileobj(source, sink, 1 << 20)
                else:
                    sink.write(body)
                sink.flush()
                os.fsync(sink.fileno())
            yield temporary
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)

    def _make_directory(self, folder: Path) -> None:
        """`mkdir -p`, with each new name synced to disk, so that no crash loses a published object with its directory."""
        if folder.is_dir():
            return
        if folder.parent != folder:
            self._make_directory(folder.parent)
        with suppress(FileExistsError):
            os.mkdir(folder)
        _sync_directory(folder.parent)


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _explained(action: str, target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = _HINTS.get(error.errno or 0)
        raise StoreError(f"cannot {action} {target}: {error.strerror or error}{f' ({hint})' if hint else ''}") from error
