"""Results to stdout as a table or JSON, everything else to stderr, and four exit codes.

0  done
1  failed: nothing was published, or the command could not finish
2  usage: an unknown setting, a source or corpus that is not there
3  findings: the command finished and found something wrong
"""

from __future__ import annotations

import codecs
import io
import json
import logging
import os
import signal
import sys
import threading
import unicodedata
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, TextIO

import typer
from rich.console import Console
from rich.markup import escape

from palimpsest import telemetry
from palimpsest.errors import PalimpsestError
from palimpsest.report.tables import Pairs

DONE, FAILED, USAGE, FINDINGS = 0, 1, 2, 3
MESSAGE_CHARS = 300  # of a library's warning
WIDE = 10_000  # columns where the output is no terminal: nothing is cut for a reader that has no width
ASCII = {"×": "x", "–": "-", "−": "-", "…": "...", "→": "->", "≤": "<=", "≥": ">=", "·": ".", "⏎": "\\n", "⇥": "\\t", "±": "+-"}


def _console(stream: TextIO, *, stderr: bool) -> Console:
    """A console as wide as the terminal, or wide enough for anything where there is none."""
    narrow = stream.isatty() or "COLUMNS" in os.environ
    return Console(stderr=stderr, highlight=False, width=None if narrow else WIDE)


out = _console(sys.stdout, stderr=False)
err = _console(sys.stderr, stderr=True)


def speak_ascii(error: UnicodeError) -> tuple[str, int]:
    """An error handler of codecs: signs that the encoding lacks, in ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = "".join(_in_ascii(sign) for sign in error.object[error.start : error.end])
    return text, error.end


def _in_ascii(sign: str) -> str:
    if "\u2500" <= sign <= "\u257f":  # frames of help texts
        return "-" if sign in "─━╌╍" else "|" if sign in "│┃" else "+"
    plain = ASCII.get(sign) or unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode()
    return plain or sign.encode("ascii", "backslashreplace").decode()


def any_encoding() -> None:
    """Make stdout and stderr print every text, whatever their encoding."""
    codecs.register_error("palimpsest-ascii", speak_ascii)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure and (stream.encoding or "").lower().replace("-", "") != "utf8":
            reconfigure(errors="palimpsest-ascii")


class Verbosity:
    """How much is printed to stderr: `quiet` prints errors only."""

    quiet = False


def set_verbosity(verbosity: int) -> None:
    """Below 0: errors only, no progress and no events; 0: what matters; above 0: every event."""
    Verbosity.quiet = verbosity < 0
    telemetry.set_verbosity(verbosity)


def quiet_libraries() -> None:
    """Keep the libraries' own progress and advice off the terminal; their warnings and errors become events, one line each."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    warnings.filterwarnings("ignore", message="The maximum number of concurrent tasks")  # a small corpus is no mistake
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")
    warnings.showwarning = _warned
    logging.Logger.callHandlers = _logged  # type: ignore[assignment,method-assign]  # torch and transformers bring handlers of their own


def _warned(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """`warnings.showwarning`, as an event; what is meant for programmers is routine."""
    advice = issubclass(category, DeprecationWarning | PendingDeprecationWarning | FutureWarning | ResourceWarning)
    where = f"{os.path.basename(filename)}:{lineno}"
    telemetry.log_event("library_warning", routine=advice, kind=category.__name__, where=where, text=_one_line(str(message)))


def _logged(logger: logging.Logger, record: logging.LogRecord) -> None:
    """`Logger.callHandlers`, with an event in place of the handlers that print."""
    at: logging.Logger | None = logger
    while at:
        for handler in at.handlers:
            if record.levelno >= handler.level and not _prints(handler):
                handler.handle(record)
        at = at.parent if at.propagate else None
    if record.levelno >= logging.WARNING:
        try:
            text = record.getMessage()
        except (TypeError, ValueError):  # the library's own mistake in its message
            text = str(record.msg)
        ray = record.name.partition(".")[0] == "ray"  # its errors are raised too
        level = record.levelname.lower()
        telemetry.log_event("library_message", routine=ray, library=record.name, level=level, text=_one_line(text))


def _prints(handler: logging.Handler) -> bool:
    if isinstance(handler, logging.FileHandler) or not isinstance(handler, logging.StreamHandler):
        return False
    return not isinstance(handler.stream, io.StringIO)


def _one_line(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= MESSAGE_CHARS else f"{flat[: MESSAGE_CHARS - 3]}..."


def needs_lab() -> None:
    """End with exit code 2 where the packages of the extra `lab` are not installed, and say how to install them."""
    if find_spec("matplotlib") is None:
        err.print("error: benchmarks and training need an extra: pip install 'palimpsest[lab]'", markup=False, soft_wrap=True)
        raise typer.Exit(USAGE)


@contextmanager
def explained() -> Iterator[None]:
    """Turn errors that a user can act on into a message and an exit code; a bug keeps its traceback.

    SIGTERM ends the command as SIGINT does.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except BrokenPipeError:
        raise  # the reader of our output has seen enough
    except PalimpsestError as error:
        raise _ended("error" if error.exit_code == USAGE else "failed", error, error.exit_code) from error
    except (ValueError, FileNotFoundError) as error:
        raise _ended("error", error, USAGE) from error
    except OSError as error:
        raise _ended("failed", error, FAILED) from error
    except KeyboardInterrupt as error:
        err.print("stopped; what was committed is kept, the same command continues from there")
        raise typer.Exit(FAILED) from error


def _ended(word: str, error: BaseException, code: int) -> typer.Exit:
    err.print(f"[bold red]{word}:[/] {_plain(error)}", soft_wrap=True)
    return typer.Exit(code)


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


def source_findings(result: Any) -> None:
    """Lines about objects that are mostly bad, metadata that could not be used, and fields that never occur."""
    for bad in result.set_aside:
        line(f"mostly bad: {bad}")
    if nulled := getattr(result, "nulled", None):
        counts = ", ".join(f"{reason} {count:,}" for reason, count in sorted(nulled.items()))
        line(f'metadata that could not be used is null: {counts} (source.bad_metadata = "quarantine" refuses these records)')
    for message in result.absent_fields:
        line(f"finding: {message}")


def print_json(value: Any) -> None:
    """One JSON value to stdout."""
    utf8 = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "") == "utf8"
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=not utf8, default=str) + "\n")


def pairs(title: str, values: Mapping[str, Any]) -> Pairs:
    """A table of names and values."""
    return Pairs(title, values)
