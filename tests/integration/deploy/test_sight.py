"""A real Prometheus scrapes the service's metrics; every alert and every panel is evaluated on what it stored."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from support.fleets.deploy_files import (
    DEPLOY,
    HOW_TO_GET_PROMETHEUS,
    PROMETHEUS,
    alert_rules,
    dashboard_expressions,
)
from support.servers.ports import free_port
from support.waiting import wait_until

from service.telemetry.metrics import STAGES, Metrics

pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason=HOW_TO_GET_PROMETHEUS)

HANG_S = 120.0
DOWN = "AvesformerTargetDown"


class Process:
    """The metrics of one process of the service, served on a port as /metrics."""

    def __init__(self) -> None:
        self.metrics = Metrics()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:  # noqa: N805
                body, content_type = self.metrics.render()
                handler.send_response(200)
                handler.send_header("Content-Type", content_type)
                handler.end_headers()
                handler.wfile.write(body)

            def log_message(handler, *_: object) -> None:  # noqa: N805
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Its address while it serves."""
        thread = Thread(target=self.server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{self.server.server_port}"
        finally:
            self.server.shutdown()
            self.server.server_close()
            thread.join()


class PrometheusServer:
    """A real Prometheus with the deployed rules."""

    def __init__(self, directory: Path, *, targets: dict[str, str]) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        deployed = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
        deployed["global"] = {"scrape_interval": "200ms", "evaluation_interval": "200ms"}
        deployed["rule_files"] = [str(DEPLOY / "prometheus" / "alerts.yml")]
        for job in deployed["scrape_configs"]:
            # Names resolve in the compose network only; here each job has a fixed address.
            del job["dns_sd_configs"]
            job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
        self._config = directory / "prometheus.yml"
        self._config.write_text(yaml.safe_dump(deployed))
        self._data = directory / "data"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Started and ready."""
        address = self.url.removeprefix("http://")
        command = [str(PROMETHEUS), f"--config.file={self._config}", f"--storage.tsdb.path={self._data}"]
        with subprocess.Popen([*command, f"--web.listen-address={address}", "--log.level=error"]) as process:
            try:
                wait_until(lambda: self._get("/-/ready") is not None)
                yield
            finally:
                process.kill()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The instant vector of an expression; fails where Prometheus refuses it."""
        answer = self._get("/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        assert answer is not None, expression
        found = json.loads(answer)
        assert found["status"] == "success"
        result: list[dict[str, Any]] = found["data"]["result"]
        return result

    def _get(self, path: str) -> bytes | None:
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                body: bytes = answer.read()
                return body
        except urllib.error.HTTPError as error:
            if error.code != 503:  # not ready yet
                raise AssertionError(error.read()) from error
            return None
        except OSError:
            return None


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[tuple[Process, Process, PrometheusServer]]:
    """A front and a worker that count, and a Prometheus that scrapes them."""
    front, worker = Process(), Process()
    with front.serving() as front_address, worker.serving() as worker_address:
        targets = {"avesformer-front": front_address, "avesformer-worker": worker_address}
        prometheus = PrometheusServer(tmp_path, targets=targets)
        with prometheus.running():
            yield front, worker, prometheus


def work(front: Metrics, worker: Metrics, *, is_bad: bool) -> None:
    """What a second of good or bad service counts."""
    for _ in range(20):
        front.requests_total.labels("rest", "ok").inc()
        front.request_duration_seconds.labels("rest").observe(200.0 if is_bad else 0.4)
    for stage in STAGES:
        front.stage_duration_seconds.labels(stage).observe(0.1)
    front.cache_lookups_total.labels("hit").inc()
    front.key_requests_total.labels("alice", "ok").inc()
    front.key_upload_bytes_total.labels("alice").inc(1000)
    front.key_samples_total.labels("alice").inc(10)
    front.worker_up.set(0 if is_bad else 2)
    worker.worker_up.set(1)
    worker.queue_depth.set(9 if is_bad else 0)
    worker.queue_oldest_seconds.set(30 if is_bad else 0)
    front.build_info.labels("0.1.0", "tiny", "sha256:a").set(1)
    for process in (front, worker):
        process.device_info.labels("cpu", "float32", "", "").set(1)
    worker.build_info.labels("0.1.0", "tiny", "sha256:b" if is_bad else "sha256:a").set(1)
    if not is_bad:
        worker.samples_total.inc(64)
        worker.batch_size.observe(32)
        worker.batch_requests.observe(5)
        worker.batch_wait_seconds.observe(0.004)
        return
    for code in ("internal", "deadline_exceeded", "broken"):
        front.requests_total.labels("rest", code).inc(20)
    front.decode_failures_total.labels("broken").inc(60)
    front.shed_total.labels("queue_full").inc(20)
    front.worker_restarts_total.inc()
    worker.redeliveries_total.inc(8)
    worker.dead_letters_total.inc()


def count_over_scrapes(scene: tuple[Process, Process, PrometheusServer], *, is_bad: bool) -> None:
    """Goes on for at least five scrapes of each process, from when every series has been seen once."""
    front, worker, prometheus = scene

    def scrapes() -> float:
        found = prometheus.query("min(count_over_time(avesformer_build_info[10m]))")
        return float(found[0]["value"][1]) if found else 0.0

    work(front.metrics, worker.metrics, is_bad=is_bad)
    wait_until(lambda: scrapes() >= 2)
    before = scrapes()

    def has_counted_enough() -> bool:
        work(front.metrics, worker.metrics, is_bad=is_bad)
        return scrapes() >= before + 5

    wait_until(has_counted_enough)


def test_alerts_are_raised_by_what_was_scraped(scene: tuple[Process, Process, PrometheusServer]) -> None:
    count_over_scrapes(scene, is_bad=True)
    *_, prometheus = scene
    quiet = [rule["alert"] for rule in alert_rules() if rule["alert"] != DOWN and not prometheus.query(rule["expr"])]
    assert not quiet


def test_alerts_stay_quiet_on_good_service(scene: tuple[Process, Process, PrometheusServer]) -> None:
    count_over_scrapes(scene, is_bad=False)
    *_, prometheus = scene
    assert not [rule["alert"] for rule in alert_rules() if prometheus.query(rule["expr"])]


def test_alert_of_a_process_that_is_gone(scene: tuple[Process, Process, PrometheusServer]) -> None:
    _, worker, prometheus = scene
    (rule,) = (rule for rule in alert_rules() if rule["alert"] == DOWN)
    wait_until(lambda: len(prometheus.query("up == 1")) == 2)
    assert not prometheus.query(rule["expr"])
    worker.server.shutdown()
    worker.server.server_close()
    wait_until(lambda: bool(prometheus.query(rule["expr"])))
    (found,) = prometheus.query(rule["expr"])
    assert found["metric"]["job"] == "avesformer-worker"


def test_panels_show_what_was_scraped(scene: tuple[Process, Process, PrometheusServer]) -> None:
    count_over_scrapes(scene, is_bad=False)
    count_over_scrapes(scene, is_bad=True)
    *_, prometheus = scene
    empty = [
        (title, expression)
        for title, expression in dashboard_expressions()
        if not prometheus.query(expression.replace("$__rate_interval", "1m").replace("$instance", ".*"))
    ]
    assert not empty
