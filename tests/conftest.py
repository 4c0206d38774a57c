"""What several tests share: the tiny codec, a folder of every kind of source, and the job that reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import JobConfig, parse
from tests.mixed_sources import write_mixed_sources

JobFactory = Callable[..., JobConfig]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=3, help="how often the crash test kills its run (test_run_crash.py)")


@pytest.fixture(scope="session")
def tiny_codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint of the embedded kind that soon ends what it writes, so that verifying a page takes a few passes."""
    from safetensors.torch import load_file, save_file

    from pipeline.codecs.embedded.vocabulary import EOS
    from tests.tiny_codec import write_tiny_codec

    folder = write_tiny_codec(tmp_path_factory.mktemp("codec"))
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][EOS] *= 3
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def mixed_sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mixed_sources(tmp_path_factory.mktemp("mixed"))


@pytest.fixture(scope="session")
def job(tiny_codec: Path) -> JobFactory:
    """`job(sources, out, "key=value", …)`: a small job with the tiny codec, half of its pages verified."""

    def make(sources: Path, out: Path, *overrides: str) -> JobConfig:
        settings: dict[str, Any] = {
            "sources": [str(sources)],
            "out": str(out),
            "codec": {"path": str(tiny_codec)},
            "verification": {"share": 0.5, "control_share": 0.5},
            "placement": {"threads_per_worker": 1},
        }
        return parse(settings, ("limits.quarantine_share=0.9", *overrides))

    return make
