"""The rooms: each imports only rooms above it, the map in the package docstring is the list, and heavy packages stay out."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import palimpsest
from tests.paths import ROOT, SOURCE

PACKAGE = SOURCE / "palimpsest"
ROOMS = tuple(re.findall(r"^    (\w+)(?:\.py|/) ", palimpsest.__doc__ or "", re.MULTILINE))
FILES = ("errors", "schemas", "settings", "config", "telemetry")
MODELS = ("torch", "transformers")
ROOMS_WITH_MODELS = ("codecs", "verification", "loading", "lab")
FEW_PARTS = ("palimpsest.storage", "palimpsest.report")  # rooms whose files must not import each other in a circle


@cache
def imports(text: str, module: str) -> tuple[tuple[str, bool, int], ...]:
    """Every module that a source text imports: its name, whether importing the file imports it too, and the line."""
    tree = ast.parse(text)
    later = {id(inner) for node in ast.walk(tree) if _is_deferred(node) for inner in ast.walk(node)}
    return tuple(
        (name, id(node) not in later, node.lineno)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in _names(node, module)
    )


def _is_deferred(node: ast.AST) -> bool:
    typing_only = isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    return typing_only or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def _names(node: ast.Import | ast.ImportFrom, module: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    parts = module.split(".")
    base = ".".join([*parts[: len(parts) - node.level], *([node.module] if node.module else [])]) if node.level else node.module
    if base == "palimpsest":
        yield from (f"palimpsest.{alias.name}" for alias in node.names)
    else:
        yield base or ""


def violations(package: Path, jobs: Path) -> list[str]:
    """Imports that go against the order of the rooms."""
    found = []
    for path in sorted(package.rglob("*.py")):
        file = path.relative_to(package)
        room = file.parts[0].removesuffix(".py")
        if room != "__init__" and room not in ROOMS:
            found.append(f"{file} is in no room: put it into one of {', '.join(ROOMS)}")
            continue
        module = ".".join(("palimpsest", *file.with_suffix("").parts))
        for name, at_import, line in imports(path.read_text("utf-8"), module):
            found += _complaints(file, room, name, at_import, line)
    for path in sorted(jobs.rglob("*.py")):
        for name, _, line in imports(path.read_text("utf-8"), "jobs." + path.stem):
            if name.split(".")[0] == "ray":
                found.append(f"jobs/{path.name}:{line} imports {name}, which only flow/ may")
    return found


def _complaints(file: Path, room: str, name: str, at_import: bool, line: int) -> Iterator[str]:
    top, _, rest = name.partition(".")
    other = rest.partition(".")[0]
    if room == "__init__":
        if at_import and (top in ("palimpsest", "ray", *MODELS)):
            yield f"{file}:{line} imports {name} when it is imported"
        return
    if top == "palimpsest" and other in ROOMS and ROOMS.index(other) > ROOMS.index(room):
        yield f"{file}:{line} imports {name}, which comes after {room}"
    if top in ("jobs", "pipeline", "tests"):
        yield f"{file}:{line} imports {name}, which is not part of the package"
    if top == "ray" and room != "flow":
        yield f"{file}:{line} imports {name}, which only flow/ may"
    if top in MODELS and at_import and room not in ROOMS_WITH_MODELS:
        yield f"{file}:{line} imports {name} when it is imported; workers without a model load this file"


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A circle of a graph, as the names along it; empty where there is none."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        found = next((c for other in sorted(graph.get(name, ())) if (c := visit(other, [*path, name]))), [])
        done.add(name)
        return found

    return next((c for name in sorted(graph) if (c := visit(name, []))), [])


def test_the_map_in_the_package_docstring_lists_what_is_there() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert set(ROOMS) == rooms | files
    assert files == set(FILES) and len(rooms) == 13


def test_the_docstring_of_every_folder_lists_its_files() -> None:
    for init in sorted(PACKAGE.rglob("__init__.py")):
        folder = init.parent
        there = {path.name for path in folder.glob("*.py") if not path.name.startswith("__")}
        there |= {f"{path.name}/" for path in folder.iterdir() if (path / "__init__.py").exists()}
        text = ast.get_docstring(ast.parse(init.read_text("utf-8"))) or ""
        listed = re.findall(r"^ *([a-z0-9_]+(?:\.py|/))  +\S", text, re.MULTILINE)
        assert sorted(name for name in listed if name != "weights/") == sorted(there - {"presets/"}), folder


def test_every_room_imports_only_rooms_above_it() -> None:
    assert violations(PACKAGE, ROOT / "jobs") == []


@pytest.mark.parametrize("room", FEW_PARTS)
def test_files_of_a_room_do_not_import_each_other_in_a_circle(room: str) -> None:
    folder = PACKAGE.joinpath(*room.split(".")[1:])
    graph: dict[str, set[str]] = {}
    for path in folder.rglob("*.py"):
        module = ".".join(("palimpsest", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        graph[module] = {name for name, _, _ in imports(path.read_text("utf-8"), module) if name.startswith(room)} - {module}
    assert circle(graph) == []


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        ("pages/layouts/grid.py", "import palimpsest.corpus.units", "imports palimpsest.corpus.units, which comes after pages"),
        ("pages/layouts/grid.py", "from palimpsest import operations", "imports palimpsest.operations, which comes after pages"),
        ("corpus/gc.py", "def late():\n    from palimpsest.flow.plan import make_plan", "imports palimpsest.flow.plan"),
        ("corpus/gc.py", "from ..report import html", "imports palimpsest.report, which comes after corpus"),
        ("config.py", "import palimpsest.sources.jsonl", "which comes after config"),
        ("config.py", "def late():\n    import jobs", "imports jobs, which is not part of the package"),
        ("operations/run.py", "def late():\n    import ray.data", "imports ray.data, which only flow/ may"),
        ("flow/stages/read.py", "from torch import nn", "imports torch when it is imported"),
        ("__init__.py", "from palimpsest.operations.run import run", "imports palimpsest.operations.run when it is imported"),
        ("helpers.py", "", "helpers.py is in no room"),
    ],
)
def test_the_checker_sees_an_import_against_the_order(tmp_path: Path, file: str, line: str, complaint: str) -> None:
    copy = tmp_path / "palimpsest"
    (copy / file).parent.mkdir(parents=True)
    if (PACKAGE / file).exists():
        shutil.copy(PACKAGE / file, copy / file)
    with (copy / file).open("a") as source:
        source.write(f"\n{line}\n")
    found = violations(copy, tmp_path / "jobs")
    assert [what for what in found if complaint in what], found


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize(
    "entry", ["palimpsest", "palimpsest.flow.stages", "palimpsest.flow.plan", "palimpsest.operations.run", "palimpsest.cli.app"]
)
def test_importing_an_entry_loads_neither_models_nor_ray(entry: str) -> None:
    assert loaded(entry) == set()


def test_importing_the_ray_executor_loads_no_models() -> None:
    assert loaded("palimpsest.flow.ray_executor") <= {"ray"}


def loaded(module: str) -> set[str]:
    """Heavy packages that a fresh interpreter has loaded after it imported `module`."""
    script = f"import sys, {module}; print(*({{'ray', 'torch', 'transformers'}} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=SOURCE)
    return set(shown.stdout.split())


BUILTIN = ("Exception", "KeyError", "LookupError", "NotImplementedError", "OSError", "RuntimeError", "TypeError", "ValueError")
SIGNALS = {
    "config.py": "pydantic turns what a validator raises into a ConfigError",
    "settings.py": "the same",
    "operations/conversations/settings.py": "the same",
    "corpus/row_filter.py": "caught in the file, which names the condition",
    "tiers/operating_points/measured.py": "caught in the file, which names the setting",
    "codecs/fast/runner.py": "caught in the file: the attention is not taken",
    "loading/parquet_pages.py": "caught where pages are read: pyarrow reads them instead",
    "sources/ipc_sizes.py": "becomes a row with a reason",
    "sources/parquet_pages.py": "becomes a row with a reason",
    "sources/timestamps.py": "becomes a row with a reason",
    "sources/objects.py": "becomes a row with a reason",
    "storage/s3_stream.py": "the contract of io",
    "telemetry.py": "a metric without its labels is a bug",
}
"""Files that raise Python's own errors, and where these end: never at a user."""


def plain_raises(text: str) -> list[str]:
    """Python's own exceptions that a source text raises with a message."""
    raised = (node.exc for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Raise))
    calls = (error.func for error in raised if isinstance(error, ast.Call))
    return [name.id for name in calls if isinstance(name, ast.Name) and name.id in BUILTIN]


def test_users_meet_errors_that_have_an_exit_code() -> None:
    """A PalimpsestError ends a command with a message; anything else is a bug and keeps its traceback."""
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] != "lab" and plain_raises(path.read_text("utf-8"))
    }
    assert found == SIGNALS.keys()
    assert plain_raises('raise ValueError("a")\nraise\nraise error\nraise UsageError("b")') == ["ValueError"]
