"""Segmenters for tests: local, and across a real Redis with an in-process worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.servers.redis_server import RedisServer

from service.batching.policy import BatchPolicy
from service.batching.segmenter import LocalSegmenter
from service.domain.chunk import MAX_CHUNK_SAMPLES
from service.domain.deadline import Clock
from service.ports import Segmenter
from service.predictors.fake import FakePredictor, FakeTiming
from service.redis.chunk_source import ChunkSourcePolicy, RedisChunkSource
from service.redis.link import RedisLink
from service.redis.segmenter import RedisSegmenter, RedisSegmenterPolicy
from service.telemetry.metrics import Metrics
from service.worker.chunk_consumer import ChunkConsumer, ConsumerPolicy

REDIS_PARAM = pytest.param("redis", marks=pytest.mark.redis)
LEASE_S = 1.0
MAX_BATCH = 8


@dataclass
class Parts:
    """A segmenter under test, and what it counts."""

    segmenter: Segmenter
    metrics: Metrics = field(default_factory=Metrics)


@asynccontextmanager
async def local_parts(directory: Path, timing: FakeTiming) -> AsyncIterator[Parts]:
    """This process's device."""
    metrics = Metrics()
    segmenter = LocalSegmenter(
        lambda: FakePredictor(timing=timing), BatchPolicy(max_batch=MAX_BATCH), metrics=metrics, clock=time.monotonic
    )
    await segmenter.start()
    yield Parts(segmenter, metrics)
    await segmenter.aclose()


@asynccontextmanager
async def redis_parts(directory: Path, timing: FakeTiming) -> AsyncIterator[Parts]:
    """A front and one worker in this process, a real server between them."""
    with RedisServer(directory / "redis") as server:
        async with worker(server.url, timing=timing), front(server.url) as segmenter:
            yield Parts(segmenter)


@asynccontextmanager
async def front(
    url: str,
    *,
    data_url: str | None = None,
    clock: Clock = time.monotonic,
    is_served: bool = True,
    **policy: float,
) -> AsyncIterator[RedisSegmenter]:
    """A started front side that has seen a worker (unless there is none), closed afterwards."""
    values: dict[str, float] = {"max_outstanding_bytes": 2**28, "watch_s": 0.2} | policy
    async with AsyncExitStack() as stack:
        jobs, data = RedisLink(url, clock=clock), RedisLink(data_url or url, clock=clock)
        stack.push_async_callback(jobs.aclose)
        stack.push_async_callback(data.aclose)
        made = RedisSegmenterPolicy(**values)  # type: ignore[arg-type]
        segmenter = RedisSegmenter(jobs, data, made, metrics=Metrics(), clock=clock)
        stack.push_async_callback(segmenter.aclose)
        starting = asyncio.create_task(segmenter.start())
        stack.callback(starting.cancel)
        if is_served:
            await starting
        yield segmenter


@asynccontextmanager
async def worker(
    url: str,
    *,
    data_url: str | None = None,
    name: str = "worker",
    timing: FakeTiming | None = None,
    lease_s: float = LEASE_S,
    predictor: FakePredictor | None = None,
    drain_s: float = 5.0,
) -> AsyncIterator[ChunkConsumer]:
    """A running worker, drained afterwards."""
    made = predictor or FakePredictor(timing=timing or FakeTiming())
    async with AsyncExitStack() as stack:
        jobs, data = RedisLink(url, clock=time.monotonic), RedisLink(data_url or url, clock=time.monotonic)
        stack.push_async_callback(jobs.aclose)
        stack.push_async_callback(data.aclose)
        metrics = Metrics()
        policy = BatchPolicy(max_batch=MAX_BATCH)
        segmenter = LocalSegmenter(lambda: made, policy, metrics=metrics, clock=time.monotonic)
        stack.push_async_callback(segmenter.aclose)
        await segmenter.start()
        source = RedisChunkSource(
            jobs,
            data,
            ChunkSourcePolicy(worker=name, lease_s=lease_s),
            checkpoint=made.info.checkpoint,
            metrics=metrics,
            clock=time.monotonic,
        )
        held = ConsumerPolicy(max_held_samples=2 * MAX_CHUNK_SAMPLES, lease_s=lease_s)
        consumer = ChunkConsumer(source, segmenter, held, clock=time.monotonic)
        running = asyncio.create_task(consumer.run(drain_s=drain_s))
        yield consumer
        consumer.stop()
        await running
