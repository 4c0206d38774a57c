"""What happens in a job, said on stderr: a line for people, or one JSON object per line (`--log-json`, or PALIMPSEST_LOG=json).

Events carry names and numbers, never texts of documents or credentials: values that look like a secret by their name are not
written. The workers of a job write in the same form: the choice reaches them through the environment, and their lines stand in
Ray's worker logs, and in the job's.
"""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import UTC, datetime
from typing import Any

VARIABLE, JSON = "PALIMPSEST_LOG", "json"
_SECRET = ("secret", "password", "token_auth", "credential", "access_key", "authorization")
_context: dict[str, Any] = {}


def use_json() -> None:
    """From here on, this process and those that it starts write JSON lines."""
    os.environ[VARIABLE] = JSON


def as_json() -> bool:
    return os.environ.get(VARIABLE) == JSON


def set_context(**fields: Any) -> None:
    """Fields of every following event of this process, such as run_id; None removes one."""
    for name, value in fields.items():
        if value is None:
            _context.pop(name, None)
        else:
            _context[name] = value


def context() -> dict[str, Any]:
    return dict(_context)


def log_event(event: str, *, routine: bool = False, **fields: Any) -> None:
    """Write one event. Fields of the value None are left out.

    Args:
        routine: of no interest to people who watch; written as JSON only.
    """
    if routine and not as_json():
        return
    now = time.time()
    said = {**_context, **{name: value for name, value in fields.items() if value is not None}}
    said = {name: value for name, value in said.items() if not any(part in name.lower() for part in _SECRET)}
    if as_json():
        moment = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": moment, "event": event, "pid": os.getpid(), **said}, ensure_ascii=False, default=str)
    else:
        details = " ".join(f"{name}={value}" for name, value in said.items())
        line = f"{datetime.fromtimestamp(now):%H:%M:%S} {event}{' ' if details else ''}{details}"
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
