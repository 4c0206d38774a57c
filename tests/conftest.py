"""What several tests share: the tiny codec, a folder of every kind of source, and the job that reads it."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from palimpsest.config import JobConfig, parse
from tests import s3_servers
from tests.mixed_sources import write_mixed_sources
from tests.s3_servers import S3Server

# No deadline: how long an example takes depends on what else runs on the machine.
hypothesis.settings.register_profile("suite", deadline=None, max_examples=60)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

JobFactory = Callable[..., JobConfig]
SLOW_FILES = (
    "test_infra_terraform",
    "test_infra_nightly",
    "test_train_codec",
    "test_chaos",
    "test_retier",
    "test_store_s3_faults",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=3, help="how often the crash test kills its run (test_run_crash.py)")
    parser.addoption("--update-golden", action="store_true", help="record today's behaviour in tests/golden (test_golden.py)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slowest files come first, so that no worker of pytest-xdist is left with a long tail."""
    items.sort(key=lambda item: item.path.stem not in SLOW_FILES)


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
