"""What the golden tests share: recorded values in tests/golden, and one corpus whose rows, ids and commands are recorded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from palimpsest.config import JobConfig, load
from palimpsest.corpus.shards import read_shard
from palimpsest.corpus.snapshots import Snapshot, latest
from palimpsest.operations.resolving import identify
from palimpsest.operations.run import run
from palimpsest.storage.local_store import LocalStore
from tests.mixed_sources import write_mixed_sources

GOLDEN = Path(__file__).parent / "golden"
Pin = Callable[[str, Any], None]


@pytest.fixture
def pin(request: pytest.FixtureRequest) -> Pin:
    """`pin(name, value)`: the value is the one recorded in golden/<name>.json, or is recorded there."""

    def compare(name: str, value: Any) -> None:
        path = GOLDEN / f"{name}.json"
        text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        assert json.loads(text) == json.loads(path.read_text("utf-8")), f"another {name} than recorded in {path}"

    return compare


def same_versions(pin: Pin, name: str, libraries: tuple[str, ...], value: Any) -> None:
    """Pin what only the same versions of some libraries make; with others there is nothing to compare."""
    versions = {library: version(library) for library in libraries}
    path = GOLDEN / f"{name}.json"
    recorded = json.loads(path.read_text("utf-8"))["versions"] if path.is_file() else versions
    try:
        pin(name, {"versions": versions, "value": value})
    except AssertionError:
        if recorded == versions:
            raise
        pytest.skip(f"{name}: recorded with {recorded}, here are {versions}")


def digest(data: bytes | str) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


# settings and fingerprints


class Corpus:
    """The mixed sources, run once in this process with the codec that ships. The job is in `preset`, for the commands."""

    def __init__(self, base: Path) -> None:
        self.base, self.out, self.preset = base, base / "corpus", base / "job.toml"
        (base / "sources").mkdir()
        write_mixed_sources(base / "sources")
        settings = f'sources = ["sources"]\nout = {json.dumps(str(self.out))}\n[limits]\nquarantine_share = 0.9\n'
        verification = '[verification]\nreader = "cells"\nshare = 0.5\ncontrol_share = 0.5\ntarget_precision = 0.0\n'
        self.preset.write_text(settings + verification + '[placement]\nexecutor = "local"\nthreads_per_worker = 1\n', "utf-8")
        self.config: JobConfig = load(str(self.preset))
        self.result = run(self.config)
        self.prepared = identify(self.config)

    @property
    def snapshot(self) -> Snapshot:
        found = latest(LocalStore(self.out))
        assert found is not None
        return found

    def shards(self) -> Iterator[tuple[str, pa.Table]]:
        """Key and rows of every shard, by source and tier."""
        for unit in sorted(self.snapshot.units, key=lambda unit: unit.source_uri):
            yield from ((shard.key, read_shard(LocalStore(self.out), shard)) for shard in unit.shards)

    def quarantines(self) -> Iterator[pa.Table]:
        for unit in sorted(self.snapshot.units, key=lambda unit: unit.source_uri):
            if unit.quarantine:
                yield read_shard(LocalStore(self.out), unit.quarantine)

    def version(self, uri: str, found: str) -> str:
        """The version of a source, or, where a library made its bytes, that they have one."""
        if not uri.endswith((".gz", ".parquet")):
            return found
        assert found == f"sha256:{digest((self.base / uri).read_bytes())}"
        return "sha256 of the file"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    base = tmp_path_factory.mktemp("golden")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        yield Corpus(base)
