"""Inputs and results of the measurements."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from service.settings import Settings

# Measured values by dotted name (docs/contract.md, "Benchmark").
Figures = dict[str, float]
# Called with the name of the next measurement.
OnStep = Callable[[str], None]
MIN_CALLS = 5


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """What to measure.

    Attributes:
        clips: real mp4 files by name; the first one is sent to the service.
        hd_clip: the clip whose CPU time is measured through the service.
        settings: settings of the measured service; checkpoint and device apply to the model too.
        seconds: approximate time for each figure.
    """

    clips: dict[str, Path]
    hd_clip: Path
    settings: Settings
    seconds: float


def call_s(call: Callable[[], object], *, seconds: float) -> float:
    """Return the median seconds of a call, repeated for about `seconds`."""
    call()
    times_s: list[float] = []
    until_s = time.perf_counter() + seconds
    while len(times_s) < MIN_CALLS or time.perf_counter() < until_s:
        started_s = time.perf_counter()
        call()
        times_s.append(time.perf_counter() - started_s)
    return statistics.median(times_s)


def cpu_s(call: Callable[[], object], *, num_calls: int) -> float:
    """Return the least CPU seconds of a call and its child processes; other work disturbs them less than wall time."""
    best_s = float("inf")
    for _ in range(num_calls):
        before_s = _total_cpu_s()
        call()
        best_s = min(best_s, _total_cpu_s() - before_s)
    return best_s


def _total_cpu_s() -> float:
    """Return the CPU seconds so far of this process and its ended children."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def latency_figures(name: str, latencies_s: list[float], *, elapsed_s: float, unit: str) -> Figures:
    """Return rate, median and 99th percentile under `name`."""
    ranked = sorted(latencies_s)
    return {
        f"{name}.{unit}_per_s": len(ranked) / elapsed_s,
        f"{name}.p50_s": ranked[len(ranked) // 2],
        f"{name}.p99_s": ranked[min(len(ranked) - 1, int(len(ranked) * 0.99))],
    }
