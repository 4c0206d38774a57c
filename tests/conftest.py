"""What several tests share: the tiny codec, a folder of every kind of source, and the job that reads it."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from palimpsest.config import JobConfig, PlacementConfig, parse
from tests import s3_servers
from tests.mixed_sources import write_mixed_sources
from tests.s3_servers import S3Server
from tests.wheels import Installed

# No deadline: how long an example takes depends on what else runs on the machine.
hypothesis.settings.register_profile("suite", deadline=None, max_examples=60)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

JobFactory = Callable[..., JobConfig]
OBJECT_STORE = 80_000_000  # bytes, about as small as Ray allows
FIRST = (
    "ray",  # every file with a test that uses the Ray that tests share
    "own ray",
    "test_train_codec",
    "test_infra_terraform",
    "test_retier",
    "test_chaos",
    "test_infra_nightly",
    "test_store_s3_faults",
)  # the slowest groups, so that no worker of pytest-xdist is left with a long tail
OWN_RAY = ("test_cluster", "test_run_crash", "test_own_lines", "test_wheel", "test_cli", "test_run_s3")

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: models are tiny, and the workers share the cores
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 leaves its workers next to nothing beside other tests


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=3, help="how often the crash test kills its run (test_run_crash.py)")
    parser.addoption("--update-golden", action="store_true", help="record today's behaviour in tests/golden (test_golden.py)")


@cache
def group(file: Path) -> str:
    """Tests of a group run one after the other in one process: those of a file, or of all files of a kind that start Ray."""
    if "pytest.mark.cluster" not in file.read_text("utf-8"):
        return file.stem
    return "own ray" if file.stem in OWN_RAY else "ray"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slowest groups first."""

    def index(name: str, names: tuple[str, ...]) -> int:
        return names.index(name) if name in names else len(names)

    items.sort(key=lambda item: (index(group(item.path), FIRST), index(item.path.stem, OWN_RAY)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For `pytest -n 3 --dist loadfile`. Its groups by mark (`--dist loadgroup`) do not work with pytest 9.2."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(config.rootpath / nodeid.partition("::")[0])

    config.option.loadscopereorder = False  # it would start the files with the most tests first
    return Scheduling(config, log)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The built wheel in an environment of its own."""
    return Installed(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def demo(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus of `palimpsest run demo`, through Ray, as the installed wheel makes it in a folder with a stranger's modules."""
    folder = tmp_path_factory.mktemp("strange")
    for name in ("pipeline", "jobs", "presets", "tests", "config", "settings"):
        (folder / f"{name}.py").write_text("raise RuntimeError('a module of somebody else was imported')\n", "utf-8")
    result = json.loads(installed.run(folder, "run", "demo", "--json").stdout)
    counts = result["counts"]
    assert counts["documents_in"] == counts["documents_committed"] + counts["documents_quarantined"] + counts["duplicates"]
    assert counts["pages_in"] == counts["pages_committed"] == counts["rows"] > 15
    assert result["reasons"] == {"invalid_json": 1, "missing_text": 1, "empty_text": 1} and counts["duplicates"] == 1
    return folder / "demo" / "corpus"


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray for all tests that can share it."""
    from palimpsest.flow import ray_executor

    with ray_executor.connected(PlacementConfig(object_store_bytes=OBJECT_STORE)):
        yield


@pytest.fixture(scope="session")
def tiny_codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint of the embedded kind that soon ends what it writes, so that verifying a page takes a few passes."""
    from tests.tiny_codec import write_short_codec

    return write_short_codec(tmp_path_factory.mktemp("codec"))


@pytest.fixture(scope="session")
def mixed_sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mixed_sources(tmp_path_factory.mktemp("mixed"))


@pytest.fixture(scope="session")
def retiered_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `corpora.write_retiered_corpus`; tests that change it copy it first."""
    from tests.corpora import write_retiered_corpus

    return write_retiered_corpus(tmp_path_factory.mktemp("retiered"))


@pytest.fixture(scope="session")
def job(tiny_codec: Path) -> JobFactory:
    """`job(sources, out, "key=value", …)`: a small job with the tiny codec, in one process, half of its pages verified, and short
    texts drawn too."""

    def make(sources: Path, out: Path, *overrides: str) -> JobConfig:
        settings: dict[str, Any] = {
            "sources": [str(sources)],
            "out": str(out),
            "codec": {"path": str(tiny_codec)},
            "verification": {"share": 0.5, "control_share": 0.5},
            "tiers": {"cheap_text": False},
            "placement": {"executor": "local", "threads_per_worker": 1},
        }
        return parse(settings, ("limits.quarantine_share=0.9", *overrides))

    return make


@pytest.fixture(scope="session")
def seaweedfs_server() -> Iterator[S3Server]:
    """SeaweedFS, started once; `new_place()` gives a test a prefix of its own."""
    with s3_servers.seaweedfs() as server:
        yield server


@pytest.fixture(scope="session")
def moto_server() -> Iterator[S3Server]:
    with s3_servers.moto() as server:
        yield server


@pytest.fixture(scope="session")
def rclone_server() -> Iterator[S3Server]:
    """An S3 server that ignores conditions."""
    with s3_servers.rclone() as server:
        yield server


@pytest.fixture
def seaweedfs_place(seaweedfs_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """`s3://bucket/prefix`, empty, on a server that this test's AWS settings point to."""
    for name, value in seaweedfs_server.environment().items():
        monkeypatch.setenv(name, value)
    return seaweedfs_server.new_place()


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeated S3 requests wait a twentieth as long."""
    import botocore.retries.standard as standard

    from palimpsest.storage import s3_client as s3

    def soon(self: object, context: Any) -> float:
        return random.random() * min(20.0, 2.0**context.attempt_number) / 20

    monkeypatch.setattr(standard.ExponentialBackoff, "delay_amount", soon)
    monkeypatch.setattr(s3, "pause", lambda attempt: time.sleep(random.random() * min(20.0, 2.0**attempt) / 20))
