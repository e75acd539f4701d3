"""Measure how much more two workers do than one, over a real Redis, each with an emulated accelerator."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import replace

import numpy as np

from service.bench.figures import BenchPlan, Figures, OnStep
from service.bench.processes import EmulatedAccelerator, running_emulated_worker, running_redis
from service.domain.chunk import WINDOW_SAMPLES, Chunk, MaskPolicy, SampleBlock
from service.domain.deadline import Deadline
from service.domain.result import SOUNDING
from service.redis.link import RedisLink
from service.redis.segmenter import RedisSegmenter, RedisSegmenterPolicy
from service.telemetry.metrics import Metrics

# Slow enough that two workers, a front and a Redis on two cores do not compete for them.
ACCELERATOR = EmulatedAccelerator(batch_s=0.200, item_s=0.010, max_batch=16)
# For each of two workers a batch on the device, one behind it and one on its way there and back.
_CLIENTS = 6 * ACCELERATOR.max_batch
_SIDE_PX = 64
_SETTLE_S = 3.0
_START_S = 60.0
_POLL_S = 0.1
# Least number of batches in a figure: answers come a batch at a time.
_MIN_BATCHES = 20


def measure_workers(plan: BenchPlan, on_step: OnStep) -> Figures:
    """Samples per second of one worker and of two; nothing without a redis-server program."""
    on_step("one worker and two on emulated accelerators")
    return asyncio.run(_measure(plan.seconds))


async def _measure(seconds: float) -> Figures:
    with running_redis() as url:
        if url is None:
            return {}
        jobs, metrics = RedisLink(url, clock=time.monotonic), Metrics()
        policy = RedisSegmenterPolicy(max_outstanding_bytes=1 << 30)
        segmenter = RedisSegmenter(jobs, jobs, policy, metrics=metrics, clock=time.monotonic)
        rates: list[float] = []
        try:
            with running_emulated_worker(url, ACCELERATOR):
                async with asyncio.timeout(_START_S):
                    await segmenter.start()
                rates.append(await _samples_per_s(segmenter, seconds))
                with running_emulated_worker(url, ACCELERATOR):
                    await _until_two_workers(metrics)
                    rates.append(await _samples_per_s(segmenter, seconds))
        finally:
            await segmenter.aclose()
            await jobs.aclose()
    one, two = rates
    return {"redis.w2.ratio_to_one_worker": two / one, "redis.w1.samples_per_s": one, "redis.w2.samples_per_s": two}


async def _samples_per_s(segmenter: RedisSegmenter, seconds: float) -> float:
    """Of clients that send their next sample when the last one is answered, once they have settled.

    A straight line through the number of answers over time: it does not depend on how many batches happen to end just
    before the first and the last moment, nor on how the load begins and ends.
    """
    answered_at_s: list[float] = []
    numbers, sample = itertools.count(), _one_sample()

    async def client() -> None:
        while True:
            await segmenter.segment(replace(sample, request_id=f"bench-{next(numbers)}"))
            answered_at_s.append(time.perf_counter())

    clients = [asyncio.create_task(client()) for _ in range(_CLIENTS)]
    try:
        await asyncio.sleep(_SETTLE_S)
        since_s = time.perf_counter()
        await asyncio.sleep(max(2 * seconds, _MIN_BATCHES * ACCELERATOR.full_batch_s))
    finally:
        for task in clients:
            task.cancel()
        ends = await asyncio.gather(*clients, return_exceptions=True)
    failures = [end for end in ends if isinstance(end, Exception)]
    if failures:
        raise RuntimeError(f"a sample was not answered: {failures[0]}")
    times_s = np.array([at_s for at_s in answered_at_s if at_s >= since_s])
    return float(np.polyfit(times_s, np.arange(len(times_s)), 1)[0])


async def _until_two_workers(metrics: Metrics) -> None:
    for _ in range(round(_START_S / _POLL_S)):
        if metrics.registry.get_sample_value("avesformer_worker_up") == 2:
            return
        await asyncio.sleep(_POLL_S)
    raise RuntimeError("the second worker did not start in time")


def _one_sample() -> Chunk:
    """A chunk of one sample: noise, so that it costs what a picture costs."""
    rng = np.random.default_rng(0)
    zero, origin = np.zeros(1), np.zeros(1, np.int64)
    frames = rng.integers(0, 256, (1, _SIDE_PX, _SIDE_PX, 3)).astype(np.uint8)
    audio = rng.integers(-9000, 9000, WINDOW_SAMPLES).astype(np.int16)
    masks = MaskPolicy((_SIDE_PX, _SIDE_PX), 0.5, (SOUNDING,), 0)
    return Chunk("bench", 0, SampleBlock(frames, audio, origin, zero, zero, origin), masks, Deadline())
