"""What is lost when processes die, wedge or lose each other (`make chaos`): R4, R5, R7, R10, R11, R13, R15 to R17.

A fleet of two fronts, two workers and both Redis roles runs with the shipped settings; workers run the fake predictor,
so that it is the queue that is tried. R5, R7, R13 and a part of R16 and R17 are about one service.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from load import deaths
from support.fleets import chaos_scenarios as scenarios
from support.fleets.chaos_fleet import ChaosFleet, chaos_fleet
from support.proof import Experiment, Found, Run, main, suite

Scenario = Callable[[ChaosFleet, Run], Coroutine[Any, Any, scenarios.Finding]]


class SharedFleet:
    """The fleet of all experiments that need one; started by the first."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._fleet: ChaosFleet | None = None

    def on(self, scenario: Scenario) -> Callable[[Run], Coroutine[Any, Any, Found]]:
        """Run the scenario on the fleet."""

        async def run_it(run: Run) -> Found:
            fleet = await asyncio.to_thread(self._start)
            result = await scenario(fleet, run)
            return Found(result.figures, result.faults)

        return run_it

    def close(self) -> None:
        """End all processes."""
        self._stack.close()

    def _start(self) -> ChaosFleet:
        if self._fleet is None:
            folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="avesformer-chaos-"))
            self._fleet = self._stack.enter_context(chaos_fleet(Path(folder)))
        return self._fleet


async def faulty_links(run: Run) -> Found:
    """Delays, narrow links, resets and stalls on each link."""
    return await suite("tests/integration/workers/test_faulty_links.py")


def experiments(shared: SharedFleet) -> tuple[Experiment, ...]:
    """All experiments, in the order in which they run."""
    on = shared.on
    return (
        Experiment(
            "R4",
            "workers killed: nothing lost or wrong, recovered within the worker's start and 5 s",
            on(lambda fleet, run: scenarios.kill_workers(fleet, kills=run.num_worker_kills, on_step=lambda: None)),
        ),
        Experiment(
            "R4 front",
            "a front killed: the other one ends its jobs rightly",
            on(lambda fleet, _: scenarios.kill_front(fleet)),
        ),
        Experiment("R5", "decoders killed: 200 or `decoder_gone`; nothing left over", deaths.r5),
        Experiment("R7", "SIGTERM: no accepted request lost over HTTP or gRPC; exit within the drain", deaths.r7),
        Experiment(
            "R10",
            "Redis of jobs killed: no accepted job lost, `backend_down` meanwhile, resumed within 5 s",
            on(lambda fleet, _: scenarios.kill_redis(fleet, fleet.jobs, "redis (jobs, append-only) kill -9")),
        ),
        Experiment(
            "R10 data",
            "Redis of chunks killed: the same",
            on(lambda fleet, _: scenarios.kill_redis(fleet, fleet.data, "redis (data) kill -9")),
        ),
        Experiment("R11", "no wrong answer, nobody held past the deadline, whatever a link does", faulty_links),
        Experiment("R13", "full disks, no descriptors, device out of memory: 507 or 503, then recovered", deaths.r13),
        Experiment(
            "R15",
            "a clip that ends its worker each time is `poison_clip`; neighbours are answered",
            on(lambda fleet, _: scenarios.poison(fleet)),
        ),
        Experiment(
            "R16",
            "a stopped worker is noticed within 10 s, its chunks run elsewhere, late replies do not count",
            on(lambda fleet, _: scenarios.stop_worker(fleet)),
        ),
        Experiment(
            "R16 children",
            "a stopped zygote is replaced within 10 s, a stopped decoder ends with a documented code",
            deaths.r16_children,
        ),
        Experiment("R17", "a wall clock that jumps by an hour fails no request and no job", deaths.r17),
        Experiment(
            "R17 storm",
            "all workers killed at once, again and again: nothing wrong, answered within 5 s of their return",
            on(lambda fleet, _: scenarios.storm(fleet)),
        ),
        Experiment("left", "nothing is left in Redis afterwards", on(lambda fleet, _: scenarios.leftovers(fleet))),
    )


if __name__ == "__main__":
    fleet_of_all = SharedFleet()
    try:
        status = main(__doc__ or "", "make chaos CHAOS_ARGS", experiments(fleet_of_all))
    finally:
        fleet_of_all.close()
    sys.exit(status)
