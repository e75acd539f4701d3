"""How workers share one queue, on virtual time: real consumers and batchers, a device that costs 200 ms and 10 ms a
sample, and a queue whose every use takes its worker a moment."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from support.components.chunks import make_chunk
from support.virtual_time import run_virtual, virtual_clock

from service.batching.device import BatchOutcome
from service.batching.encode_groups import EncodeInput
from service.batching.micro_batcher import EncodeOutput, MicroBatcher
from service.batching.plan import BatchPlan
from service.batching.policy import BatchPolicy
from service.batching.sample_queue import SampleSlice
from service.domain.chunk import Chunk, SegmentedChunk
from service.domain.errors import ServiceError
from service.domain.result import FrameMasks, ModelInfo
from service.predictors.fake import FakePredictor
from service.redis.chunk_source import LeasedChunk
from service.telemetry.metrics import Metrics
from service.worker.chunk_consumer import ChunkConsumer, ConsumerPolicy

MAX_BATCH = 16
PLAN = BatchPlan({size: 0.200 + 0.010 * size for size in (1, 2, 4, 8, MAX_BATCH)})
SEND_S, QUEUE_USE_S = 0.002, 0.001
WARM_S, MEASURED_S = 5.0, 20.0


@dataclass
class SharedQueue:
    fresh: deque[LeasedChunk] = field(default_factory=deque)
    answers: dict[str, asyncio.Future[None]] = field(default_factory=dict)


class SharedSource:
    """One worker's chunk source; its process does one thing at a time."""

    def __init__(self, queue: SharedQueue) -> None:
        self._queue = queue
        self._process = asyncio.Lock()

    async def take(self, max_samples: int, *, wait_s: float) -> Sequence[LeasedChunk]:
        until_s = virtual_clock() + wait_s
        await self._use(1)
        while not self._queue.fresh and virtual_clock() < until_s:
            await asyncio.sleep(QUEUE_USE_S)
        taken: list[LeasedChunk] = []
        while self._queue.fresh and sum(len(entry.chunk.samples) for entry in taken) < max_samples:
            taken.append(self._queue.fresh.popleft())
        await self._use(1)
        return taken

    async def complete(self, delivery: LeasedChunk, answer: SegmentedChunk | ServiceError) -> bool:
        assert isinstance(answer, SegmentedChunk)
        await self._use(3)
        self._queue.answers.pop(delivery.token).set_result(None)
        return True

    async def _use(self, times: int) -> None:
        async with self._process:
            await asyncio.sleep(times * QUEUE_USE_S)

    async def announce(self, info: ModelInfo) -> None: ...

    async def withdraw(self, *, has_failed: bool = False) -> None: ...

    async def reclaim(self) -> None: ...

    async def start_alone(self, delivery: LeasedChunk) -> None: ...

    async def release(self, delivery: LeasedChunk, *, has_crashed: bool = False) -> None: ...

    async def renew(self, deliveries: Sequence[LeasedChunk]) -> frozenset[str]:
        return frozenset()


class SleepingDevice:
    """A Segmenter over the real batcher."""

    max_batch = MAX_BATCH

    def __init__(self) -> None:
        self._device = asyncio.Lock()
        self._batcher = MicroBatcher(
            BatchPolicy(max_batch=MAX_BATCH),
            run_batch=self._run,
            encode=self._encode,
            plan=lambda: PLAN,
            metrics=Metrics(),
            clock=virtual_clock,
        )
        self._batcher.start_batching()
        self.aclose = self._batcher.aclose

    def is_healthy(self) -> bool:
        return True

    async def _run(self, slices: Sequence[SampleSlice]) -> BatchOutcome:
        cost_s = PLAN.cost_s(sum(map(len, slices)))
        async with self._device:
            await asyncio.sleep(cost_s)
        return BatchOutcome([(piece, np.zeros((len(piece), 1, 1, 1), np.float32)) for piece in slices], cost_s)

    async def _encode(self, group: EncodeInput) -> EncodeOutput:
        await asyncio.sleep(QUEUE_USE_S)
        return [(tuple(FrameMasks(0.0, 0.0, 0, ()) for _ in range(len(piece))), 0.0) for piece, _ in group]

    @property
    def queue_depth(self) -> int:
        return self._batcher.queue_depth

    @property
    def busy_for_s(self) -> float:
        return self._batcher.busy_for_s

    async def describe(self) -> ModelInfo:
        return FakePredictor().info

    def expect(self, request_id: str) -> AbstractContextManager[None]:
        return self._batcher.expect(request_id)

    def is_idle(self) -> bool:
        return self._batcher.is_idle()

    async def segment(self, chunk: Chunk) -> SegmentedChunk:
        return await self._batcher.segment(chunk)


async def samples_per_s(num_workers: int, *, num_clients: int, sizes: Sequence[int]) -> float:
    """Of clients that send their next chunk when the last one is answered."""
    queue, num_done, front = SharedQueue(), 0, asyncio.Lock()
    numbers = itertools.count()
    chunks = [make_chunk(num_samples=size, size_px=(8, 8), output_size=(8, 8)) for size in sizes]

    async def ask() -> None:
        nonlocal num_done
        while True:
            number = next(numbers)
            chunk = replace(chunks[number % len(chunks)], request_id=f"r{number}")
            async with front:
                await asyncio.sleep(SEND_S)
            answer = queue.answers[f"{number}"] = asyncio.get_running_loop().create_future()
            queue.fresh.append(LeasedChunk(f"{number}", chunk))
            await answer
            num_done += len(chunk.samples)

    devices = [SleepingDevice() for _ in range(num_workers)]
    policy = ConsumerPolicy(max_held_samples=128)
    consumers = [ChunkConsumer(SharedSource(queue), made, policy, clock=virtual_clock) for made in devices]
    tasks = [asyncio.create_task(consumer.run(drain_s=0.0)) for consumer in consumers]
    tasks += [asyncio.create_task(ask()) for _ in range(num_clients)]
    await asyncio.sleep(WARM_S)
    before = num_done
    await asyncio.sleep(MEASURED_S)
    rate = (num_done - before) / MEASURED_S
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for device in devices:
        await device.aclose()
    return rate


@pytest.mark.parametrize(("num_clients", "sizes"), [(48, (1,)), (16, (4, 6)), (4, (32,))])
def test_two_workers_do_twice_the_work_of_one(num_clients: int, sizes: tuple[int, ...]) -> None:
    one, two = (run_virtual(samples_per_s(num, num_clients=num_clients, sizes=sizes)) for num in (1, 2))
    full_batches_per_s = MAX_BATCH / (0.200 + 0.010 * MAX_BATCH)
    assert one == pytest.approx(full_batches_per_s, rel=0.03)
    assert two / one >= 1.9
