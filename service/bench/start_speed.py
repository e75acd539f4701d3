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
# Seconds after readiness until memory is read: the decoders that are forked ahead are there by then.
_SETTLE_S = 2.0
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
            time.sleep(_SETTLE_S)
            pss_bytes.append(tree_pss_bytes(service.pid))
    return {
        "start.ready_s": statistics.median(ready_s),
        "start.idle_pss_bytes": float(statistics.median(pss_bytes)),
        "start.help_s": help_s,
    }


def _help_s() -> float:
    started_s = time.perf_counter()
    subprocess.run(cli_command("--help"), check=True, stdout=subprocess.DEVNULL, timeout=_HELP_TIMEOUT_S)
    return time.perf_counter() - started_s
