"""What strangers, crowds and time do to the service (`make soak`): R1 to R3, R6, R8, R9, R12, R14 and the keys."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from typing import Any

from load import abuse, growth, long_job, stalled, strangers
from support.proof import Experiment, Found, Run, main
from support.servers.service_process import ServiceProcess


def on_one_service(
    experiment: Callable[[Run, ServiceProcess], Coroutine[Any, Any, Found]],
) -> Callable[[Run], Coroutine[Any, Any, Found]]:
    """Run the experiment on a service of its own."""

    async def run_alone(run: Run) -> Found:
        with ServiceProcess(cache_bytes=0, log_level="error") as running:
            return await experiment(run, running)

    return run_alone


async def bombs(run: Run) -> Found:
    """R3 on the service of R6 and R8. Without device time two clients use a whole core, and any other request shows."""
    with abuse.service() as running, abuse.pinned(running):
        return await strangers.r3(run, running)


EXPERIMENTS = (
    Experiment(
        "R1",
        "no death, no hang, no 5xx; p99 under 1 s; a good clip answered the same afterwards",
        on_one_service(strangers.r1),
    ),
    Experiment("R2", "each bad file gets its code over HTTP and gRPC", on_one_service(strangers.r2)),
    Experiment(
        "R3",
        "bombs answered within 2 s, memory up by at most 200 MiB, neighbours' p99 at most 1.2 times that alone",
        bombs,
    ),
    Experiment("R6", "tenfold load: goodput at least 0.80 of the peak, p99 of refusals at most 0.1 s", abuse.r6),
    Experiment("R8", "beside slow clients of each sort: p50 at most 1.3 times that alone, none refused", abuse.r8),
    Experiment(
        "R8 streams",
        "streams that are not read: each cut as slow_reader, at most 8 MiB held for each; neighbours' p50 at most "
        "1.3 times that alone, none refused",
        stalled.run,
    ),
    Experiment("R9", "second half grows by under 10 MiB per 10 000 requests; a planted leak is found", growth.r9),
    Experiment("R12", "what abandoned requests held is free within 1 s", on_one_service(strangers.r12)),
    Experiment("R14", "the same bytes for the same clip beside any neighbours", on_one_service(strangers.r14)),
    Experiment(
        "job",
        "two hours of video as a job, killed half-way: done, at most a minute computed twice, memory flat",
        long_job.run,
    ),
    Experiment("keys", "no request of the key within its share is refused", abuse.keys),
)

if __name__ == "__main__":
    sys.exit(main(__doc__ or "", "make soak SOAK_ARGS", EXPERIMENTS))
