"""Logs and metrics of a job.

Logs go to stderr: one line per event for people, or one JSON object per line (`--log-json`, or PALIMPSEST_LOG=json). Events carry
names and numbers, never document text or credentials: fields whose names look like secrets are dropped. Workers inherit the
format through the environment; their lines appear in Ray's worker logs and in the job's log.

Metrics are declared once: name, kind, unit, labels. Ray exports them to Prometheus. NAME appears there as `ray_NAME`, a counter
as `ray_NAME_total`, a histogram as `ray_NAME_bucket`, `_sum` and `_count`. Ray adds its own labels (NodeAddress, WorkerId,
SessionName, Component, Version). This module does not import Ray: the Ray executor binds a sink, and without one every recorded
value is ignored.

The driver counts when a unit is committed, so repeated work is not counted twice. Only `worker_failures`, `page_precision` and
`stage_seconds` come from the workers and include repeated work. Ray's histograms keep buckets only: their `_sum` is computed from
bucket centres. Exact seconds by stage are in the run's stats.json.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

VARIABLE, JSON = "PALIMPSEST_LOG", "json"
_SECRET = ("secret", "password", "token_auth", "credential", "access_key", "authorization")
_context: dict[str, Any] = {}


def use_json() -> None:
    """Write JSON lines from now on, in this process and in those that it starts."""
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


_verbosity = 0


def set_verbosity(verbosity: int) -> None:
    """Set which events appear on stderr: none below 0, routine ones too above 0. JSON logs have all events."""
    global _verbosity
    _verbosity = verbosity


def log_event(event: str, *, routine: bool = False, **fields: Any) -> None:
    """Write one event. Fields of the value None are left out.

    Args:
        routine: of little interest to a reader; written only as JSON, or with `set_verbosity(1)`.
    """
    if not as_json() and (_verbosity < 0 or routine and _verbosity < 1):
        return
    now = time.time()
    shown = {**_context, **{name: value for name, value in fields.items() if value is not None}}
    shown = {name: value for name, value in shown.items() if not any(part in name.lower() for part in _SECRET)}
    if as_json():
        moment = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": moment, "event": event, "pid": os.getpid(), **shown}, ensure_ascii=False, default=str)
    else:
        details = " ".join(f"{name}={value}" for name, value in shown.items())
        line = f"{datetime.fromtimestamp(now):%H:%M:%S} {event}{' ' if details else ''}{details}"
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


GAUGE_SECONDS = 10.0  # between two settings of a gauge; Ray's exporter forgets one after about 30 s

COUNTER, HISTOGRAM, GAUGE = "counter", "histogram", "gauge"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """The declaration of a metric.

    Attributes:
        unit: base unit: documents, pages, tokens, bytes, seconds, ratio (0 to 1) or none.
        labels: every one is given with every value.
        boundaries: upper ends of a histogram's buckets.
    """

    kind: str
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()

    def exported(self, name: str) -> tuple[str, ...]:
        """The names under which Prometheus sees it."""
        if self.kind == HISTOGRAM:
            return tuple(f"ray_{name}_{part}" for part in ("bucket", "sum", "count"))
        return (f"ray_{name}_total" if self.kind == COUNTER else f"ray_{name}",)


_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_PRECISION = (0.1, 0.25, 0.5, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 1.0)

METRICS: Mapping[str, Metric] = {
    "palimpsest_documents": Metric(
        kind=COUNTER, unit="documents", labels=("outcome",), help="Documents by outcome: committed, quarantined, duplicate."
    ),
    "palimpsest_quarantined_documents": Metric(
        kind=COUNTER, unit="documents", labels=("reason",), help="Quarantined documents by reason."
    ),
    "palimpsest_pages": Metric(
        kind=COUNTER,
        unit="pages",
        labels=("tier", "status"),
        help="Committed pages by tier (a mode, or text) and status: verified, below_target, unfinished, unverified, text.",
    ),
    "palimpsest_text_tokens": Metric(kind=COUNTER, unit="tokens", help="Text tokens of committed pages."),
    "palimpsest_context_tokens": Metric(
        kind=COUNTER,
        unit="tokens",
        help="Context tokens of committed pages, newline and separator rows included; a page kept as text costs its text tokens.",
    ),
    "palimpsest_tokens_as_text": Metric(
        kind=COUNTER, unit="tokens", help="Tokens of committed pages that are kept as text; text and context tokens include them."
    ),
    "palimpsest_source_bytes": Metric(kind=COUNTER, unit="bytes", help="Stored bytes of the sources of committed units."),
    "palimpsest_shard_bytes": Metric(kind=COUNTER, unit="bytes", help="Bytes of committed shards."),
    "palimpsest_units": Metric(
        kind=COUNTER,
        unit="units",
        labels=("outcome",),
        help="Units by outcome: committed, unread (its source failed; the next run tries again), redone (after a worker died).",
    ),
    "palimpsest_runs": Metric(kind=COUNTER, unit="runs", labels=("outcome",), help="Runs by outcome: done, findings, failed."),
    "palimpsest_worker_failures": Metric(
        kind=COUNTER,
        unit="failures",
        labels=("stage",),
        help="Workers that died, reported by their replacements: read (the task of read, paginate and render), "
        "encode, verify; flow if Ray gave up and the units were processed again.",
    ),
    "palimpsest_batches_halved": Metric(
        kind=COUNTER,
        unit="batches",
        labels=("stage",),
        help="Batches of a model that ran out of the device's memory and were repeated in halves, by stage: encode, verify.",
    ),
    "palimpsest_page_precision": Metric(
        kind=HISTOGRAM, unit="ratio", labels=("mode",), boundaries=_PRECISION, help="Precision of decoded pages, by mode."
    ),
    "palimpsest_stage_seconds": Metric(
        kind=HISTOGRAM,
        unit="seconds",
        labels=("stage",),
        boundaries=_SECONDS,
        help="Wall time of one batch in a stage: read, paginate, render, encode, verify, write.",
    ),
    "palimpsest_snapshot_number": Metric(
        kind=GAUGE, unit="none", labels=("corpus",), help="Number of the corpus's newest snapshot, when the run ended."
    ),
    "palimpsest_snapshot_timestamp_seconds": Metric(
        kind=GAUGE, unit="seconds", labels=("corpus",), help="Unix time at which a run last found or made this snapshot current."
    ),
    "palimpsest_quarantine_share": Metric(
        kind=GAUGE, unit="ratio", labels=("corpus",), help="Quarantined documents over documents read, in this run so far."
    ),
    "palimpsest_mean_precision": Metric(
        kind=GAUGE, unit="ratio", labels=("corpus",), help="Mean precision of the decoded pages that this run committed so far."
    ),
    "palimpsest_units_pending": Metric(
        kind=GAUGE, unit="units", labels=("corpus",), help="Planned units of this run that are not committed yet."
    ),
    "palimpsest_device_busy_share": Metric(
        kind=GAUGE,
        unit="ratio",
        labels=("stage",),
        help="Share of the time since its last batch began that a model actor (encode or verify) spent in batches, per worker.",
    ),
}

Sink = Callable[[str, Metric, float, dict[str, str]], None]
_sinks: list[Sink] = []


def bind(sink: Sink) -> None:
    """Send every value that this process records to `sink`, and to no other that was bound before."""
    _sinks[:] = [sink]


def record(name: str, value: float, **labels: str) -> None:
    """Record a value: added to a counter (zero is nothing), observed by a histogram, set on a gauge.

    Raises:
        KeyError: for an unknown metric.
        ValueError: for labels other than the metric's.
    """
    metric = METRICS[name]
    if set(labels) != set(metric.labels):
        raise ValueError(f"metric {name}: labels {sorted(labels)}, but it has {sorted(metric.labels)}")
    if metric.kind == COUNTER and value <= 0:
        return
    for sink in _sinks:
        sink(name, metric, value, labels)


@dataclass
class Precision:
    """Sum and number of precisions, for a mean."""

    total: float = 0.0
    pages: int = 0

    @property
    def mean(self) -> float | None:
        return self.total / self.pages if self.pages else None


class RunMetrics:
    """The metrics that a run's driver records as units are committed. `corpus` is its output, without credentials."""

    def __init__(self, corpus: str, units: int) -> None:
        self.corpus, self.pending = _without_credentials(corpus), units
        self.documents = self.quarantined = 0
        self.outcome = "failed"
        self.precision = Precision()
        self._gauges: dict[str, float] = {}
        self._set("palimpsest_units_pending", units)

    def committed(
        self,
        counts: Mapping[str, int],
        reasons: Mapping[str, int],
        pages: Mapping[tuple[str, str], int],
        precision: Precision,
        source_bytes: int,
    ) -> None:
        """A unit was committed.

        Args:
            counts: of its commit record.
            reasons: quarantined documents by reason.
            pages: by tier and status.
            precision: of its decoded pages.
        """
        outcomes = {"committed": "documents_committed", "quarantined": "documents_quarantined", "duplicate": "duplicates"}
        for outcome, name in outcomes.items():
            record("palimpsest_documents", counts[name], outcome=outcome)
        for reason, number in reasons.items():
            record("palimpsest_quarantined_documents", number, reason=reason)
        for (tier, status), number in pages.items():
            record("palimpsest_pages", number, tier=tier, status=status)
        record("palimpsest_text_tokens", counts["text_tokens"])
        record("palimpsest_context_tokens", counts["context_tokens"])
        record("palimpsest_tokens_as_text", counts["tokens_as_text"])
        record("palimpsest_shard_bytes", counts["bytes"])
        record("palimpsest_source_bytes", source_bytes)
        self.documents += counts["documents_in"]
        self.quarantined += counts["documents_quarantined"]
        self._set("palimpsest_quarantine_share", self.quarantined / max(1, self.documents))
        self.precision.total += precision.total
        self.precision.pages += precision.pages
        if self.precision.mean is not None:
            self._set("palimpsest_mean_precision", self.precision.mean)
        self._done("committed")

    def unread(self) -> None:
        """A unit's source failed; the next run tries it again."""
        self._done("unread")

    def published(self, snapshot: int, now: float, *, findings: bool) -> None:
        """The run published `snapshot`, or found it current, at the Unix time `now` in seconds."""
        self.outcome = "findings" if findings else "done"
        self._set("palimpsest_snapshot_number", snapshot)
        self._set("palimpsest_snapshot_timestamp_seconds", now)

    @contextmanager
    def run(self) -> Iterator[None]:
        """Keep the gauges alive in the block (an exporter forgets what is not set again), and count the run by its outcome."""
        ended = threading.Event()
        keeper = threading.Thread(target=self._keep, args=(ended,), daemon=True)
        keeper.start()
        try:
            yield
        finally:
            ended.set()
            keeper.join()
            record("palimpsest_runs", 1, outcome=self.outcome)

    def _keep(self, ended: threading.Event) -> None:
        while not ended.wait(GAUGE_SECONDS):
            for name, value in dict(self._gauges).items():
                record(name, value, corpus=self.corpus)

    def _set(self, name: str, value: float) -> None:
        self._gauges[name] = value
        record(name, value, corpus=self.corpus)

    def _done(self, outcome: str) -> None:
        self.pending -= 1
        record("palimpsest_units", 1, outcome=outcome)
        self._set("palimpsest_units_pending", self.pending)


def _without_credentials(uri: str) -> str:
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path.partition('?')[0]}"
