"""What commands say: results to stdout as a table or JSON, everything else to stderr, and four exit codes.

0  done
1  failed: nothing was published, or the command could not finish
2  usage: an unknown setting, a source or corpus that is not there
3  findings: the command finished and found something wrong
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

DONE, FAILED, USAGE, FINDINGS = 0, 1, 2, 3

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def quiet_libraries() -> None:
    """Keep the libraries' own progress and advice off the terminal; what they warn of otherwise, and their errors, stay."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    warnings.filterwarnings("ignore", message="The maximum number of concurrent tasks")  # a small corpus is no mistake
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")


def needs_lab() -> None:
    """End with exit code 2 where the packages of the extra `lab` are not installed, and say how to install them."""
    if find_spec("matplotlib") is None:
        err.print("error: benchmarks and training need an extra: pip install 'palimpsest[lab]'", markup=False, soft_wrap=True)
        raise typer.Exit(USAGE)


@contextmanager
def explained() -> Iterator[None]:
    """Turn the errors that a user can fix into one line and an exit code; a bug keeps its traceback.

    SIGTERM ends the command as SIGINT does.
    """
    from palimpsest.errors import PalimpsestError

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except PalimpsestError as error:
        usage = error.exit_code == USAGE
        err.print(f"[bold red]{'error' if usage else 'failed'}:[/] {_plain(error)}", soft_wrap=True)
        raise typer.Exit(error.exit_code) from error
    except (ValueError, FileNotFoundError) as error:
        err.print(f"[bold red]error:[/] {_plain(error)}", soft_wrap=True)
        raise typer.Exit(USAGE) from error
    except BrokenPipeError:
        raise  # whoever reads our output has seen enough
    except OSError as error:
        err.print(f"[bold red]failed:[/] {_plain(error)}", soft_wrap=True)
        raise typer.Exit(FAILED) from error
    except KeyboardInterrupt as error:
        err.print("stopped; what was committed is kept, the same command continues from there")
        raise typer.Exit(FAILED) from error


def _plain(error: BaseException) -> str:
    return escape(str(error).strip())


def line(text: str) -> None:
    """A line to stdout as it is: whole, however long, and brackets in it are no markup."""
    out.print(text, markup=False, soft_wrap=True)


def passed_over(passed: Mapping[str, Any]) -> None:
    """A line about the names that a listing passed over, if there are any."""
    from palimpsest.sources.names import passed_over_line

    if passed:
        line(passed_over_line(passed))


def print_json(value: Any) -> None:
    """One JSON value to stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def pairs(title: str, values: Mapping[str, Any]) -> Table:
    """A two-column table."""
    table = Table(title=escape(title), title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column()
    for name, value in values.items():
        table.add_row(name, escape(str(value)))
    return table
