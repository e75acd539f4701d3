"""What a measurement gives and is given."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from service.settings import Settings

# Measured values by dotted name (docs/contract.md, "Benchmark").
Figures = dict[str, float]
# Is told what is measured next.
OnStep = Callable[[str], None]
MIN_CALLS = 5


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """What to measure on.

    Attributes:
        clips: real mp4 files by name.
        settings: of the service that is measured; checkpoint and device hold for the model too.
        seconds: spent on each figure, about.
    """

    clips: dict[str, Path]
    settings: Settings
    seconds: float


def call_s(call: Callable[[], object], *, seconds: float) -> float:
    """Median seconds of a call, repeated for about `seconds`."""
    call()
    times_s: list[float] = []
    until_s = time.perf_counter() + seconds
    while len(times_s) < MIN_CALLS or time.perf_counter() < until_s:
        started_s = time.perf_counter()
        call()
        times_s.append(time.perf_counter() - started_s)
    return statistics.median(times_s)


def cpu_s(call: Callable[[], object], *, num_calls: int) -> float:
    """Least CPU seconds of a call and the processes it waits for; other work disturbs them less than wall time."""
    best_s = float("inf")
    for _ in range(num_calls):
        before_s = sum(os.times()[:4])
        call()
        best_s = min(best_s, sum(os.times()[:4]) - before_s)
    return best_s


def latency_figures(name: str, latencies_s: list[float], *, elapsed_s: float, unit: str) -> Figures:
    """Rate, median and 99th percentile under `name`."""
    ranked = sorted(latencies_s)
    return {
        f"{name}.{unit}_per_s": len(ranked) / elapsed_s,
        f"{name}.p50_s": ranked[len(ranked) // 2],
        f"{name}.p99_s": ranked[min(len(ranked) - 1, int(len(ranked) * 0.99))],
    }
