"""`palimpsest submit`: a job for a running Ray cluster, through its dashboard.

The preset travels with the job: its content, with all overrides, is the file `job.toml` of the job's working directory. The
submission id is a hash of the request. A scheduler that submits twice gets one job, and the second call attaches to it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from palimpsest.config import JobConfig, to_toml
from palimpsest.errors import UsageError
from palimpsest.flow.ray_jobs import SubmissionFailed, first_line, job_client
from palimpsest.telemetry import JSON, VARIABLE

COMMANDS = ("run", "ingest")
FILE = "job.toml"
DEFAULT_ADDRESS = "http://127.0.0.1:8265"
POLL_SECONDS = 1.0
LOST_SECONDS = 120.0  # longest wait for a dashboard that does not answer, and for a new cluster that is not ready for a job
NOT_READY = "No available agent to submit job"  # Ray's message until a node's agent has reported to the dashboard


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A job as it would be sent.

    Attributes:
        settings: the job's preset, overrides included, as TOML.
        environment: names of variables whose values are passed on.
        ship_code: send this package along; otherwise the cluster's image has it.
        driver_cpus: CPUs that the cluster reserves for the job's driver.
    """

    command: str
    settings: str
    tag: str
    environment: tuple[str, ...] = ()
    json_logs: bool = False
    ship_code: bool = False
    python: str = "python"
    driver_cpus: float = 0.0

    @property
    def id(self) -> str:
        """Deterministic: the same settings, command and tag give the same id."""
        asked = json.dumps([self.command, self.settings, self.tag])
        return f"palimpsest-{self.command}-{hashlib.sha256(asked.encode()).hexdigest()[:16]}"

    @property
    def entrypoint(self) -> str:
        return f"{shlex.quote(self.python)} -m palimpsest.cli {self.command} {FILE} --json"

    def runtime_env(self, folder: Path, variables: Mapping[str, str]) -> dict[str, Any]:
        """Ray's runtime environment; `folder` contains the settings.

        Raises:
            ValueError: a variable is not set.
        """
        missing = [name for name in self.environment if name not in variables]
        if missing:
            raise UsageError(f"--env {missing[0]}: not set here, so there is nothing to pass on")
        passed = {name: variables[name] for name in self.environment}
        if self.json_logs:
            passed[VARIABLE] = JSON
        env: dict[str, Any] = {"working_dir": str(folder), "env_vars": passed}
        if self.ship_code:
            env |= {"py_modules": [str(Path(__file__).parent.parent)], "excludes": ["__pycache__"]}
        return env

    def shown(self) -> dict[str, Any]:
        """Everything that would be sent, except the values of variables."""
        return {
            "submission_id": self.id,
            "entrypoint": self.entrypoint,
            "tag": self.tag,
            "code": "sent along" if self.ship_code else "of the image",
            "variables": {name: "(value passed on)" if name in os.environ else "(not set)" for name in self.environment},
            "logs": "json" if self.json_logs else "lines",
            "driver_cpus": self.driver_cpus,
            FILE: self.settings,
        }


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The state of a submitted job.

    Attributes:
        attached: it had been submitted before.
        status: Ray's: PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED.
        exit_code: of the job's command once it ended.
    """

    submission_id: str
    attached: bool
    status: str
    exit_code: int | None = None
    message: str = field(default="")

    @property
    def ended(self) -> bool:
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")

    @property
    def code(self) -> int:
        """The exit code for the submitter: the job's own, and 1 for a job that was stopped or never began."""
        if self.status == "SUCCEEDED" or not self.ended:
            return 0
        return self.exit_code if self.exit_code in (1, 2, 3) else 1


class Client(Protocol):
    """The part of Ray's `JobSubmissionClient` that is used."""

    def submit_job(self, **job: Any) -> str: ...
    def get_job_info(self, job_id: str) -> Any: ...
    def tail_job_logs(self, job_id: str) -> Any: ...


def prepare(
    config: JobConfig,
    *,
    command: str = "run",
    tag: str = "",
    environment: Sequence[str] = (),
    json_logs: bool = False,
    ship_code: bool = False,
    python: str = "python",
    driver_cpus: float = 0.0,
) -> Submission:
    """Check a job before it is sent.

    Raises:
        ValueError: the job cannot work on a cluster: it has no sources or output, relative paths, or its own Ray.
    """
    if command not in COMMANDS:
        raise UsageError(f"--command {command!r}: choose one of {', '.join(COMMANDS)}")
    if not config.sources:
        raise UsageError("no sources: name them in the preset or with --source")
    if not config.out:
        raise UsageError("no output: name it in the preset or with --out")
    paths = {"sources": config.sources, "out": (config.out,), "codec.path": (config.codec.path,) if config.codec.path else ()}
    for setting, values in paths.items():
        for value in values:
            if "://" not in value and not os.path.isabs(value):
                raise UsageError(
                    f"{setting}: {value!r} is relative, and the job runs in another folder on another machine: give a URI, or an "
                    f"absolute path that every node has"
                )
    for name in environment:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise UsageError(f"--env {name.partition('=')[0]!r}: give the name of a variable only; its value is taken from here")
    if config.placement.address == "local":
        config = config.replace(placement=config.placement.replace(address="auto"))
    return Submission(
        command=command,
        settings=to_toml(config),
        tag=tag,
        environment=tuple(environment),
        json_logs=json_logs,
        ship_code=ship_code,
        python=python,
        driver_cpus=driver_cpus,
    )


