"""A cluster of two nodes with a dashboard: nodes and workers that die in the middle of a run, jobs, and what Prometheus sees."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from palimpsest.cli import app as cli
from palimpsest.config import JobConfig, to_toml
from palimpsest.corpus.fsck import fsck
from palimpsest.flow import ray_executor as flow
from palimpsest.operations.progress import Progress
from palimpsest.operations.run import run
from palimpsest.storage.local_store import LocalStore
from palimpsest.telemetry import METRICS
from tests.conftest import JobFactory
from tests.gated_encode import GatedEncode, gate_of
from tests.infra_validators import INFRA, documents, output_of, program
from tests.mixed_sources import prose
from tests.paths import PYTHONPATH
from tests.test_flow import content

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

ROOT = Path(__file__).parent.parent
SYSTEM = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 5,
    "metrics_report_interval_ms": 500,  # a worker that ends soon takes with it what it has not reported
}
NODE = {"num_cpus": 1, "object_store_memory": 100_000_000}
PATIENCE = 300  # seconds that anything may take on a machine that is busy with other things
UNITS = 8
ONLY_IN_TROUBLE = {
    "palimpsest_batches_halved",  # a device without memory: on a CPU a batch is one page (see test_batching.py)
    "palimpsest_tokens_as_text",  # pages kept as text, which this run may not have: a counter without a count is not exported
}


def processes() -> dict[int, tuple[int, str]]:
    """Parent and command line of every living process."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            found[int(folder.name)] = (parent, (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


def descendants(pid: int) -> list[int]:
    every, family = processes(), [pid]
    for member in family:
        family += [child for child, (parent, _) in every.items() if parent == member]
    return family[1:]


