"""Tables, figures and encodings of the terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from rich.console import Console

from palimpsest.cli.app import app
from palimpsest.report.tables import Pairs, Rows, duration, ratios, share, size
from tests.paths import PYTHONPATH

LONG = "s3://a-bucket-with-a-long-name/and/a/prefix/that/goes/on/part-00000-of-00123.jsonl.gz"
ROWS = Rows("sources", ("source", ">pages", "reason"), [(LONG, "1,234", "invalid_json"), ("short", "5", "")])


@pytest.mark.parametrize("width", [20, 60, 80, 200])
@pytest.mark.parametrize("shown", [ROWS, Pairs("sources", {"source": LONG, "pages": "1,234", "reason": "invalid_json"})])
def test_no_value_is_cut_at_any_width(width: int, shown: Rows | Pairs) -> None:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(shown)
    text = capture.get()
    assert all(len(line) <= width for line in text.splitlines())
    together = "".join(text.split())
    for value in (LONG, "1,234", "invalid_json", "sources"):
        assert value in together if width > 20 else all(char in together for char in value)
    assert "…" not in text


def test_a_wide_table_has_one_line_for_each_row_and_names_columns_once() -> None:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(ROWS)
    lines = capture.get().splitlines()
    assert len(lines) == 4 and lines[1].split() == ["source", "pages", "reason"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0.00%"), (1.0, "100.00%"), (0.99996, ">99.99%"), (0.00001, "<0.01%"), (0.9978, "99.78%")],
)
def test_shares_are_percentages_with_two_digits(value: float | None, text: str) -> None:
    assert share(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (12.3, "12 s"),
        (89.6, "1 min 30 s"),
        (185, "3 min 05 s"),
        (7620, "2 h 07 min"),
        (273_600, "3 d 4 h"),
    ],
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(812, "812 bytes"), (64_000, "64.0 kB"), (999_960, "1.0 MB"), (1.2e9, "1.2 GB")])
def test_sizes_have_a_unit(count: float, text: str) -> None:
    assert size(count) == text


def test_both_ratios_are_shown_and_text_pages_cost_their_text() -> None:
    assert ratios(1000, 100, 0) == "10.00× (every page is visual)"
    assert ratios(1000, 550, 500) == "1.82× over all pages, 10.00× over the visual ones"
    assert ratios(500, 500, 500) == "1.00× over all pages, – over the visual ones"


def palimpsest(*arguments: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH, **variables}
    return subprocess.run([sys.executable, "-m", "palimpsest.cli", *arguments], capture_output=True, env=environment, timeout=120)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_terminal_without_unicode_gets_ascii_and_no_traceback(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('sources = ["b\u00fccher/\u65e5\u672c"]\nout = "x"\n[layout]\n', "utf-8")
    for arguments in (["run", "--help"], ["presets", str(tmp_path / "mine.toml")]):
        done = palimpsest(*arguments, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
        assert done.returncode == 0, done.stderr.decode(encoding)
        assert b"Traceback" not in done.stderr and done.stdout.decode(encoding)
    assert b"u65e5" in done.stdout


def test_what_is_piped_is_not_cut_to_eighty_columns(tmp_path: Path) -> None:
    (tmp_path / "wide.toml").write_text("# " + "a preset with a long first line " * 5 + "\n", "utf-8")
    variables = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    script = "from palimpsest.cli.console import out, pairs; out.print(pairs('t', {'name': 'x' * 500}))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**variables, "PYTHONPATH": PYTHONPATH}, timeout=60
    )
    assert "x" * 500 in done.stdout


def commands() -> list[tuple[str, ...]]:
    root = typer.main.get_command(app)
    found = []
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        found += [(name, other) for other in inner] if inner else [(name,)]
    return found


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_examples_of_a_command_can_be_copied(path: tuple[str, ...]) -> None:
    command = typer.main.get_command(app)
    for name in path:
        command = command.commands[name]  # type: ignore[attr-defined]
    examples = command.examples  # type: ignore[attr-defined]
    assert examples and all(example.startswith("palimpsest " + " ".join(path)) for example in examples)
    assert "palimpsest " + " ".join(path) not in (command.help or "")
