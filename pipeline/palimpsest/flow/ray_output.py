"""Ray's own lines, kept away from those of a command.

Ray's Python loggers print to stderr, and its C++ core writes to file descriptor 2 while it starts, whatever its level. What they
report is raised as an exception too, or is in the logs of Ray's session.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from palimpsest.flow.ray_internals import on_message
from palimpsest.telemetry import log_event

CORE_LINE = re.compile(rb"\[[^\]]* [A-Z] \d+ \d+\] (\([^)]*\) )?[\w./]+\.(cc|h):\d+: ")
"""The beginning of a line of the C++ core: `[2026-11-30 07:54:48,183 I 7562 7562] logging.cc:303: …`."""
MESSAGE_CHARS = 300
SHOWN = 20  # lines that an error repeats
STDERR = 2


def quiet_loggers() -> None:
    """Take Ray's loggers off stderr; the handlers of the program, if it has any, still get their errors."""
    for name in ("ray", "ray.data"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.ERROR)
        for handler in list(logger.handlers):
            if isinstance(handler, logging.StreamHandler):
                logger.removeHandler(handler)
                logger.propagate = True


def messages_as_events() -> AbstractContextManager[None]:
    """In the block, what the cluster tells its driver is an event."""
    return on_message(lambda text: log_event("cluster_message", text=" ".join(text.split())[:MESSAGE_CHARS]))


@contextmanager
def core_lines_held() -> Iterator[None]:
    """Hold back what native code writes to stderr in the block; Python's own lines pass.

    Lines of Ray's core are dropped at the end, and repeated in a note of the exception if the block raises one. Other lines are
    written then, after those of the block.
    """
    sys.stderr.flush()
    terminal = os.dup(STDERR)
    with tempfile.TemporaryFile() as held:
        before = sys.stderr
        if _writes_to(STDERR):
            # Closed by its last user: another thread may be writing a line to it when the block ends.
            sys.stderr = os.fdopen(os.dup(terminal), "w", buffering=1, encoding=before.encoding, errors=before.errors)
        os.dup2(held.fileno(), STDERR)
        try:
            yield
        except BaseException as error:
            if lines := [line for line in _lines(held.fileno()) if CORE_LINE.match(line)]:
                error.add_note("Ray's last lines:\n" + b"\n".join(lines[-SHOWN:]).decode("utf-8", "replace"))
            raise
        finally:
            before.flush()
            os.dup2(terminal, STDERR)
            os.close(terminal)
            sys.stderr = before
            for line in _lines(held.fileno()):
                if not CORE_LINE.match(line):
                    os.write(STDERR, line + b"\n")


def _writes_to(descriptor: int) -> bool:
    try:
        return sys.stderr.fileno() == descriptor
    except (AttributeError, OSError, ValueError):  # replaced by something without a file, as under a test
        return False


def _lines(descriptor: int) -> list[bytes]:
    os.lseek(descriptor, 0, os.SEEK_SET)
    with os.fdopen(os.dup(descriptor), "rb") as file:
        return file.read().splitlines()
