"""The built wheel: it installs one import name, and works in an empty folder and next to a stranger's modules."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from palimpsest import __version__
from tests.paths import ROOT
from tests.wheels import Installed


def test_the_wheel_installs_one_import_name_with_its_data(installed: Installed) -> None:
    names = zipfile.ZipFile(installed.wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"palimpsest", f"palimpsest-{__version__}.dist-info"}
    data = {str(path.relative_to(ROOT / "pipeline")) for path in (ROOT / "pipeline" / "palimpsest").rglob("*") if path.is_file()}
    assert {name for name in data if not name.endswith(".pyc")} <= set(names)


def test_it_says_its_version_and_where_it_is(installed: Installed, tmp_path: Path) -> None:
    assert installed.run(tmp_path, "--version").stdout == f"palimpsest {__version__}\n"
    shown = installed.run(tmp_path, "-c", "import palimpsest; print(palimpsest.__file__)", program="python").stdout
    assert Path(shown).is_relative_to(installed.folder)


@pytest.mark.cluster
def test_the_demo_runs_in_a_folder_with_a_strangers_modules(installed: Installed, demo: Path) -> None:
    assert (demo / "corpus.json").is_file() and (demo.parent.parent / "settings.py").is_file()
    assert "invalid_json" in installed.run(demo.parent.parent, "inspect", "demo/corpus").stdout


def test_ship_code_sends_the_installed_package_and_it_is_enough(installed: Installed, tmp_path: Path) -> None:
    script = """
from palimpsest.config import parse
from palimpsest.operations.submit import prepare
from pathlib import Path
job = prepare(parse({"sources": ["/in"], "out": "/out"}), ship_code=True)
print(*job.runtime_env(Path("."), {})["py_modules"])
"""
    (module,) = installed.run(tmp_path, "-c", script, program="python").stdout.split()
    assert Path(module).is_relative_to(installed.folder)
    shutil.copytree(module, tmp_path / "sent" / Path(module).name, ignore=shutil.ignore_patterns("__pycache__"))
    alone = f"import sys; sys.path.insert(0, {str(tmp_path / 'sent')!r}); from palimpsest.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-I", "-c", alone, "presets", "demo", "--json"], capture_output=True, text=True, check=True, timeout=60
    )
    (source,) = json.loads(done.stdout)["sources"]
    assert Path(source).is_relative_to(tmp_path / "sent") and (Path(source) / "austen.txt").is_file()


def test_without_the_extra_bench_says_what_to_install(installed: Installed, tmp_path: Path) -> None:
    script = """
import importlib.util, sys
found = importlib.util.find_spec
import palimpsest.cli.console as console
console.find_spec = lambda name: None if name == "matplotlib" else found(name)
from palimpsest.cli.app import app
app(["bench", "render"])
"""
    assert "pip install 'palimpsest[lab]'" in installed.run(tmp_path, "-c", script, program="python", code=2).stderr