def end(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def raylet(node: Any) -> int:
    (info,) = node.all_processes["raylet"]
    return int(info.process.pid)


class TwoNodes:
    """A head with a dashboard, and a second node."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        head = {**NODE, "include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": port}
        self.cluster = Cluster(initialize_head=True, head_node_args={**head, "_system_config": SYSTEM})
        self.second = self.cluster.add_node(**NODE)
        self.dashboard = f"http://127.0.0.1:{port}"
        self.started: set[int] = set()

    def wait_for_agent(self) -> None:
        """Until the cluster takes jobs: a node's agent starts after the node, and long after it on a busy machine."""
        from ray.job_submission import JobSubmissionClient

        def taken() -> bool:
            with suppress(RuntimeError):
                return bool(JobSubmissionClient(self.dashboard).submit_job(entrypoint="true"))
            return False

        wait_until(taken)

    def kill_second(self) -> None:
        """SIGKILL to the raylet of the second node and to everything that it started."""
        pid = raylet(self.second)
        family = descendants(pid)
        end([pid, *family])

    def workers(self, node: Any, name: str) -> list[int]:
        """Processes of a node that serve the actor or task `name`."""
        every = processes()
        return [pid for pid in descendants(raylet(node)) if pid in every and f"ray::{name}" in every[pid][1]]

    def encoders(self) -> list[int]:
        nodes = (self.second, self.cluster.head_node)
        return [pid for node in nodes for pid in self.workers(node, "MapWorker(MapBatches(EncodeWorker))")]

    def metrics(self) -> str:
        """What Prometheus would scrape from all nodes."""
        import ray

        texts = []
        for node in ray.nodes():
            if node["Alive"]:
                url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
                with suppress(OSError), urllib.request.urlopen(url, timeout=30) as answer:  # Ray notices a dead node late
                    texts.append(answer.read().decode())
        return "\n".join(texts)

    def close(self) -> None:
        import ray

        family = descendants(os.getpid())
        ray.shutdown()
        with suppress(Exception):  # of a node that the test killed; whatever it leaves behind is ended by its id
            self.cluster.shutdown()
        end([pid for pid in family if pid in processes()])


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[TwoNodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", PYTHONPATH)
        patch.delenv("RAY_ADDRESS", raising=False)
        before = set(descendants(os.getpid()))
        nodes = TwoNodes()
        try:
            yield nodes
        finally:
            nodes.close()
            left = [pid for pid in descendants(os.getpid()) if pid not in before]
            end(left)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for unit in range(UNITS):
        records = [{"id": f"{unit}-{number}", "text": prose(1500 + 900 * number, 10 * unit + number)} for number in range(3)]
        (folder / f"{unit}.jsonl").write_text("\n".join([*map(json.dumps, records), "no json"]))
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder: Path, job: JobFactory, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    out = tmp_path_factory.mktemp("undisturbed")
    run(cluster_job(job, folder, out, "placement.executor=local"))
    return content(out)


def cluster_job(job: JobFactory, folder: Path, out: Path, *more: str) -> JobConfig:
    small = (
        "placement.executor=ray",
        "placement.render_batch=4",
        "placement.shard_batch=4",
        "placement.cpus_per_worker=0.25",
        "verification.share=0.25",
    )
    return job(folder, out, *small, "placement.encode_workers=2", *more)


def wait_until(true: Callable[[], bool | None]) -> None:
    deadline = time.monotonic() + PATIENCE / 3
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def submit(preset: Path, nodes: TwoNodes, *options: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, result and log of `palimpsest submit`."""
    import sys

    command = ["submit", str(preset), "--address", nodes.dashboard, "--python", sys.executable, "--json", *options]
    result = CliRunner().invoke(cli.app, command)
    assert result.stdout.strip().startswith("{"), result.output
    return result.exit_code, json.loads(result.stdout), result.stderr


def test_a_job_is_submitted_followed_attached_to_and_its_exit_code_comes_back(
    two_nodes: TwoNodes, folder: Path, job: JobFactory, tmp_path: Path, undisturbed: tuple[Any, ...]
) -> None:
    preset = tmp_path / "job.toml"
    preset.write_text(to_toml(cluster_job(job, folder, tmp_path / "out")))
    two_nodes.wait_for_agent()
    code, begun, _ = submit(preset, two_nodes, "--no-follow", "--log-json")
    assert code == 0 and begun["attached"] is False and begun["status"] in ("PENDING", "RUNNING")
    code, ended, log = submit(preset, two_nodes, "--log-json")
    assert (code, ended["attached"], ended["status"], ended["exit_code"]) == (0, True, "SUCCEEDED", 0), log
    assert ended["submission_id"] == begun["submission_id"]
    events = [json.loads(line) for line in log.splitlines() if line.startswith('{"time"')]
    committed = [event for event in events if event["event"] == "unit_committed"]
    assert len({event["unit_id"] for event in committed}) == UNITS and len({event["run_id"] for event in committed}) == 1
    assert content(tmp_path / "out") == undisturbed

    failing = tmp_path / "failing.toml"  # a quarter of the documents is no JSON
    failing.write_text(to_toml(cluster_job(job, folder / "0.jsonl", tmp_path / "strict", "limits.quarantine_share=0.01")))
    code, failed, log = submit(failing, two_nodes)
    assert (code, failed["status"], failed["exit_code"]) == (1, "FAILED", 1)
    assert "limits.quarantine_share" in log
    code, again, _ = submit(failing, two_nodes)
    assert (code, again["attached"], again["status"]) == (1, True, "FAILED")
    absent = tmp_path / "absent.toml"
    absent.write_text(to_toml(cluster_job(job, tmp_path / "nowhere", tmp_path / "out")))
    code, usage, _ = submit(absent, two_nodes)
    assert (code, usage["status"], usage["exit_code"]) == (2, "FAILED", 2)


def test_the_stall_alert_fires_on_what_the_exporter_gives_while_a_run_stalls_and_no_other_does(
    two_nodes: TwoNodes, job: JobFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every encoder waits at the gate for longer than Ray's exporter keeps a gauge; then the run goes on."""
    monkeypatch.setattr(flow, "Encode", GatedEncode)
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for unit in range(UNITS):
        (folder / f"{unit}.jsonl").write_text(json.dumps({"text": prose(6000, unit)}) + "\n")
    stalled: list[dict[str, float]] = []
    moving: list[dict[str, float]] = []

    def scrape() -> dict[str, float]:
        found = re.findall(r"^(ray_palimpsest_\w+\{.*\}) (\S+)$", two_nodes.metrics(), re.M)
        values = {series: float(value) for series, value in found if f'corpus="{out}"' in series or "corpus=" not in series}
        return {series: value for series, value in values.items() if earlier.get(series) != value}

    def batches(values: dict[str, float]) -> float:
        return sum(value for series, value in values.items() if series.startswith("ray_palimpsest_stage_seconds_count"))

    def watch(progress: Progress) -> None:
        if not progress.pages:
            return
        while not gate_of(out).exists():
            stalled.append(scrape())
            if len(stalled) > 9 and batches(stalled[-1]) == batches(stalled[-9]):
                gate_of(out).touch()
            assert len(stalled) < 40, "the run does not stall"
            time.sleep(5)
        moving.append(scrape())

    earlier: dict[str, float] = {}
    config = cluster_job(job, folder, out, f"placement.address={two_nodes.cluster.address}")
    with flow.connected(config.placement):
        earlier = scrape()  # an earlier test's failed run is no alert of this one
        run(config, watch)
    stalled, pending = stalled[-9:], f'ray_palimpsest_units_pending{{.*corpus="{out}"'
    left = {value for values in stalled for series, value in values.items() if re.match(pending, series)}
    assert len(left) == 1 and all(any(re.match(pending, series) for series in values) for values in stalled)
    assert batches(moving[-1]) > batches(stalled[-1])
    check_rules(tmp_path, [*[values for values in stalled for _ in range(5)], *moving], f"{left.pop():.0f}")


def check_rules(folder: Path, scrapes: list[dict[str, float]], units: str) -> None:
    """The alerts on these scrapes, one a minute, on the nightly cluster of a healthy CronJob."""
    names = sorted({series for values in scrapes for series in values})
    inputs = [
        {
            "series": series.replace("{", '{ray_io_cluster="palimpsest-nightly-1-abc", ', 1),
            "values": " ".join(f"{values[series]:.17g}" if series in values else "_" for values in scrapes),
        }
        for series in names
    ]
    nightly = 'cronjob="palimpsest-nightly", namespace="palimpsest"'
    for kind, value in (("created", -3600), ("status_last_successful_time", -3600)):
        inputs.append({"series": f"kube_cronjob_{kind}{{{nightly}}}", "values": f"{value}x{len(scrapes)}"})
    (alerts,) = documents(INFRA / "monitoring" / "alerts.yaml")
    fires = {
        "exp_labels": {"severity": "warning", "ray_io_cluster": "palimpsest-nightly-1-abc"},
        "exp_annotations": {
            "summary": f"palimpsest-nightly-1-abc: {units} units wait and no stage finishes a batch",
            "runbook": "docs/running.md#palimpsestrunstalled",
        },
    }
    checks = [
        {"eval_time": "40m", "alertname": rule["alert"], "exp_alerts": [fires] if rule["alert"] == "PalimpsestRunStalled" else []}
        for group in alerts["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    test = {"interval": "1m", "input_series": inputs, "alert_rule_test": checks}
    (folder / "alerts.yaml").write_text((INFRA / "monitoring" / "alerts.yaml").read_text("utf-8"))
    (folder / "test.yaml").write_text(json.dumps({"rule_files": ["alerts.yaml"], "evaluation_interval": "1m", "tests": [test]}))
    code, printed = output_of([program("promtool", "apt-get install prometheus"), "test", "rules", str(folder / "test.yaml")])
    assert code == 0, printed


def test_a_run_survives_a_killed_worker_and_a_killed_node_and_prometheus_sees_it(
    two_nodes: TwoNodes,
    folder: Path,
    job: JobFactory,
    tmp_path: Path,
    undisturbed: tuple[Any, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The encoders hold most of the pages back until workers and node are dead: else all may be encoded when one is killed."""
    import ray

    monkeypatch.setattr(flow, "Encode", GatedEncode)
    out, killed, prometheus = tmp_path / "out", [], Prometheus()

    def watch(progress: Progress) -> None:
        if killed or not progress.pages:
            prometheus.scrape(two_nodes.metrics())
            return
        end(two_nodes.encoders())
        killed.append("workers")
        wait_until(lambda: prometheus.scrape(two_nodes.metrics()) or prometheus.of("ray_palimpsest_worker_failures_total") > 0)
        assert two_nodes.encoders() and two_nodes.workers(two_nodes.second, ""), "the second node has nothing to do"
        two_nodes.kill_second()
        killed.append("node")
        gate_of(out).touch()

    config = cluster_job(job, folder, out, f"placement.address={two_nodes.cluster.address}")
    with flow.connected(config.placement):
        result = run(config, watch)
        assert killed == ["workers", "node"]
        assert content(out) == undisturbed
        assert result.counts.documents_committed == 3 * UNITS and result.counts.documents_quarantined == UNITS
        assert [finding for finding in fsck(LocalStore(out)) if finding.severity == "error"] == []
        wait_until(lambda: sum(node["Alive"] for node in ray.nodes()) == 1)
        deadline = time.monotonic() + PATIENCE / 3
        while prometheus.missing(result) and time.monotonic() < deadline:
            prometheus.scrape(two_nodes.metrics())
            time.sleep(0.3)
        assert prometheus.missing(result) == []
    stats = json.loads((out / "runs" / result.run_id / "stats.json").read_text())
    assert set(stats["stage_seconds"]) == {"read", "paginate", "render", "encode", "verify", "write"}
    assert {stage: spent for stage, spent in stats["stage_seconds"].items() if not spent["seconds"] * spent["batches"]} == {}


class Prometheus:
    """What was scraped so far: of every series the highest value, summed over processes."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def scrape(self, text: str) -> None:
        now: dict[str, float] = {}
        for name, labels, value in re.findall(r"^(ray_palimpsest_\w+)\{(.*)\} (\S+)$", text, re.M):
            own = sorted(re.findall(r'\b(outcome|tier|status|reason|stage|mode|corpus)="([^"]*)"', labels))
            key = name + "".join(f" {label}={text}" for label, text in own)
            now[key] = now.get(key, 0.0) + float(value)
        self.values |= {key: max(value, self.values.get(key, 0.0)) for key, value in now.items()}

    def of(self, name: str) -> float:
        return sum(value for key, value in self.values.items() if key.partition(" ")[0] == name)

    def missing(self, result: Any) -> list[str]:
        """What should have been seen of a run, and was not; other runs on the cluster may have added to it."""
        wanted = {
            "ray_palimpsest_documents_total outcome=committed": result.counts.documents_committed,
            "ray_palimpsest_documents_total outcome=quarantined": result.counts.documents_quarantined,
            "ray_palimpsest_quarantined_documents_total reason=invalid_json": result.counts.documents_quarantined,
            "ray_palimpsest_text_tokens_total": result.counts.text_tokens,
            "ray_palimpsest_context_tokens_total": result.counts.context_tokens,
            "ray_palimpsest_shard_bytes_total": result.counts.bytes,
            "ray_palimpsest_units_total outcome=committed": UNITS,
            "ray_palimpsest_runs_total outcome=done": 1,
            f"ray_palimpsest_snapshot_number corpus={result.out}": 1,
            f"ray_palimpsest_units_pending corpus={result.out}": 0,
            f"ray_palimpsest_quarantine_share corpus={result.out}": 0.25,
        }
        values = self.values
        missing = [f"{key} = {values.get(key)}, not {value}" for key, value in wanted.items() if values.get(key, -1) < value]
        names = {name.split(" ")[0] for name in values}
        return missing + [
            name
            for name, metric in METRICS.items()
            if name not in ONLY_IN_TROUBLE and not names.issuperset(metric.exported(name))
        ]
