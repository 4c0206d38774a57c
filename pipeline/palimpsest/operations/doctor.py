"""`palimpsest doctor`: checks whether this machine can run a job, and gives advice where it cannot.

Each check is a function that returns findings; nothing here starts Ray or loads a model.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from palimpsest.report.tables import size

OK, WARNING, PROBLEM = "ok", "warning", "problem"
LEAST_MEMORY = 4 * 10**9  # of a local job with the embedded codec, in bytes: driver, Ray and two model actors
LEAST_DISK = 2 * 10**9  # shards, and Ray's spilling
LEAST_SHARED = 10**8  # bytes of /dev/shm below which Ray's object store falls back to slow files


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result of one check.

    Attributes:
        state: "ok", "warning" (a job runs, but see `advice`) or "problem" (a job does not run).
        advice: the remedy.
    """

    subject: str
    state: str
    detail: str
    advice: str = ""


def examine(uris: Sequence[str] = (), folder: str | Path = ".") -> list[Check]:
    """All checks.

    Args:
        uris: sources or corpora whose storage is listed with the credentials of this machine.
        folder: the disk that a corpus or Ray's spilling would be written to.
    """
    checks = [*_python(), *_packages(), *_devices(), *_ray(), *_fonts(), *_codec(), *_memory(), *_disk(Path(folder))]
    for uri in uris:
        checks += storage_of(uri)
    return checks


def _python() -> Iterator[Check]:
    found = platform.python_version()
    fine = sys.version_info >= (3, 11)
    yield Check(
        subject="Python", state=OK if fine else PROBLEM, detail=found, advice="" if fine else "install Python 3.11 or later"
    )


def _packages() -> Iterator[Check]:
    """The installed version of every requirement of this distribution."""
    try:
        wanted = [Requirement(text) for text in metadata.requires("palimpsest") or ()]
    except metadata.PackageNotFoundError:
        yield Check(subject="packages", state=WARNING, detail="palimpsest is not installed", advice="pip install palimpsest")
        return
    wrong = []
    for requirement in wanted:
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found}, required {requirement.specifier}")
    state = PROBLEM if wrong else OK
    advice = "pip install --upgrade palimpsest, in an environment of its own" if wrong else ""
    yield Check(subject="packages", state=state, detail="; ".join(wrong) or f"{len(wanted)} requirements", advice=advice)
    lab = [requirement for requirement in wanted if requirement.marker and requirement.marker.evaluate({"extra": "lab"})]
    missing = [r.name for r in lab if not r.marker.evaluate({"extra": ""}) and not _installed(r.name)]  # type: ignore[union-attr]
    if missing:
        detail = f"{', '.join(missing)} missing: no benchmarks, no training"
        yield Check(subject="extra lab", state=WARNING, detail=detail, advice="pip install 'palimpsest[lab]', if you want them")


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
        return True
    except metadata.PackageNotFoundError:
        return False


def _devices() -> Iterator[Check]:
    try:
        import torch
    except ImportError as error:
        yield Check(subject="torch", state=PROBLEM, detail=str(error), advice="pip install torch")
        return
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        yield Check(subject="torch", state=OK, detail=f"{torch.__version__}, no GPU ({built}): the embedded codec needs none")
        return
    names = ", ".join(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
    yield Check(subject="torch", state=OK, detail=f"{torch.__version__}, {names}")


def _ray() -> Iterator[Check]:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        if name in os.environ:
            detail = f"{name} = {os.environ[name]}: Ray prefers it to placement.address"
            yield Check(subject="Ray", state=WARNING, detail=detail, advice=f"unset {name}, unless you mean that cluster")
    shared = Path("/dev/shm")
    if shared.is_dir() and (free := shutil.disk_usage(shared).free) < LEAST_SHARED:
        detail = f"/dev/shm has {size(free)} free: the object store will be slow files"
        yield Check(subject="Ray", state=WARNING, detail=detail, advice="enlarge it (docker run --shm-size=1g)")


def _fonts() -> Iterator[Check]:
    from palimpsest.pages.fonts import FONTS, font_bytes

    wrong = []
    for name in FONTS:
        try:
            font_bytes(name)
        except (RuntimeError, OSError) as error:
            wrong.append(str(error))
    advice = "install Palimpsest again: the fonts are part of it" if wrong else ""
    yield Check(subject="fonts", state=PROBLEM if wrong else OK, detail="; ".join(wrong) or f"{len(FONTS)} files", advice=advice)


def _codec() -> Iterator[Check]:
    from palimpsest.codecs.checkpoint import CheckpointError, identify
    from palimpsest.codecs.presets import find_preset

    try:
        revision = identify(find_preset("embedded"))[1]
    except (CheckpointError, OSError) as error:
        yield Check(subject="embedded codec", state=PROBLEM, detail=str(error), advice="install Palimpsest again")
        return
    yield Check(subject="embedded codec", state=OK, detail=f"revision {revision}")


def _memory() -> Iterator[Check]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + _reclaimable()
    state = OK if free >= LEAST_MEMORY else WARNING
    advice = (
        "" if state == OK else f'a local job needs {size(LEAST_MEMORY)}: close something, or set placement.executor = "local"'
    )
    yield Check(subject="memory", state=state, detail=f"{size(free)} free, {cores} cores", advice=advice)


def _reclaimable() -> int:
    """Bytes of the page cache that Linux frees on demand."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Cached:", "SReclaimable:")))


def _disk(folder: Path) -> Iterator[Check]:
    free = shutil.disk_usage(folder).free
    state = OK if free >= LEAST_DISK else WARNING
    advice = "" if state == OK else "a corpus takes many times its text on disk: write it elsewhere (--out)"
    yield Check(subject="disk", state=state, detail=f"{size(free)} free in {folder.absolute()}", advice=advice)


def storage_of(uri: str) -> Iterator[Check]:
    """List the first object at a URI, with the credentials that a job would use."""
    from palimpsest.errors import PalimpsestError
    from palimpsest.sources.remote_objects import REMOTE, canonical, scheme_of
    from palimpsest.storage.opening import open_store
    from palimpsest.storage.s3_client import redacted

    try:
        first: object = next(REMOTE.entries(canonical(uri)) if scheme_of(uri) else iter(open_store(uri).list()), None)
    except (PalimpsestError, ValueError, OSError) as error:
        advice = "check the address, the credentials and the permission to list"
        yield Check(subject=redacted(uri), state=PROBLEM, detail=str(error).strip(), advice=advice)
        return
    if first is None and scheme_of(uri) in ("http", "https"):
        yield Check(subject=uri, state=PROBLEM, detail="nothing is there", advice="HTTP cannot list: name a single object")
        return
    yield Check(subject=uri, state=OK, detail="can be listed" if first else "can be listed, and is empty")
