"""The commands as they are today: parameters, help texts, exit codes. See test_golden.py for how to record a change."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.rich_utils
from typer.testing import CliRunner

from palimpsest.cli.app import app
from tests.golden_corpus import GOLDEN, Corpus, Pin, corpus, pin, same_versions

__all__ = ["corpus", "pin"]  # the fixtures
HELP = GOLDEN / "help"
WIDTH = 100


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group with the words that call it."""
    yield path, command
    for name, sub in sorted(getattr(command, "commands", {}).items()):
        yield from commands(sub, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(app)))


def invoke(*arguments: str) -> Any:
    """Run a command as on a plain terminal of a fixed width; a bug comes out as the exception that it is."""
    environment = {"COLUMNS": str(WIDTH), "NO_COLOR": "1", "TERM": "dumb", "FORCE_COLOR": None, "TERMINAL_WIDTH": None}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.rich_utils, "MAX_WIDTH", WIDTH)
        patch.setattr(typer.rich_utils, "FORCE_TERMINAL", False)
        done = CliRunner().invoke(app, list(arguments), prog_name="palimpsest", env=environment)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_commands_have_their_parameters(pin: Pin) -> None:
    """Whatever the help looks like: names, options, defaults and what they say."""
    found = {}
    for path, command in COMMANDS.items():
        parameters = [
            {
                "options": [*parameter.opts, *parameter.secondary_opts],
                "required": parameter.required,
                "repeated": parameter.nargs == -1 or bool(getattr(parameter, "multiple", False)),
                "default": str(parameter.default),
                "help": getattr(parameter, "help", None),
            }
            for parameter in command.params
        ]
        found[" ".join(("palimpsest", *path))] = {"help": command.help, "parameters": parameters}
    pin("commands", found)


def test_help_texts_are_the_recorded_ones(request: pytest.FixtureRequest, pin: Pin) -> None:
    texts = {}
    for path in COMMANDS:
        done = invoke(*path, "--help")
        assert done.exit_code == 0
        texts["-".join(("palimpsest", *path)) + ".txt"] = "\n".join(line.rstrip() for line in done.stdout.splitlines()) + "\n"
    if request.config.getoption("--update-golden"):
        shutil.rmtree(HELP, ignore_errors=True)
        HELP.mkdir(parents=True)
        for name, text in texts.items():
            (HELP / name).write_text(text, "utf-8")
    recorded = {path.name: path.read_text("utf-8") for path in HELP.glob("*.txt")}
    assert sorted(recorded) == sorted(texts)
    same_versions(pin, "help_versions", ("typer", "rich"), sorted(texts))
    for name, text in texts.items():
        assert text == recorded[name], f"another {name} than recorded"


def test_commands_end_with_their_exit_codes(corpus: Corpus, tmp_path: Path, pin: Pin) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "never clo\n' * 3, "utf-8")
    shutil.copytree(corpus.out, tmp_path / "damaged")
    next((tmp_path / "damaged" / "data" / "tiny").glob("*.parquet")).unlink()
    job, fresh = str(corpus.preset), str(tmp_path / "fresh")
    cases: dict[str, tuple[str, ...]] = {
        "nothing to do": ("run", job),
        "presets": ("presets", "--json"),
        "fsck of a sound corpus": ("fsck", str(corpus.out)),
        "inspect": ("inspect", str(corpus.out), "--json"),
        "gc, dry": ("gc", str(corpus.out)),
        "snapshots": ("snapshots", str(corpus.out), "--json"),
        "unknown command": ("nosuch",),
        "unknown option": ("run", "local", "--nosuch"),
        "missing argument": ("fsck",),
        "value out of range": ("gc", str(corpus.out), "--unused-days", "-1"),
        "unknown preset": ("run", "nosuch"),
        "unknown setting": ("run", job, "--set", "tiers.mod=small"),
        "override without a value": ("run", job, "--set", "tiers.mode"),
        "wrong value": ("run", job, "--set", "tiers.mode=smal"),
        "wrong grid": ("run", job, "--set", "layout.grid=1x1"),
        "missing source": ("run", job, "--source", "no/such/file.txt", "--out", fresh),
        "no source": ("run", "local", "--out", fresh),
        "no output": ("run", "local", "--source", str(tmp_path)),
        "missing checkpoint": ("run", job, "--set", "codec.path=no/such/folder"),
        "missing corpus": ("fsck", str(tmp_path / "nosuch")),
        "no corpus": ("inspect", str(tmp_path)),
        "unknown page": ("inspect", str(corpus.out), "nosuch"),
        "failed run": ("run", job, "--source", str(tmp_path / "bad.jsonl"), "--out", fresh, "--set", "limits.quarantine_share=0"),
        "fsck of a damaged corpus": ("fsck", str(tmp_path / "damaged")),
    }
    found = {}
    for name, arguments in cases.items():
        done = invoke(*arguments)
        said = done.stdout if done.exit_code in (0, 3) else done.stderr
        assert "Traceback" not in said and said.strip(), name
        found[name] = done.exit_code
        if name == "nothing to do":
            assert said.startswith("Nothing to do")
    pin("exit_codes", found)
