"""Write prometheusrule.yaml, the Prometheus operator's form of alerts.yaml: python infra/monitoring/wrap_rules.py"""

from __future__ import annotations

from pathlib import Path

HEAD = """\
# Made from alerts.yaml by wrap_rules.py; change that file.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: palimpsest
  labels: {app.kubernetes.io/name: palimpsest}
spec:
"""


def wrapped(rules: str) -> str:
    """The manifest for the text of a rule file: its `groups`, indented."""
    body = rules[rules.index("groups:") :]
    return HEAD + "".join(f"  {line}\n" if line else "\n" for line in body.splitlines())


if __name__ == "__main__":
    here = Path(__file__).parent
    (here / "prometheusrule.yaml").write_text(wrapped((here / "alerts.yaml").read_text("utf-8")), "utf-8")
