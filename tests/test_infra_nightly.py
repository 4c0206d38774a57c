"""start_rayjob.py, which the CronJob runs, against an API server that keeps RayJobs and moves them as KubeRay does."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.infra_validators import INFRA, documents, kubernetes_errors

SCRIPT = INFRA / "kuberay" / "start_rayjob.py"
PATH = "/apis/ray.io/v1/namespaces/palimpsest/rayjobs"
GOOD = [{}, {"jobDeploymentStatus": "Initializing"}, {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}]
DONE = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}


class Server(ThreadingHTTPServer):
    """As much of the API server as the script may use.

    Attributes:
        statuses: what a created RayJob's status is at the first, second, … look; the last one stays.
        errors: answered first, one each: a status code, or 0 to cut the connection.
        lose_answer: do what the next POST asks for, and cut the connection.
        tokens: those accepted.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        (template,) = documents(INFRA / "kuberay" / "rayjob-nightly.yaml")
        self.jobs: dict[str, dict[str, Any]] = {template["metadata"]["name"]: template}
        self.statuses: list[dict[str, Any]] = [*GOOD, DONE]
        self.errors: list[int] = []
        self.lose_answer = False
        self.tokens = ["first"]
        self.looks = 0
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.removeprefix(f"{PATH}/")
        if not self._refused():
            job = self.server.jobs.get(name)
            if job is None:
                return self._answer(404, {"message": f'rayjobs.ray.io "{name}" not found'})
            if "suspend" not in job["spec"]:
                self.server.looks += 1
                job = {**job, "status": self.server.statuses[min(self.server.looks, len(self.server.statuses)) - 1]}
            self._answer(200, job)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._refused():
            name = body["metadata"]["name"]
            if name in self.server.jobs:
                return self._answer(409, {"message": f'rayjobs.ray.io "{name}" already exists'})
            self.server.jobs[name] = body
            if self.server.lose_answer:
                self.server.lose_answer, self.close_connection = False, True
            else:
                self._answer(201, body)

    def _refused(self) -> bool:
        self.server.requests.append(f"{self.command} {self.path}")
        if self.server.errors:
            code = self.server.errors.pop(0)
            if code:
                self._answer(code, {"message": "made to fail"})
            else:
                self.close_connection = True
            return True
        if self.headers["Authorization"] not in [f"Bearer {token}" for token in self.server.tokens]:
            self._answer(401, {"message": "Unauthorized"})
            return True
        return False

    def _answer(self, code: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def account(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("first\n")
    return tmp_path


def command(server: Server, account: Path, name: str = "palimpsest-nightly-29384820", patience: float = 20) -> list[str]:
    where = ["--namespace=palimpsest", f"--server={server.url}", f"--account={account}"]
    what = ["--template=palimpsest-nightly", f"--name={name}", "--owner-uid=uid-1"]
    return [sys.executable, str(SCRIPT), *where, *what, "--pause=0.05", f"--patience={patience}"]


def started(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments, **options), capture_output=True, text=True, timeout=120)


def test_the_template_runs_under_the_name_of_its_job(server: Server, account: Path) -> None:
    done = started(server, account)
    assert done.returncode == 0, done.stderr
    made = server.jobs["palimpsest-nightly-29384820"]
    assert made["metadata"]["ownerReferences"] == [
        {"apiVersion": "batch/v1", "kind": "Job", "name": "palimpsest-nightly-29384820", "uid": "uid-1", "controller": True}
    ]
    template = server.jobs["palimpsest-nightly"]["spec"]
    assert {**made["spec"], "suspend": True} == template and "suspend" not in made["spec"]
    checked = {**made, "metadata": {key: made["metadata"][key] for key in ("name", "labels")}}
    assert kubernetes_errors(checked) == []
    assert [line.partition(" ")[2] for line in done.stdout.splitlines()] == [
        "created RayJob palimpsest-nightly-29384820 from palimpsest-nightly",
        "New",
        "Initializing",
        "Running | RUNNING",
        "Complete | SUCCEEDED",
    ]


@pytest.mark.parametrize(
    "end",
    [
        {
            "jobDeploymentStatus": "Failed",
            "jobStatus": "FAILED",
            "reason": "AppFailed",
            "message": "failed with exit code 1",
        },
        {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed", "message": "failed with exit code 2"},
        {"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded", "message": "activeDeadlineSeconds"},
        {"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"},
        {"jobDeploymentStatus": "ValidationFailed", "reason": "ValidationFailed"},
    ],
)
def test_a_failed_job_is_told_with_its_reason(server: Server, account: Path, end: dict[str, str]) -> None:
    server.statuses = [*GOOD, {"jobDeploymentStatus": "Retrying"}, end]
    done = started(server, account)
    assert done.returncode == 1
    assert all(value in done.stdout.splitlines()[-1] for value in end.values())
    assert len(server.jobs) == 2, "a failure that would come again is not tried again"


@pytest.mark.parametrize(
    "end",
    [
        {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed", "message": "exit code 137"},
        {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed", "message": "the driver's node died"},
        {"jobDeploymentStatus": "Failed", "reason": "PreRunningDeadlineExceeded", "message": "no machines"},
    ],
)
def test_a_failure_that_may_pass_is_tried_once_more(server: Server, account: Path, end: dict[str, str]) -> None:
    name = "palimpsest-nightly-29384820"
    server.statuses = [*GOOD, end]
    done = started(server, account)
    assert done.returncode == 1 and set(server.jobs) == {"palimpsest-nightly", name, f"{name}-2"}
    assert {job["metadata"]["ownerReferences"][0]["name"] for job in server.jobs.values() if "suspend" not in job["spec"]} == {
        name
    }
    server.jobs = {"palimpsest-nightly": server.jobs["palimpsest-nightly"]}
    server.statuses, server.looks = [*GOOD, end, DONE], 0
    assert started(server, account).returncode == 0


def test_a_pod_that_is_started_again_finds_its_job(server: Server, account: Path) -> None:
    server.statuses = [{"jobDeploymentStatus": "Running"}] * 500
    process = subprocess.Popen(command(server, account), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and "created" in process.stdout.readline()
    process.kill()
    process.communicate()
    server.statuses = [DONE]
    done = started(server, account)
    assert done.returncode == 0 and "found RayJob" in done.stdout
    assert len(server.jobs) == 2


def test_a_job_of_somebody_else_is_not_adopted(server: Server, account: Path) -> None:
    assert started(server, account).returncode == 0
    server.jobs["palimpsest-nightly-29384820"]["metadata"]["ownerReferences"][0]["uid"] = "uid-2"
    done = started(server, account)
    assert done.returncode == 2 and "belongs to somebody else" in done.stderr


def test_an_api_server_that_is_away_for_a_while_is_waited_for(server: Server, account: Path) -> None:
    server.errors = [503, 0, 500, 429]
    done = started(server, account)
    assert done.returncode == 0, done.stderr
    assert "503" in done.stdout and done.stdout.count("trying again") == 4


def test_a_write_that_was_done_and_not_answered_is_not_done_twice(server: Server, account: Path) -> None:
    server.lose_answer = True
    done = started(server, account)
    assert done.returncode == 0 and "found RayJob" in done.stdout
    assert server.requests.count(f"POST {PATH}") == 2 and len(server.jobs) == 2


def test_a_token_that_is_replaced_is_read_again(server: Server, account: Path) -> None:
    server.statuses = [{"jobDeploymentStatus": "Running"}] * 10 + [DONE]
    process = subprocess.Popen(command(server, account), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while "Running" not in process.stdout.readline():
        pass
    server.tokens = ["second"]
    while "401" not in process.stdout.readline():
        pass
    (account / "token").write_text("second")
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("errors", "name", "patience", "code", "said"),
    [
        ([403], "palimpsest-nightly-29384820", 20, 2, "403: made to fail"),
        ([503] * 1000, "palimpsest-nightly-29384820", 0.3, 4, "cannot be reached"),
        ([], "a-name-of-more-than-forty-seven-characters-29384820", 20, 2, "at most 47 characters"),
    ],
)
def test_trouble_has_its_own_exit_code(
    server: Server, account: Path, errors: list[int], name: str, patience: float, code: int, said: str
) -> None:
    server.errors = errors
    done = started(server, account, name=name, patience=patience)
    assert done.returncode == code and said in done.stderr


def test_a_job_that_somebody_deletes_has_failed(server: Server, account: Path) -> None:
    server.statuses = [{"jobDeploymentStatus": "Running"}] * 5000
    process = subprocess.Popen(command(server, account), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while "Running" not in process.stdout.readline():
        pass
    del server.jobs["palimpsest-nightly-29384820"]
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1 and "not found" in said


def test_the_cronjobs_exit_codes_are_the_scripts() -> None:
    (night,) = documents(INFRA / "kuberay" / "nightly.yaml")
    rules = night["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    (final,) = [rule["onExitCodes"]["values"] for rule in rules if rule["action"] == "FailJob"]
    source = SCRIPT.read_text("utf-8")
    assert "FAILED, USAGE, UNREACHABLE = 1, 2, 4\n" in source and final == [1, 2]
