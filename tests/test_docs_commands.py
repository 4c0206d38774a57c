"""Every command of ours that the documents show is one that the program takes, with options that it has.

Lines of code blocks and inline code are parsed by the program's own parser; none is run here. What they do is tested where it is
built; that the nightly and recovery commands do what docs/running.md says is tested in test_running_nightly.py.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from palimpsest.cli.app import app
from tests.paths import ROOT, SOURCE

DOCUMENTS = (
    "README.md",
    "docs/running.md",
    "docs/architecture.md",
    "docs/model-card.md",
    "docs/settings.md",
    "docs/train-on-a-corpus.md",
    "docs/memory.md",
    "docs/sources.md",
    "infra/README.md",
    "pipeline/palimpsest/presets/sample/README.md",
)
PROGRAM = re.compile(r"(?:\.venv/bin/)?palimpsest\s+([a-z-].*)")


def commands(text: str) -> dict[str, bool]:
    """The commands of a document, without comments, and whether prose shows them, which may leave arguments out.

    A line that ends in a backslash goes on in the next one.
    """
    whole = re.sub(r"\\\n\s*", " ", text)
    blocks = re.findall(r"^```(?:console|bash|sh)?\n(.*?)^```", whole, re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += [line[4:] for line in whole.splitlines() if line.startswith("    ")]
    prose = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", whole, flags=re.M | re.S))
    found: dict[str, bool] = {}
    for line, in_prose in [*((line, True) for line in prose), *((line, False) for line in lines)]:
        if match := PROGRAM.match(line.strip()):
            found[re.sub(r"\s+#.*$", "", match[1]).replace(" …", "").strip()] = in_prose
    return found


def refused(line: str) -> str | None:
    """Why the program does not take a command line; None where it does. Nothing is run."""
    words = shlex.split(line.replace("[", "").replace("]", ""))
    command, info = typer.main.get_command(app), "palimpsest"
    try:
        while True:
            context = command.make_context(info, list(words), resilient_parsing=False)
            if not hasattr(command, "resolve_command"):  # a command, no group
                return None
            name, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
            info = str(name)
    except Exception as error:  # Typer brings a Click of its own, whose classes it does not show
        if type(error).__name__ in ("Exit", "NoArgsIsHelpError"):  # --help
            return None
        if hasattr(error, "format_message"):
            return str(error.format_message()) or type(error).__name__
        raise


def shown() -> list[tuple[str, str, bool]]:
    return [(name, line, prose) for name in DOCUMENTS for line, prose in commands((ROOT / name).read_text("utf-8")).items()]


@pytest.mark.parametrize(("document", "line", "prose"), shown())
def test_the_program_takes_what_the_documents_show(document: str, line: str, prose: bool) -> None:
    said = refused(line)
    if prose and said and said.startswith(("Missing argument", "Missing command")):
        return
    assert said is None, f"{document}: palimpsest {line}: {said}"


def test_the_code_of_the_readme_runs(retiered_corpus: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    assert len(blocks) == 2 and len(blocks[0].splitlines()) <= 6
    code = "\n".join(blocks).replace("demo/corpus", str(retiered_corpus))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=SOURCE, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "tiny" in done.stdout and "(64, 1024) (512, 512) True" in done.stdout


def test_there_is_something_to_check() -> None:
    lines = [line for _, line, _ in shown()]
    assert len(lines) > 30
    assert {line.split()[0] for line in lines} >= {
        "run",
        "ingest",
        "status",
        "snapshots",
        "fsck",
        "gc",
        "verify",
        "submit",
        "retier",
    }


@pytest.mark.parametrize(
    "line", ["ingest local --sources texts/", "nightly", "gc corpora/books --unused-days soon", "status", "fsck --json a b"]
)
def test_the_check_sees_what_is_wrong(line: str) -> None:
    assert refused(line)
