"""What is sent to a cluster and how its answers are taken; tests/test_cluster.py submits to a real one."""

from __future__ import annotations

import json
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from palimpsest.cli import app as cli
from palimpsest.config import ConfigError, load, parse
from palimpsest.operations import submit
from palimpsest.operations.submit import Outcome, Submission, SubmissionFailed

PLACES = {"sources": ["s3://texts/a"], "out": "s3://corpora/a"}


def prepared(**options: Any) -> Submission:
    return submit.prepare(parse(PLACES), **options)


def test_the_id_is_that_of_what_is_asked_for() -> None:
    same = {prepared().id, prepared(environment=["HOME"]).id, prepared(driver_cpus=1.0).id, prepared(json_logs=True).id}
    assert len(same) == 1
    other = submit.prepare(parse(PLACES, ["tiers.mode=small"]))
    different = {prepared(tag="2026-11-23").id, prepared(command="ingest").id, other.id, *same}
    assert len(different) == 4
    assert all(len(name) < 60 and name.startswith("palimpsest-") for name in different)


def test_the_preset_travels_with_its_overrides_and_runs_on_the_cluster_that_takes_it(tmp_path: Path) -> None:
    config = load("cpu-cluster", ["tiers.mode=small"]).replace(sources=("s3://texts/a",), out="s3://corpora/a")
    sent = submit.prepare(config)
    assert parse(tomllib.loads(sent.settings)) == config
    assert parse(tomllib.loads(prepared().settings)).placement.address == "auto"
    assert sent.runtime_env(tmp_path, {}) == {"working_dir": str(tmp_path), "env_vars": {}}
    shipped = prepared(ship_code=True).runtime_env(tmp_path, {})
    assert [Path(module).name for module in shipped["py_modules"]] == ["palimpsest"]


@pytest.mark.parametrize(
    ("settings", "options", "said"),
    [
        ({**PLACES, "sources": ["books/"]}, {}, "'books/' is relative"),
        ({**PLACES, "out": "corpora/a"}, {}, "'corpora/a' is relative"),
        ({**PLACES, "codec": {"path": "weights"}}, {}, "'weights' is relative"),
        ({"out": "/a"}, {}, "no sources"),
        ({"sources": ["/a"]}, {}, "no output"),
        (PLACES, {"command": "retier"}, "choose one of run, ingest"),
        (PLACES, {"environment": ["KEY=hush"]}, "--env 'KEY': give the name"),
    ],
)
def test_what_cannot_work_is_refused_before_it_is_sent(settings: dict[str, Any], options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        submit.prepare(parse(settings), **options)
    assert "hush" not in str(refused.value)


def test_values_of_variables_are_sent_but_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE_SECRET", "hush-hush")
    sent = prepared(environment=["STORE_SECRET"], json_logs=True)
    env = sent.runtime_env(tmp_path, {"STORE_SECRET": "hush-hush"})
    assert env["env_vars"] == {"STORE_SECRET": "hush-hush", "PALIMPSEST_LOG": "json"}
    command = ["submit", "cpu-cluster", "-s", "s3://a", "-o", "s3://b", "--env", "STORE_SECRET", "--dry-run"]
    for more in ([], ["--json"]):
        result = CliRunner().invoke(cli.app, [*command, *more])
        assert result.exit_code == 0 and "STORE_SECRET" in result.output and "hush" not in result.output
    assert json.loads(result.stdout)["entrypoint"] == "python -m palimpsest.cli run job.toml --json"
    with pytest.raises(ValueError, match="--env ABSENT: not set"):
        prepared(environment=["ABSENT"]).runtime_env(tmp_path, {})


def test_an_address_that_ray_would_not_take_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ValueError, match="dashboard"):
        submit.connect("auto")
    with pytest.raises(SubmissionFailed, match=r"127\.0\.0\.1:9"):
        submit.connect("http://127.0.0.1:9")
    monkeypatch.setenv("RAY_ADDRESS", "http://elsewhere:8265")
    with pytest.raises(ValueError, match="RAY_ADDRESS is set to 'http://elsewhere:8265'"):
        submit.connect("http://127.0.0.1:9")


