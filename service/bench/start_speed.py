"""Measure how soon the service and the command line start, and the memory of an idle service."""

from __future__ import annotations

import statistics
import subprocess
import time

from service.bench.figures import BenchPlan, Figures, OnStep
from service.bench.process_usage import tree_pss_bytes
from service.bench.processes import cli_command, running_service

_STARTS = 3
_HELPS = 7
# Memory is at rest when two readings so many seconds apart are alike to this share: before that, decoders are forked
# ahead, and larger batch shapes are warmed up. It is read as it is after the last of so many readings.
_SETTLE_S, _SETTLE_SHARE, _SETTLE_READINGS = 2.0, 0.01, 30
_HELP_TIMEOUT_S = 60.0


def measure_start(plan: BenchPlan, on_step: OnStep) -> Figures:
    """Medians of `start.ready_s` (process start to readiness), `start.idle_pss_bytes` and `start.help_s`."""
    on_step("start of the command line")
    help_s = statistics.median(_help_s() for _ in range(_HELPS))
    ready_s: list[float] = []
    pss_bytes: list[int] = []
    for number in range(_STARTS):
        on_step(f"start of the service, {number + 1} of {_STARTS}")
        started_s = time.perf_counter()
        with running_service(plan.settings) as service:
            ready_s.append(time.perf_counter() - started_s)
            pss_bytes.append(_pss_at_rest_bytes(service.pid))
    return {
        "start.ready_s": statistics.median(ready_s),
        "start.idle_pss_bytes": float(statistics.median(pss_bytes)),
        "start.help_s": help_s,
    }


def _pss_at_rest_bytes(pid: int) -> int:
    before = 0
    for _ in range(_SETTLE_READINGS):
        time.sleep(_SETTLE_S)
        now = tree_pss_bytes(pid)
        if abs(now - before) <= _SETTLE_SHARE * now:
            return now
        before = now
    return before


def _help_s() -> float:
    started_s = time.perf_counter()
    subprocess.run(cli_command("--help"), check=True, stdout=subprocess.DEVNULL, timeout=_HELP_TIMEOUT_S)
    return time.perf_counter() - started_s
