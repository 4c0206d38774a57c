"""The arrow: a room imports only rooms that stand before it, and heavy packages stay where they belong."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pipeline"
ROOMS = (
    "records", "memory", "logs", "metrics", "s3", "s3_stream", "sources", "strict_settings", "config", "isolation", "batching",
    "pages", "codecs", "verification", "tiers", "store", "run_record", "plan", "stages", "tally", "supply", "flow_workers",
    "flow", "run", "changes", "ingest_memory", "ingest_batch", "ingest", "status", "training", "report", "inspection",
    "retier_plan", "flow_retier", "retier", "conversations", "findings", "console", "reverify", "forecast", "bench", "submit",
    "commands", "cli",
)  # fmt: skip
KNOWN_TO_CONFIG = ("pipeline.sources.config", "pipeline.strict_settings")
FILES_WITH_RAY = ("flow.py", "flow_workers.py", "submit.py")  # the last one only talks to a cluster's dashboard
MODELS = ("torch", "transformers")
ROOMS_WITH_MODELS = ("codecs", "verification", "training")


def imports(path: Path, package: Path) -> Iterator[tuple[str, bool]]:
    """Every module that a file imports, and whether it does so when it is itself imported."""
    tree = ast.parse(path.read_text("utf-8"), str(path))
    here = (package.name, *path.relative_to(package).with_suffix("").parts)
    later = {id(inner) for node in ast.walk(tree) if _is_deferred(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        at_import = id(node) not in later
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = (
                ".".join([*here[: -node.level], *([node.module] if node.module else [])]) if node.level else node.module or ""
            )
            if module == package.name:
                yield from ((f"{module}.{alias.name}", at_import) for alias in node.names)
            else:
                yield module, at_import


def _is_deferred(node: ast.AST) -> bool:
    typing_only = isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    return typing_only or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def violations(package: Path) -> list[str]:
    """Imports that go against the arrow."""
    found = []
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package)
        room = place.parts[0].removesuffix(".py")
        if room == "__init__":
            found += [f"{place} imports {module}" for module, _ in imports(path, package) if module.startswith(package.name)]
            continue
        if room not in ROOMS:
            found.append(f"{place} is in no room: add {room!r} to ROOMS, where the data passes it")
            continue
        for module, at_import in imports(path, package):
            top, _, rest = module.partition(".")
            other = rest.partition(".")[0]
            if top == package.name and other and other not in ROOMS[: ROOMS.index(room) + 1]:
                found.append(f"{place} imports {module}, which stands behind {room}")
            if room == "config" and top == package.name and module not in KNOWN_TO_CONFIG:
                found.append(f"{place} imports {module}, but may know the settings of the sources only")
            if top == "ray" and str(place) not in FILES_WITH_RAY:
                found.append(f"{place} imports {module}, which only flow.py may")
            if top in MODELS and at_import and room not in ROOMS_WITH_MODELS:
                found.append(f"{place} imports {module} when it is imported, where workers without a model pass")
    return found


def test_every_import_goes_along_the_arrow() -> None:
    assert violations(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        ("pages/grid.py", "import pipeline.store.units", "imports pipeline.store.units, which stands behind pages"),
        ("pages/grid.py", "from pipeline import run", "imports pipeline.run, which stands behind pages"),
        (
            "store/gc.py",
            "def late():\n    from pipeline.plan import make_plan",
            "imports pipeline.plan, which stands behind store",
        ),
        ("store/gc.py", "from ..report import html", "imports pipeline.report, which stands behind store"),
        ("config.py", "import pipeline.sources.jsonl", "may know the settings of the sources only"),
        ("run.py", "def late():\n    import ray.data", "imports ray.data, which only flow.py may"),
        ("stages/read.py", "from torch import nn", "imports torch when it is imported"),
        ("__init__.py", "from pipeline.run import run", "imports pipeline.run"),
        ("helpers.py", "", "helpers.py is in no room"),
    ],
)
def test_the_checker_sees_an_import_against_the_arrow(tmp_path: Path, file: str, line: str, complaint: str) -> None:
    copy = tmp_path / "pipeline"
    shutil.copytree(
        PACKAGE, copy, ignore=lambda folder, names: [name for name in names if "." in name and not name.endswith(".py")]
    )
    with (copy / file).open("a") as source:
        source.write(f"\n{line}\n")
    assert [what for what in violations(copy) if complaint in what], violations(copy)


@pytest.mark.parametrize("entry", ["pipeline.stages", "pipeline.plan", "pipeline.tally", "pipeline.run", "pipeline.cli"])
def test_importing_an_entry_loads_neither_models_nor_ray(entry: str) -> None:
    assert loaded(entry) == set()


def test_importing_the_flow_loads_no_models() -> None:
    assert loaded("pipeline.flow") <= {"ray"}


def loaded(module: str) -> set[str]:
    """Heavy packages that a fresh interpreter has loaded after it imported `module`."""
    script = f"import sys, {module}; print(*({{'ray', 'torch', 'transformers'}} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    return set(shown.stdout.split())
