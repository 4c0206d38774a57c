"""The facts that every result carries, how it is shown, and how it is written to docs/results.

A result is a dict. Its scalars are facts, each list of dicts in it is a table, `notes` are sentences; `command`, `config` and
`machine` say how to get it again.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palimpsest.corpus.run_records import environment

if TYPE_CHECKING:
    from rich.console import RenderableType

_CONTEXT = ("command", "config", "machine", "notes")


def machine(seconds: float = 0.3) -> dict[str, Any]:
    """This machine and what runs on it, now.

    Args:
        seconds: time to spend on the matmul rate.
    """
    import torch

    cuda = torch.cuda.is_available()
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "commit": commit(),
        "cpu": cpu_model(),
        "cores": environment()["processors"],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "torch_threads": torch.get_num_threads(),
        "bf16_matmul_tflops": round(matmul_rate("cuda" if cuda else "cpu", seconds) / 1e12, 4),
        "platform": f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}",
        **{name: environment()[name] for name in ("python", "packages")},
    }


def command_line() -> str:
    """This command, with names instead of absolute paths and paths of files: a result does not tell where it was measured."""
    words = [Path(word).name if Path(word).is_absolute() or Path(word).is_file() else word for word in sys.argv[1:]]
    return shlex.join(["palimpsest", *words])


def matmul_rate(device: str, seconds: float) -> float:
    """FLOP/s of the fastest square bfloat16 product among those that fit into `seconds`."""
    import torch

    side = 8192 if device == "cuda" else 1024
    left, right = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    left @ right
    fastest, end = float("inf"), time.perf_counter() + seconds
    while fastest == float("inf") or time.perf_counter() < end:
        start = time.perf_counter()
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * side**3 / fastest


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.is_file() else None
    return named[1] if named else platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit of the source tree, with "+" where files differ from it; None outside a git checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=10)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + "+" * bool(changed.stdout.strip()) if head.returncode == 0 else None


def hardware(described: dict[str, Any]) -> str:
    """A machine's short name for file names: `h200`, `xeon-2-cores`."""
    if described["gpu"]:
        words, ending = described["gpu"], ""
    else:
        words, ending = described["cpu"], f"-{described['cores']}-cores"
    plain = re.sub(r"\((?:R|TM)\)|@.*|\b(?:nvidia|intel|amd|cpu|processor)\b", " ", words, flags=re.IGNORECASE)
    return (re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-") or "machine") + ending


def write_results(theme: str, payload: dict[str, Any], folder: str | Path = "docs/results", command: str = "") -> Path:
    """Write a result as `<theme>_<hardware>_<yyyy-mm-dd>.md`, with all of it as `.json` next to it.

    A second result of the same theme, hardware and day replaces the first.

    Args:
        command: what makes this result; by default the one that the payload names, or `palimpsest bench <theme>`.

    Returns:
        The Markdown file.
    """
    payload = {**payload, "command": command or payload.get("command") or f"palimpsest bench {theme}"}
    described = payload["machine"] = payload.get("machine") or machine()
    path = Path(folder) / f"{theme}_{hardware(described)}_{described['date'][:10]}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(payload, indent=1, ensure_ascii=False) + "\n", "utf-8")
    path.write_text(markdown(theme, payload, path.with_suffix(".json").name), "utf-8")
    return path


def markdown(theme: str, payload: dict[str, Any], raw: str) -> str:
    """A result as a page; `raw` is the name of the JSON file next to it."""
    described = payload["machine"]
    lines = [f"# bench {theme}: {described['gpu'] or described['cpu']}, {described['date'][:10]}", ""]
    lines += [f"    {payload['command']}", "", f"commit {described['commit'] or 'unknown'} · [raw]({raw})", ""]
    lines += [f"- {_spoken(name)}: {shown(value)}" for name, value in facts(payload).items()]
    for name, rows in tables(payload).items():
        lines += ["", f"## {_spoken(name)}", "", "| " + " | ".join(map(_spoken, rows[0])) + " |", "|---" * len(rows[0]) + "|"]
        lines += ["| " + " | ".join(shown(value) for value in row.values()) + " |" for row in rows]
    if payload.get("notes"):
        lines += ["", "## Notes", "", *(f"- {note}" for note in payload["notes"])]
    for name in ("machine", "config"):
        if name in payload:
            raw_json = json.dumps(payload[name], indent=1, ensure_ascii=False)
            lines += ["", f"## {name.capitalize()}", "", "```json", raw_json, "```"]
    return "\n".join(lines) + "\n"


def table_of(theme: str, result: dict[str, Any]) -> RenderableType:
    """A result for the terminal."""
    from rich.console import Group
    from rich.markup import escape

    from palimpsest.report.tables import Pairs, Rows

    parts: list[RenderableType] = [
        Pairs(f"bench {theme}", {_spoken(name): shown(value) for name, value in facts(result).items()})
    ]
    for name, rows in tables(result).items():
        numeric = {key for key, value in rows[0].items() if isinstance(value, int | float)}
        columns = [f">{_spoken(key)}" if key in numeric else _spoken(key) for key in rows[0]]
        parts += ["", Rows(_spoken(name), columns, [[shown(value) for value in row.values()] for row in rows])]
    return Group(*parts, *(f"[dim]{note}[/]" for note in map(escape, result.get("notes", ()))))


def facts(result: dict[str, Any]) -> dict[str, Any]:
    """The scalars of a result."""
    return {name: value for name, value in result.items() if name not in _CONTEXT and not isinstance(value, list | dict)}


def tables(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The tables of a result; all rows of one have the same columns."""
    found = {name: value for name, value in result.items() if name not in _CONTEXT and isinstance(value, list)}
    return {name: rows for name, rows in found.items() if rows and isinstance(rows[0], dict)}


def shown(value: Any) -> str:
    """A value as people read it: four digits of a number, a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value).replace("|", "\\|")


def _spoken(name: str) -> str:
    return name.replace("_", " ").replace(" per second", "/s")
