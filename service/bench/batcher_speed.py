"""Throughput of the batcher over the limit of an emulated accelerator."""

from __future__ import annotations

import asyncio
import time

from service.batching.emulated import ITEM_BYTES, BenchAccelerator
from service.bench.figures import BenchPlan, Figures, OnStep
from service.domain.deadline import Deadline
from service.domain.request import RequestContext
from service.telemetry.metrics import Metrics

BATCH_S = 0.020
# The accelerator that other servers were measured on: 20 ms per batch and 1 ms per item.
ITEM_S = 0.001
_LARGEST_BATCH = 64
# Enough clients that a full batch waits while another one runs, so that the device is the limit.
_CLIENTS = 2 * _LARGEST_BATCH


def measure_batcher(plan: BenchPlan, on_step: OnStep) -> Figures:
    """Return items per second of closed-loop clients over those of a device that runs full batches without pauses."""
    on_step("batcher on an emulated accelerator")
    items_per_s = asyncio.run(_drive(plan.seconds))
    limit = _LARGEST_BATCH / (BATCH_S + ITEM_S * _LARGEST_BATCH)
    return {"batcher.ratio_to_limit": items_per_s / limit, "batcher.items_per_s": items_per_s}


async def _drive(seconds: float) -> float:
    accelerator = BenchAccelerator(batch_s=BATCH_S, item_s=ITEM_S, metrics=Metrics(), clock=time.monotonic)
    body = bytes(ITEM_BYTES)
    num_done = 0
    await accelerator.start()
    try:
        started_s = time.perf_counter()

        async def client(name: str) -> None:
            nonlocal num_done
            context = RequestContext(name, "rest", Deadline())
            while time.perf_counter() - started_s < seconds:
                with accelerator.expect(name):
                    await accelerator.answer(body, context)
                num_done += 1

        await asyncio.gather(*(client(f"client-{number}") for number in range(_CLIENTS)))
        return num_done / (time.perf_counter() - started_s)
    finally:
        await accelerator.aclose()
