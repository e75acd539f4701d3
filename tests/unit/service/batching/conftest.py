"""A micro-batcher for tests, ended with its requests."""

from __future__ import annotations

import asyncio

import pytest
from support.components.batcher_bench import LONG_S, Bench, HandDevice, encode
from support.components.chunks import FakeClock

from service.batching.micro_batcher import MicroBatcher
from service.batching.plan import BatchPlan
from service.batching.policy import BatchPolicy
from service.telemetry.metrics import Metrics


@pytest.fixture(name="make_bench")
async def _make_bench():
    benches: list[Bench] = []

    def make(
        *,
        max_batch: int = 8,
        window_s: float = LONG_S,
        is_open: bool = False,
        encode=encode,
        plan: BatchPlan | None = None,
        parallel_calls: int = 1,
        are_cores_busy=lambda: False,
        **policy,
    ) -> Bench:
        clock, metrics = FakeClock(), Metrics()
        device = HandDevice(clock, is_open)
        plan = plan or BatchPlan({size: 0.02 + 0.001 * size for size in range(1, max_batch + 1)})
        batcher = MicroBatcher(
            BatchPolicy(max_batch=max_batch, window_s=window_s, **policy),
            run_batch=device.run,
            encode=encode,
            plan=lambda: plan,
            metrics=metrics,
            clock=clock,
            are_cores_busy=are_cores_busy,
        )
        batcher.start_batching()
        batcher.run_parallel(parallel_calls)
        benches.append(Bench(batcher, device, clock, metrics))
        return benches[-1]

    yield make
    for bench in benches:
        await bench.batcher.aclose()
        await asyncio.gather(*bench.tasks, return_exceptions=True)