def test_a_cluster_that_does_not_answer_is_a_failure_and_a_bad_setting_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    command = ["submit", "cpu-cluster", "-s", "s3://a", "-o", "s3://b", "--address", "http://127.0.0.1:9"]
    result = CliRunner().invoke(cli.app, command)
    assert result.exit_code == 1 and "127.0.0.1:9" in result.stderr
    assert CliRunner().invoke(cli.app, [*command, "--set", "placement.adress=auto"]).exit_code == 2


@pytest.mark.parametrize("name", ["cpu-cluster", "gpu-cluster"])
def test_the_cluster_presets_hold(name: str) -> None:
    config = load(name)
    assert config.placement.address == "auto" and config.sources == () and config.out == ""
    assert config.placement.render_batch >= config.placement.encode_batch or name == "cpu-cluster"
    with pytest.raises(ConfigError):
        load(name, ["placement.stall_seconds=-1"])


@pytest.mark.parametrize(
    ("status", "exit_code", "code"),
    [("SUCCEEDED", 0, 0), ("FAILED", 1, 1), ("FAILED", 2, 2), ("FAILED", 3, 3), ("FAILED", 137, 1), ("FAILED", None, 1)]
    + [("STOPPED", None, 1), ("RUNNING", None, 0)],
)
def test_the_exit_code_is_the_jobs(status: str, exit_code: int | None, code: int) -> None:
    assert Outcome(submission_id="a", attached=False, status=status, exit_code=exit_code).code == code


class Flaky:
    """A dashboard whose log connection breaks in the middle, and begins anew with the whole log."""

    def __init__(self) -> None:
        self.connections = 0

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        self.connections += 1
        yield "one\ntw"
        if self.connections == 1:
            raise ConnectionResetError("gone")
        yield "o\nthree\n"

    def get_job_info(self, job_id: str) -> Any:
        if self.connections == 1:
            raise ConnectionError("not yet back")
        return SimpleNamespace(status="SUCCEEDED", driver_exit_code=0, message="done")

    def submit_job(self, **job: Any) -> str:
        raise AssertionError("not asked for")


def test_a_log_is_said_once_whatever_the_connection_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "POLL_SECONDS", 0.01)
    said: list[str] = []
    client = Flaky()
    assert submit.follow(client, "a", said.append).status == "SUCCEEDED"
    assert "".join(said) == "one\ntwo\nthree\n" and client.connections == 2


def test_a_cluster_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(submit, "LOST_SECONDS", 0.1)

    class Gone(Flaky):
        def get_job_info(self, job_id: str) -> Any:
            raise ConnectionError("gone")

    with pytest.raises(SubmissionFailed, match="lost sight"):
        submit.follow(Gone(), "a", lambda text: None)


class Young:
    """A dashboard that no node's agent has reported to yet, in the words of Ray's."""

    def __init__(self, refusals: int) -> None:
        self.refusals, self.jobs = refusals, 0

    def get_job_info(self, job_id: str) -> Any:
        raise RuntimeError("Request failed with status code 404: Job does not exist")

    def tail_job_logs(self, job_id: str) -> Any:
        raise AssertionError("not asked for")

    def submit_job(self, **job: Any) -> str:
        self.refusals -= 1
        if self.refusals >= 0:
            raise RuntimeError("Request failed with status code 500: No available agent to submit job, please try again later..")
        self.jobs += 1
        return str(job["submission_id"])


def test_a_cluster_that_has_just_started_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "POLL_SECONDS", 0.01)
    client = Young(3)
    assert submit.submit(client, prepared()).status == "PENDING" and client.jobs == 1
    monkeypatch.setattr(submit, "LOST_SECONDS", 0.1)
    with pytest.raises(SubmissionFailed, match="No available agent"):
        submit.submit(Young(10**6), prepared())
