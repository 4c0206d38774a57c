"""Alerts, scraping and the dashboard: valid for Prometheus and Grafana, tested on series, and only about metrics that exist."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palimpsest.telemetry import METRICS
from tests.infra_validators import INFRA, ROOT, documents, edited, output_of, program, schema_errors

MONITORING = INFRA / "monitoring"
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text("utf-8"))
EXPORTED = {exported: metric for name, metric in METRICS.items() for exported in metric.exported(name)}
OF_PROMETHEUS = {"ray_io_cluster", "le", "namespace", "job_name", "cronjob"}  # set by scraping, histograms, kube-state-metrics


def promtool(*arguments: str | Path) -> tuple[int, str]:
    return output_of([program("promtool", "apt-get install prometheus"), *map(str, arguments)])


def rules() -> list[dict[str, Any]]:
    (file,) = documents(MONITORING / "alerts.yaml")
    return [rule for group in file["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """Every PromQL expression of alerts and dashboard, and whose it is; Grafana's variables filled in."""
    yield from ((rule.get("alert") or rule["record"], rule["expr"]) for rule in rules())
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m").replace("$cluster", ".*")


def expression_errors(expression: str) -> list[str]:
    """Metrics that the pipeline does not export, and labels that its metrics do not have."""
    records = {rule["record"] for rule in rules() if "record" in rule}
    errors, labels = [], set(OF_PROMETHEUS)
    for name in re.findall(r"\b(?:ray|palimpsest)[\w:]*(?=[{\s)\[,]|$)", re.sub(r'"[^"]*"', '""', expression)):
        if name in EXPORTED:
            labels |= set(EXPORTED[name].labels)
        elif name in records:
            labels |= {"corpus", "stage"}
        elif name not in OF_PROMETHEUS:
            errors.append(f"{name} is not a metric of pipeline/palimpsest/telemetry.py")
    used = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression)
    for listed in re.findall(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)", expression):
        used += [label.strip() for label in listed.split(",") if label.strip()]
    return errors + [f"no metric here has the label {label!r}" for label in set(used) - labels]


def test_prometheus_accepts_the_alerts(tmp_path: Path) -> None:
    code, printed = promtool("check", "rules", "--lint-fatal", MONITORING / "alerts.yaml")
    assert code == 0, printed
    assert promtool("check", "rules", edited(MONITORING / "alerts.yaml", tmp_path, "unless ray_", "unles ray_"))[0] != 0
    assert promtool("check", "rules", edited(MONITORING / "alerts.yaml", tmp_path, "keep_firing_for", "keep_firing"))[0] != 0


def test_prometheus_accepts_the_scrape_configuration(tmp_path: Path) -> None:
    (tmp_path / "alerts.yaml").write_text((MONITORING / "alerts.yaml").read_text("utf-8"))
    for old, new, accepted in (("scrape_configs:", "scrape_configs:", True), ("file_sd_configs", "file_sds", False)):
        code, printed = promtool("check", "config", edited(MONITORING / "scrape-config.yaml", tmp_path, old, new))
        assert (code == 0) == accepted, printed


def test_every_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    code, printed = promtool("test", "rules", MONITORING / "alerts_test.yaml")
    assert code == 0, printed
    # the same series with one threshold moved: the tests have to notice
    tests = edited(MONITORING / "alerts_test.yaml", tmp_path, "rule_files:", "rule_files:").read_text("utf-8")
    some = [part for part in re.split(r"\n(?=  - name: )", tests) if "a CronJob that never" in part or "rule_files" in part]
    (tmp_path / "alerts_test.yaml").write_text("\n".join(some))
    edited(MONITORING / "alerts.yaml", tmp_path, "or kube_cronjob_created{", "or kube_cronjob_made{")
    assert promtool("test", "rules", tmp_path / "alerts_test.yaml")[0] != 0


def test_every_alert_is_tested_on_series_and_has_a_runbook() -> None:
    (tests,) = documents(MONITORING / "alerts_test.yaml")
    fired = {check["alertname"] for test in tests["tests"] for check in test["alert_rule_test"] if check["exp_alerts"]}
    quiet = {check["alertname"] for test in tests["tests"] for check in test["alert_rule_test"] if not check["exp_alerts"]}
    alerts = {rule["alert"]: rule for rule in rules() if "alert" in rule}
    assert fired == alerts.keys()
    assert alerts.keys() - quiet <= {"PalimpsestBelowTarget"}  # quiet in the same test: its other cluster has too few pages
    headings = re.findall(r"^#+ (\w+)$", (ROOT / "docs" / "running.md").read_text("utf-8"), re.M)
    for name, alert in alerts.items():
        assert alert["labels"]["severity"] in ("warning", "critical"), name
        assert alert["annotations"]["runbook"] == f"docs/running.md#{name.lower()}" and name in headings, name


def test_the_operators_copy_is_made_from_the_alerts() -> None:
    spec = importlib.util.spec_from_file_location("wrap_rules", MONITORING / "wrap_rules.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.wrapped((MONITORING / "alerts.yaml").read_text("utf-8"))
    assert made == (MONITORING / "prometheusrule.yaml").read_text("utf-8"), "run python infra/monitoring/wrap_rules.py"
    (manifest,), (plain,) = documents(MONITORING / "prometheusrule.yaml"), documents(MONITORING / "alerts.yaml")
    assert manifest["spec"] == plain


def test_only_metrics_and_labels_that_the_pipeline_has() -> None:
    for owner, expression in expressions():
        assert expression_errors(expression) == [], owner
    shown = " ".join(expression for _, expression in expressions())
    unused = {name for name, metric in METRICS.items() if not any(exported in shown for exported in metric.exported(name))}
    assert unused == set(), "measured, and nobody looks at it"


@pytest.mark.parametrize(
    "expression",
    [
        "sum(ray_palimpsest_pages)",
        "rate(ray_palimpsest_unit_total[5m])",
        "palimpsest:worker_failures:1d > 0",
        "sum by (mode) (ray_palimpsest_pages_total)",
        'ray_palimpsest_units_total{state="unread"}',
    ],
)
def test_the_checker_sees_what_does_not_exist(expression: str) -> None:
    assert expression_errors(expression)


def test_grafana_accepts_the_dashboard(tmp_path: Path) -> None:
    assert schema_errors(DASHBOARD, "grafana-dashboard") == []
    for old, new in (
        ('"schemaVersion": 39', '"schemaVersion": "new"'),
        ('"type": "timeseries"', '"type": "graph"'),
        ('"y": 0', '"y": -1'),
    ):
        broken = json.loads(edited(MONITORING / "dashboard.json", tmp_path, old, new).read_text("utf-8"))
        assert schema_errors(broken, "grafana-dashboard"), new


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_prometheus_parses_every_panel(tmp_path: Path) -> None:
    checked = [{"record": f"panel:{number}", "expr": expression} for number, (_, expression) in enumerate(expressions())]
    file = tmp_path / "panels.yaml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": checked}]}))
    code, printed = promtool("check", "rules", file)
    assert code == 0, printed
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": [{"record": "broken", "expr": "sum(rate(x[5m])"}]}]}))
    assert promtool("check", "rules", file)[0] != 0
