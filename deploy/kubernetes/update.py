"""Writes what depends on other files into the Kubernetes components.

    python deploy/kubernetes/update.py model/weights/lite.safetensors

The autoscaler watches streams whose names hold the checkpoint's hash, and the operator's PrometheusRule holds the rules
of deploy/prometheus/alerts.yml. Standard library only.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

DEPLOY = Path(__file__).resolve().parents[1]
SCALED_OBJECT = DEPLOY / "kubernetes" / "components" / "keda" / "scaled-object.yaml"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
RULE = DEPLOY / "kubernetes" / "components" / "monitoring" / "prometheus-rule.yaml"
RULE_HEAD = """\
# Made of deploy/prometheus/alerts.yml by deploy/kubernetes/update.py; do not edit.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: avesformer
spec:
"""


def stream_digest(checkpoint: Path) -> str:
    """The part of the checkpoint's SHA-256 that stream names hold (service/redis/link.py)."""
    return hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:32]


def scaled_object(text: str, *, digest: str) -> str:
    """The ScaledObject's text with every stream name's hash replaced."""
    return re.sub(r"\{[0-9a-f]{32}\}", f"{{{digest}}}", text)


def prometheus_rule(alerts: str) -> str:
    """The PrometheusRule that holds the alert rules, comments of the file's head left out."""
    body = alerts[alerts.index("groups:") :]
    return RULE_HEAD + "".join(f"  {line}" if line.strip() else line for line in body.splitlines(keepends=True))


def main(arguments: list[str]) -> int:
    """Rewrites both files; without a checkpoint the streams stay as they are."""
    if len(arguments) > 1:
        sys.stderr.write("usage: update.py [CHECKPOINT]\n")
        return 2
    for argument in arguments:
        SCALED_OBJECT.write_text(scaled_object(SCALED_OBJECT.read_text(), digest=stream_digest(Path(argument))))
    RULE.write_text(prometheus_rule(ALERTS.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
