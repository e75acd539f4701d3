"""Does anything get lost when processes die? (`make chaos`)

Two fronts, two workers and both Redis roles run as real processes with the shipped settings; workers run the fake
predictor, so that it is the queue that is tried. Under load, workers, a front and each Redis are killed as the kernel
would, a worker is stopped and let go on, and a clip is sent that ends its worker each time. One line per scenario;
exit code 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from support.chaos_fleet import ChaosFleet, chaos_fleet
from support.chaos_scenarios import (
    Finding,
    kill_front,
    kill_redis,
    kill_workers,
    leftovers,
    poison,
    stop_worker,
)

Scenario = Callable[[], Coroutine[Any, Any, Finding]]


def scenarios(fleet: ChaosFleet, *, kills: int, on_step: Callable[[], None]) -> dict[str, Scenario]:
    """By name, in their order."""
    return {
        "worker": lambda: kill_workers(fleet, kills=kills, on_step=on_step),
        "front": lambda: kill_front(fleet),
        "redis": lambda: kill_redis(fleet, fleet.jobs, "redis (jobs, append-only) kill -9"),
        "data": lambda: kill_redis(fleet, fleet.data, "redis (data) kill -9"),
        "stop": lambda: stop_worker(fleet),
        "poison": lambda: poison(fleet),
        "afterwards": lambda: leftovers(fleet),
    }


def run(*, kills: int, only: list[str]) -> list[Finding]:
    """Start the fleet, run the scenarios, tell each as it ends."""
    findings: list[Finding] = []
    console = Console(stderr=True)
    with (
        Progress(console=console, disable=not console.is_terminal) as bar,
        tempfile.TemporaryDirectory(prefix="avesformer-chaos-") as folder,
        chaos_fleet(Path(folder)) as fleet,
    ):
        task = bar.add_task("chaos", total=kills + 7)
        chosen = scenarios(fleet, kills=kills, on_step=lambda: bar.advance(task))
        for name, scenario in chosen.items():
            if only and name not in only:
                continue
            found = asyncio.run(scenario())
            findings.append(found)
            bar.advance(task)
            told = "MISSED: " + "; ".join(found.faults) if found.faults else "ok"
            print(f"{found.name}: {told}; {json.dumps(found.figures)}", flush=True)  # noqa: T201  # its output
    return findings


def main() -> int:
    """Parse the command line, run, write the figures; exit code 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="of workers")
    parser.add_argument("--only", action="append", default=[], help="worker, front, redis, data, stop, poison")
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    since_s = time.monotonic()
    findings = run(kills=given.kills, only=given.only)
    if given.json:
        figures: dict[str, Any] = {found.name: {**found.figures, "faults": found.faults} for found in findings}
        figures["seconds"] = round(time.monotonic() - since_s, 1)
        given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return int(any(found.faults for found in findings))


if __name__ == "__main__":
    sys.exit(main())
