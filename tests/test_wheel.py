"""The built wheel: it installs one import name, and works in an empty folder and next to a stranger's modules."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from palimpsest import __version__
from tests.paths import ROOT

TOP = ("pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources, so that nothing is written into the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in TOP:
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "pipeline", folder / "pipeline", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", "."]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
    (built,) = (folder / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, whose dependencies are those of the tests' own environment."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=300)
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    install = [sys.executable, "-m", "pip", "--python", str(folder), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=300)
    return folder


def run(
    installed: Path, cwd: Path, *arguments: str, program: str = "palimpsest", code: int = 0
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PALIMPSEST_LOG")}
    command = [str(installed / "bin" / program), *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def test_the_wheel_installs_one_import_name_with_its_data(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"palimpsest", f"palimpsest-{__version__}.dist-info"}
    data = {str(path.relative_to(ROOT / "pipeline")) for path in (ROOT / "pipeline" / "palimpsest").rglob("*") if path.is_file()}
    assert {name for name in data if not name.endswith(".pyc")} <= set(names)


def test_it_says_its_version_and_where_it_is(installed: Path, tmp_path: Path) -> None:
    assert run(installed, tmp_path, "--version").stdout == f"palimpsest {__version__}\n"
    shown = run(installed, tmp_path, "-c", "import palimpsest; print(palimpsest.__file__)", program="python").stdout
    assert Path(shown).is_relative_to(installed)


@pytest.mark.cluster
def test_the_demo_runs_in_a_folder_with_a_strangers_modules(installed: Path, tmp_path: Path) -> None:
    for name in ("pipeline", "jobs", "presets", "tests", "config", "settings"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('a module of somebody else was imported')\n", "utf-8")
    result = json.loads(run(installed, tmp_path, "run", "demo", "--json").stdout)
    assert result["counts"]["pages_committed"] > 15 and (tmp_path / "demo" / "corpus" / "corpus.json").is_file()
    assert "invalid_json" in run(installed, tmp_path, "inspect", "demo/corpus").stdout


def test_ship_code_sends_the_installed_package_and_it_is_enough(installed: Path, tmp_path: Path) -> None:
    script = """
from palimpsest.config import parse
from palimpsest.operations.submit import prepare
from pathlib import Path
job = prepare(parse({"sources": ["/in"], "out": "/out"}), ship_code=True)
print(*job.runtime_env(Path("."), {})["py_modules"])
"""
    (module,) = run(installed, tmp_path, "-c", script, program="python").stdout.split()
    assert Path(module).is_relative_to(installed)
    shutil.copytree(module, tmp_path / "sent" / Path(module).name, ignore=shutil.ignore_patterns("__pycache__"))
    alone = f"import sys; sys.path.insert(0, {str(tmp_path / 'sent')!r}); from palimpsest.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-I", "-c", alone, "presets", "demo", "--json"], capture_output=True, text=True, check=True, timeout=60
    )
    (source,) = json.loads(done.stdout)["sources"]
    assert Path(source).is_relative_to(tmp_path / "sent") and (Path(source) / "austen.txt").is_file()


def test_without_the_extra_bench_says_what_to_install(installed: Path, tmp_path: Path) -> None:
    script = """
import importlib.util, sys
found = importlib.util.find_spec
import palimpsest.cli.console as console
console.find_spec = lambda name: None if name == "matplotlib" else found(name)
from palimpsest.cli.app import app
app(["bench", "render"])
"""
    assert "pip install 'palimpsest[lab]'" in run(installed, tmp_path, "-c", script, program="python", code=2).stderr