def connect(address: str) -> Client:
    """A client of the cluster whose dashboard is at `address` (http:// or https://).

    Raises:
        UsageError: the address is of another kind, or an environment variable would silently replace it.
        SubmissionFailed: the dashboard does not answer, or refuses the token.
    """
    if not re.match(r"https?://[^/]+", address):
        raise UsageError(f"--address {address!r}: the address of a Ray dashboard, for example {DEFAULT_ADDRESS}")
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):  # Ray prefers these to its argument
        if os.environ.get(name, address).rstrip("/") != address.rstrip("/"):
            raise UsageError(f"--address {address!r}, but {name} is set to {os.environ[name]!r}, which Ray prefers: unset it")
    client: Client = job_client(address)
    return client


def submit(client: Client, submission: Submission) -> Outcome:
    """Submit the job, or find the existing one with its id.

    Raises:
        SubmissionFailed: the cluster did not accept it.
    """
    existing = _info(client, submission.id)
    if existing is not None:
        return replace(existing, attached=True)
    with tempfile.TemporaryDirectory(prefix="palimpsest-submit-") as folder:
        (Path(folder) / FILE).write_text(submission.settings, "utf-8")
        environment = submission.runtime_env(Path(folder), os.environ)
        job = {
            "entrypoint": submission.entrypoint,
            "submission_id": submission.id,
            "runtime_env": environment,
            "metadata": {"palimpsest_command": submission.command, "palimpsest_tag": submission.tag},
            "entrypoint_num_cpus": submission.driver_cpus,
        }
        try:
            _send(client, job)
        except Exception as error:  # the client raises RuntimeError, and its HTTP library's errors
            existing = _info(client, submission.id)
            if existing is not None:  # somebody was quicker
                return replace(existing, attached=True)
            raise SubmissionFailed(f"the cluster did not take {submission.id}: {first_line(error)}") from error
    return Outcome(submission_id=submission.id, attached=False, status="PENDING")


def _send(client: Client, job: dict[str, Any]) -> None:
    """Send the job; wait for a cluster that has just started and has no agent yet."""
    began = time.monotonic()
    while True:
        try:
            client.submit_job(**job)
            return
        except RuntimeError as error:
            if NOT_READY not in str(error) or time.monotonic() - began > LOST_SECONDS:
                raise
        time.sleep(POLL_SECONDS)


def follow(client: Client, submission_id: str, say: Callable[[str], None]) -> Outcome:
    """Wait for the end of a job, and `say` its log as it grows; tolerate a dashboard that is unreachable for a while.

    Raises:
        SubmissionFailed: the dashboard stayed unreachable for LOST_SECONDS.
    """
    shown = 0
    seen = time.monotonic()

    def tell(text: str, before: int) -> int:
        nonlocal shown
        fresh = text[max(0, shown - before) :]  # a new connection begins with the whole log
        if fresh:
            say(fresh)
            shown += len(fresh)
        return before + len(text)

    async def tail() -> None:
        before = 0
        async for text in client.tail_job_logs(submission_id):
            before = tell(text, before)

    while True:
        problem: Exception | None = None
        try:
            asyncio.run(tail())
        except Exception as error:  # the HTTP library may raise any error; the job's state decides
            problem = error
        try:
            outcome = _info(client, submission_id)
        except SubmissionFailed as error:
            outcome, problem = None, error
        if outcome is not None:
            seen = time.monotonic()
            if outcome.ended:
                return outcome
        if time.monotonic() - seen > LOST_SECONDS:
            raise SubmissionFailed(f"lost sight of {submission_id} for {LOST_SECONDS:.0f} s: {problem or 'no such job'}")
        time.sleep(POLL_SECONDS)


def _info(client: Client, submission_id: str) -> Outcome | None:
    """The cluster's state of a job, or None for an unknown id."""
    try:
        info = client.get_job_info(submission_id)
    except Exception as error:  # RuntimeError with the status in its text; the HTTP library's own
        if "404" in str(error) or "does not exist" in str(error):
            return None
        raise SubmissionFailed(f"asking for {submission_id}: {first_line(error)}") from error
    return Outcome(
        submission_id=submission_id,
        attached=False,
        status=str(getattr(info.status, "value", info.status)),
        exit_code=info.driver_exit_code,
        message=info.message or "",
    )


def to_stderr(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
