"""The commands as their users type them: the demo once, then everything one can ask of its corpus.

What loads a model runs in a process of its own, as for a user; what only looks or refuses, in this one: a start takes seconds.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from palimpsest.cli.app import app
from tests.wheels import Installed

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.cluster


def in_process(*arguments: str, code: int = 0) -> str:
    """A command in this process; a bug would come out as the exception that it is."""
    done = CliRunner().invoke(app, list(arguments))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.stdout if code in (0, 3) else done.stderr


def test_a_second_run_does_nothing_and_says_so(demo: Path, installed: Installed) -> None:
    assert "Nothing to do" in installed.run(demo.parent.parent, "run", "demo").stdout


def test_a_dry_run_plans_and_writes_nothing(tmp_path: Path, installed: Installed) -> None:
    plan = json.loads(installed.run(tmp_path, "run", "demo", "--dry-run", "--json").stdout)
    assert plan["to process"] == plan["units"] == 5 and plan["published already"] == 0
    assert not (tmp_path / "demo").exists()


def test_fsck_finds_nothing_and_then_a_flipped_byte(demo: Path, tmp_path: Path) -> None:
    assert "0 errors" in in_process("fsck", str(demo))
    broken = tmp_path / "broken"
    subprocess.run(["cp", "-r", str(demo), str(broken)], check=True)
    shard = next((broken / "data" / "tiny").glob("*.parquet"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 255
    shard.write_bytes(data)
    findings = json.loads(in_process("fsck", str(broken), "--json", code=3))
    assert any(shard.name in finding["key"] and finding["severity"] == "error" for finding in findings)


def test_inspect_shows_the_corpus_and_a_page(demo: Path, tmp_path: Path) -> None:
    summary = json.loads(in_process("inspect", str(demo), "--json"))
    assert summary["pages"] > 15
    assert "prose" in in_process("inspect", str(demo))
    page = first_page(demo)
    in_process("inspect", str(demo), page, "--image", str(tmp_path / "page.png"))
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
    assert "none of them begins like this" in in_process("inspect", str(demo), "no-such-page", code=2)


def first_page(demo: Path) -> str:
    import pyarrow.parquet as pq

    shard = next((demo / "data" / "tiny").glob("*.parquet"))
    return pq.read_table(shard)["page_id"][0].as_py()


def test_verify_agrees_with_what_was_recorded(demo: Path, installed: Installed) -> None:
    result = json.loads(installed.run(demo, "verify", ".", "--share", "0.5", "--json").stdout)
    assert result["pages"] > 5 and not result["findings"]


def test_the_report_is_one_file_without_network(demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    assert str(out) in in_process("report", str(demo), "--out", str(out))
    html = out.read_text()
    assert "Netherfield" in html and "invalid_json" in html
    assert not re.search(r'(src|href)\s*=\s*["\']?(https?:)?//', html)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "nosuch"], "presets that come with Palimpsest"),
        (["run", "demo", "--set", "tiers.mod=small"], "did you mean tiers.mode"),
        (["run", "demo", "--set", "tiers.mode=smal"], "tiny, small, base, large"),
        (["run", "demo", "--set", "layout.grid=70x35"], "64x32"),
        (["run", "demo", "--source", "no/such/file.txt"], "no/such/file.txt"),
        (["run", "demo", "--set", "codec.path=no/such/folder"], "codec.path"),
        (["fsck", "no/such/corpus"], "no/such/corpus"),
        (["inspect", "."], "corpus"),
    ],
)
def test_what_cannot_be_used_is_explained_in_one_line(arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    message = in_process(*arguments, code=2)
    assert said in message.replace("\n", " ") and "Traceback" not in message


def test_every_command_has_help_with_an_example() -> None:
    for command in ("run", "verify", "inspect", "report", "fsck", "gc", "train-codec"):
        assert f"palimpsest {command}" in in_process(command, "--help").replace("\n", " ")
