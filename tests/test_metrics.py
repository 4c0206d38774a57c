"""The table of metrics, what a driver records, and the log; tests/test_cluster.py scrapes them from a running Ray."""

from __future__ import annotations

import json
import re
import time

import pytest

from palimpsest import telemetry
from palimpsest.telemetry import METRICS, Precision, RunMetrics

Recorded = dict[tuple[str, tuple[str, ...]], float]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    monkeypatch.setattr(telemetry, "_sinks", [])
    values: Recorded = {}

    def keep(name: str, metric: telemetry.Metric, value: float, labels: dict[str, str]) -> None:
        key = (name, tuple(labels.values()))
        values[key] = values.get(key, 0.0) + value if metric.kind == telemetry.COUNTER else value

    telemetry.bind(keep)
    return values


def test_names_follow_prometheus_and_say_their_unit() -> None:
    for name, metric in METRICS.items():
        assert re.fullmatch(r"palimpsest_[a-z_]+[a-z]", name) and not name.endswith("_total")  # Ray adds it
        assert metric.help.endswith(".") and (metric.kind == telemetry.HISTOGRAM) == bool(metric.boundaries)
        assert tuple(sorted(metric.boundaries)) == metric.boundaries
        if metric.unit in ("seconds", "bytes"):
            assert name.endswith(metric.unit)
        if metric.unit == "ratio":
            assert name.endswith(("_share", "_precision"))
    assert METRICS["palimpsest_units"].exported("palimpsest_units") == ("ray_palimpsest_units_total",)


def test_what_the_table_does_not_know_is_refused(recorded: Recorded) -> None:
    with pytest.raises(KeyError):
        telemetry.record("palimpsest_nothing", 1)
    with pytest.raises(ValueError, match="labels"):
        telemetry.record("palimpsest_documents", 1, kind="committed")
    telemetry.record("palimpsest_documents", 0, outcome="committed")
    assert recorded == {}


def test_a_run_records_what_it_commits(recorded: Recorded) -> None:
    told = RunMetrics("s3://key:secret@host/corpus?versionId=1", 3)
    corpus = "s3://host/corpus"
    counts = {"documents_in": 10, "documents_committed": 7, "documents_quarantined": 2, "duplicates": 1}
    counts |= {"text_tokens": 900, "context_tokens": 73, "tokens_as_text": 0, "bytes": 5000}
    with told.run():
        told.committed(counts, {"invalid_json": 2}, {("tiny", "verified"): 6, ("text", "text"): 1}, Precision(5.4, 6), 800)
        told.committed({**counts, "documents_quarantined": 0}, {}, {("tiny", "verified"): 4}, Precision(), 800)
        told.unread()
        told.published(7, 1_700_000_000.0, findings=True)
    assert recorded[("palimpsest_documents", ("committed",))] == 14
    assert recorded[("palimpsest_quarantined_documents", ("invalid_json",))] == 2
    assert recorded[("palimpsest_pages", ("tiny", "verified"))] == 10
    assert recorded[("palimpsest_text_tokens", ())] == 1800 and recorded[("palimpsest_source_bytes", ())] == 1600
    assert recorded[("palimpsest_units", ("committed",))] == 2 and recorded[("palimpsest_units", ("unread",))] == 1
    assert recorded[("palimpsest_units_pending", (corpus,))] == 0
    assert recorded[("palimpsest_quarantine_share", (corpus,))] == pytest.approx(0.1)
    assert recorded[("palimpsest_mean_precision", (corpus,))] == pytest.approx(0.9)
    assert recorded[("palimpsest_snapshot_number", (corpus,))] == 7
    assert recorded[("palimpsest_runs", ("findings",))] == 1
    with pytest.raises(RuntimeError), RunMetrics("out", 0).run():
        raise RuntimeError
    assert recorded[("palimpsest_runs", ("failed",))] == 1


def test_gauges_are_set_again_as_long_as_the_run_lasts(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's exporter forgets a gauge about 30 s after it was set: without this the alert on a stalled run cannot fire."""
    monkeypatch.setattr(telemetry, "GAUGE_SECONDS", 0.01)
    run = RunMetrics("corpus", 3)
    pending = ("palimpsest_units_pending", ("corpus",))
    with run.run():
        for _ in range(2):
            recorded.clear()
            deadline = time.monotonic() + 30
            while pending not in recorded and time.monotonic() < deadline:
                time.sleep(0.01)
            assert recorded[pending] == 3
    recorded.clear()
    time.sleep(0.1)
    assert recorded == {}


def test_events_are_lines_for_people_or_json_and_hold_no_secret(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "_context", {})
    monkeypatch.delenv(telemetry.VARIABLE, raising=False)
    telemetry.set_context(run_id="r1")
    telemetry.log_event("worker_lost", stage="encode", unit_id=None, aws_secret_key="hush")
    telemetry.log_event("unit_committed", routine=True, unit_id="u1")
    said = capsys.readouterr()
    assert re.fullmatch(r"\d\d:\d\d:\d\d worker_lost run_id=r1 stage=encode\n", said.err) and said.out == ""
    monkeypatch.setenv(telemetry.VARIABLE, telemetry.JSON)
    telemetry.log_event("unit_committed", routine=True, unit_id="u1", pages=3)
    event = json.loads(capsys.readouterr().err)
    assert (event["event"], event["run_id"], event["unit_id"], event["pages"]) == ("unit_committed", "r1", "u1", 3)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", event["time"])
