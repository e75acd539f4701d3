"""Alert rules and dashboard: promtool's own checks and tests, and agreement with the metrics that the service has."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import pytest
import yaml
from support.fleets.deploy_files import (
    DEPLOY,
    HOW_TO_GET_PROMETHEUS,
    PROMTOOL,
    alert_rules,
    compose,
    dashboard,
    dashboard_expressions,
    metric_names,
)

from service.domain.errors import CODES
from service.telemetry.metrics import PREFIX, Metrics

PROMETHEUS_FILES = DEPLOY / "prometheus"
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason=HOW_TO_GET_PROMETHEUS)


def exposed() -> dict[str, str]:
    """Every series name that the service can expose, with its metric's name."""
    names = {"up": "up"}
    for family in Metrics().registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        names |= {family.name + suffix: family.name for suffix in suffixes}
    return names


def expressions() -> Iterator[tuple[str, str]]:
    """Every PromQL expression that is deployed, with where it stands."""
    yield from ((rule["alert"], rule["expr"]) for rule in alert_rules())
    yield from dashboard_expressions()


@needs_promtool
@pytest.mark.parametrize(
    "command",
    [["check", "config", "prometheus.yml"], ["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]],
)
def test_promtool_agrees(command: list[str]) -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *command], capture_output=True, text=True, check=False, cwd=PROMETHEUS_FILES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout + done.stderr


def test_expressions_use_only_metrics_that_exist() -> None:
    known = exposed()
    for place, expression in expressions():
        names = metric_names(expression)
        assert names, place
        assert names <= known.keys(), f"{place}: {names - known.keys()}"


def test_metric_names_are_found_in_expressions() -> None:
    expression = 'sum by (le, code) (rate(a_bucket{code="b_total"}[5m])) / on (job) c_total > 2 unless up == 0'
    assert metric_names(expression) == {"a_bucket", "c_total", "up"}


def test_dashboard_shows_every_metric() -> None:
    known = exposed()
    shown = {known[name] for _, expression in dashboard_expressions() for name in metric_names(expression)}
    assert shown == set(known.values())


def test_codes_in_expressions_exist() -> None:
    found = {
        code
        for _, expression in expressions()
        for listed in re.findall(r'code=~?"([^"]*)"', expression)
        for code in listed.split("|")
    }
    assert found
    assert found <= CODES.keys() | {"ok"}


def test_every_alert_is_tested_both_ways_and_explained() -> None:
    cases = yaml.safe_load((PROMETHEUS_FILES / "alerts_test.yml").read_text())["tests"]
    readme = (DEPLOY / "README.md").read_text()
    fired = {case["alertname"] for test in cases for case in test["alert_rule_test"] if case["exp_alerts"]}
    quiet = {case["alertname"] for test in cases for case in test["alert_rule_test"] if not case["exp_alerts"]}
    names = {rule["alert"] for rule in alert_rules()}
    assert fired == quiet == names
    for rule in alert_rules():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"].keys() == {"summary", "description"}
        assert f"`{rule['alert']}`" in readme


def test_dashboard_answers_the_four_questions_in_order() -> None:
    rows = [panel["title"] for panel in dashboard()["panels"] if panel["type"] == "row"]
    assert rows == [
        "Is it healthy?",
        "Where does the time go?",
        "What is the device doing?",
        "What was shed, lost or done twice?",
    ]


def test_dashboard_panels_have_unique_ids_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & cells, panel["title"]
        assert all(0 <= x < 24 for x, _ in own), panel["title"]
        cells |= own
        assert panel["type"] in {"row", "alertlist"} or panel["targets"]


def test_dashboard_and_data_source_are_provisioned() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "avesformer.yml").read_text())["providers"]
    used = {panel["datasource"]["uid"] for panel in dashboard()["panels"] if panel["type"] != "row"}
    assert used == {source["uid"]}
    services = compose()["services"]
    (traces,) = yaml.safe_load((provisioning / "datasources" / "jaeger.yml").read_text())["datasources"]
    assert traces["url"] == "http://jaeger:16686"
    assert services["jaeger"]["ports"] == ["${PUBLISH_HOST:-127.0.0.1}:16686:16686"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in services
    mounts = dict(mount.split(":")[:2] for mount in services["grafana"]["volumes"] if isinstance(mount, str))
    assert mounts["./deploy/grafana/dashboards"] == provider["options"]["path"]
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/avesformer.json"


def test_metrics_have_the_prefix() -> None:
    assert all(name == "up" or name.startswith(PREFIX) for name in exposed())
