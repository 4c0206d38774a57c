"""The wheel as a user has it: built from the sources, installed in a virtual environment, and its commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.paths import ROOT

TOP = ("pyproject.toml", "README.md", "LICENSE")


class Installed:
    """A virtual environment with the wheel, whose dependencies are those of the tests' own environment.

    Attributes:
        wheel: the file, built from a copy of the sources, so that nothing is written into the repository.
        folder: the environment.
    """

    def __init__(self, root: Path) -> None:
        self.wheel, self.folder = build(root / "sources"), root / "environment"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.folder], check=True, timeout=300)
        packages = next(self.folder.glob("lib/python*/site-packages"))
        (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
        install = ["--python", str(self.folder), "install", "--quiet", "--no-deps", "--no-index", str(self.wheel)]
        subprocess.run([sys.executable, "-m", "pip", *install], check=True, env=own(), capture_output=True, timeout=300)

    def run(self, cwd: Path, *arguments: str, program: str = "palimpsest", code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [str(self.folder / "bin" / program), *arguments]
        done = subprocess.run(command, cwd=cwd, env=own(), capture_output=True, text=True, timeout=600)
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done


def own() -> dict[str, str]:
    """The environment variables of a user who has no sources."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PALIMPSEST_LOG")}


def build(folder: Path) -> Path:
    folder.mkdir()
    for name in TOP:
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "pipeline", folder / "pipeline", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", "."]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
    (built,) = (folder / "dist").glob("*.whl")
    return built
