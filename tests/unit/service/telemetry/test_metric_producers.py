"""Every metric that the service exposes is produced somewhere in the service."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import Counter, Gauge, Histogram

import service
from service.telemetry.metrics import Metrics

ROOT = Path(service.__file__).parent
# Methods of prometheus_client that change a metric.
PRODUCERS = frozenset({"inc", "dec", "observe", "set", "set_function", "set_to_current_time"})


def declared() -> set[str]:
    """Attributes of `Metrics` that are metrics."""
    return {name for name, value in vars(Metrics()).items() if isinstance(value, Counter | Gauge | Histogram)}


def changed_in(source: str) -> Iterator[str]:
    """Yield the attributes that a module changes: `m.NAME.inc()`, `m.NAME.labels(...).inc()`, `x = m.NAME; x.inc()`."""
    tree = ast.parse(source)
    aliases: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            aliases.setdefault(node.targets[0].id, set()).update(attributes_of(node.value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in PRODUCERS:
            metric = without_labels(node.func.value)
            yield from aliases.get(metric.id, ()) if isinstance(metric, ast.Name) else attributes_of(metric)


def attributes_of(expression: ast.expr) -> set[str]:
    """The attribute that an expression is, or those that a conditional chooses from."""
    if isinstance(expression, ast.IfExp):
        return attributes_of(expression.body) | attributes_of(expression.orelse)
    bare = without_labels(expression)
    return {bare.attr} if isinstance(bare, ast.Attribute) else set()


def without_labels(expression: ast.expr) -> ast.expr:
    called = expression.func if isinstance(expression, ast.Call) else None
    return called.value if isinstance(called, ast.Attribute) and called.attr == "labels" else expression


def produced() -> set[str]:
    return {name for path in ROOT.rglob("*.py") for name in changed_in(path.read_text())}


def test_every_metric_has_a_producer() -> None:
    assert declared()
    assert declared() - produced() == set()


def test_reading_or_mentioning_a_metric_is_not_producing_it() -> None:
    source = """
self.metrics.seen_total.inc()
m.by_code.labels('x').observe(1)
gauge = m.one if is_one else m.other
gauge.inc(2)
unused = m.named
print(m.idle, m.labelled.labels('a'))
"""
    assert set(changed_in(source)) == {"seen_total", "by_code", "one", "other"}
