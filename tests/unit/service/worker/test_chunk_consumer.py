"""The consumer over a source in memory: room, suspects alone, leases, drain."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext

import pytest
from support.components.chunks import make_chunk
from support.waiting import until

from service.domain.chunk import Chunk, SegmentedChunk
from service.domain.errors import ServiceError
from service.domain.result import FrameMasks, ModelInfo
from service.predictors.fake import FakePredictor
from service.redis.chunk_source import LeasedChunk
from service.worker.chunk_consumer import ChunkConsumer, ConsumerPolicy

HANG_S = 30


class MemorySource:
    """A chunk source of one process: what a real one may do, done on purpose."""

    def __init__(self) -> None:
        self.fresh: list[LeasedChunk] = []
        self.suspects: list[LeasedChunk] = []
        self.lost: set[str] = set()
        self.answers: dict[str, SegmentedChunk | ServiceError] = {}
        self.released: list[str] = []
        self.crashed: list[str] = []
        self.alone: list[str] = []
        self.num_failures = 0
        self.num_announced = 0
        self.is_withdrawn = False

    async def announce(self, info: ModelInfo) -> None:
        self._maybe_fail()
        self.num_announced += 1

    async def withdraw(self, *, has_failed: bool = False) -> None:
        self.is_withdrawn = True

    async def take(self, max_samples: int, *, wait_s: float) -> Sequence[LeasedChunk]:
        self._maybe_fail()
        taken: list[LeasedChunk] = []
        while self.fresh and sum(len(entry.chunk.samples) for entry in taken) < max_samples:
            taken.append(self.fresh.pop(0))
        if not taken:
            await asyncio.sleep(min(wait_s, 0.01))
        return taken

    async def reclaim(self) -> LeasedChunk | None:
        return self.suspects.pop(0) if self.suspects else None

    async def start_alone(self, delivery: LeasedChunk) -> None:
        self.alone.append(delivery.token)

    async def renew(self, deliveries: Sequence[LeasedChunk]) -> frozenset[str]:
        return frozenset(delivery.token for delivery in deliveries if delivery.token in self.lost)

    async def complete(self, delivery: LeasedChunk, answer: SegmentedChunk | ServiceError) -> bool:
        self._maybe_fail()
        if delivery.token in self.lost:
            return False
        self.answers[delivery.token] = answer
        return True

    async def release(self, delivery: LeasedChunk, *, has_crashed: bool = False) -> None:
        self.released.append(delivery.token)
        if has_crashed:
            self.crashed.append(delivery.token)

    def _maybe_fail(self) -> None:
        if self.num_failures:
            self.num_failures -= 1
            raise ServiceError("backend_down", "down")


class GatedSegmenter:
    """Answers when it is let; knows what runs beside what. Its device is as busy as it is told."""

    max_batch = 64
    queue_depth = 0
    busy_for_s = 0.0

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.running: set[str] = set()
        self.beside: dict[str, set[str]] = {}
        self.error: Exception | None = None
        self.is_device_alive = True

    def is_healthy(self) -> bool:
        return self.is_device_alive

    async def describe(self) -> ModelInfo:
        return FakePredictor().info

    def expect(self, request_id: str) -> AbstractContextManager[None]:
        return nullcontext()

    def is_idle(self) -> bool:
        return not self.running

    async def segment(self, chunk: Chunk) -> SegmentedChunk:
        name = chunk.request_id
        self.beside[name] = set(self.running)
        for other in self.running:
            self.beside[other].add(name)
        self.running.add(name)
        try:
            await self.gate.wait()
            await asyncio.sleep(0.005)
            if self.error is not None:
                raise self.error
            return SegmentedChunk(tuple(FrameMasks(0.0, 0.0, 0, ()) for _ in range(len(chunk.samples))), 0.0, 0.0, 0.0)
        finally:
            self.running.discard(name)


@asynccontextmanager
async def running(
    source: MemorySource, segmenter: GatedSegmenter, *, room: int = 64, drain_s: float = 5.0
) -> AsyncIterator[ChunkConsumer]:
    policy = ConsumerPolicy(max_held_samples=room, lease_s=0.25)
    consumer = ChunkConsumer(source, segmenter, policy, clock=time.monotonic)
    task = asyncio.create_task(consumer.run(drain_s=drain_s))
    async with asyncio.timeout(HANG_S):
        yield consumer
        consumer.stop()
        await task


def delivery(name: str, *, num_samples: int = 4, is_suspect: bool = False) -> LeasedChunk:
    return LeasedChunk(token=name, chunk=make_chunk(num_samples=num_samples, request_id=name), is_suspect=is_suspect)


async def test_takes_no_more_than_it_has_room_for() -> None:
    source, segmenter = MemorySource(), GatedSegmenter()
    source.fresh = [delivery(f"c{number}") for number in range(40)]
    async with running(source, segmenter, room=16) as consumer:
        await until(lambda: consumer.num_held_samples >= 16)
        await asyncio.sleep(0.05)
        assert consumer.num_held_samples == 16
        assert len(source.fresh) == 36
        segmenter.gate.set()
        await until(lambda: len(source.answers) == 40)
    assert source.is_withdrawn


async def test_the_next_batch_is_left_to_others_until_the_device_is_about_to_need_it() -> None:
    source, segmenter = MemorySource(), GatedSegmenter()
    segmenter.busy_for_s = 30.0
    source.fresh = [delivery(f"c{number}") for number in range(40)]
    async with running(source, segmenter, room=256) as consumer:
        await until(lambda: source.num_announced)
        await asyncio.sleep(0.05)
        assert consumer.num_held_samples == 0
        segmenter.busy_for_s = 0.05
        segmenter.gate.set()
        await until(lambda: len(source.answers) == 40)


async def test_a_suspect_runs_with_nothing_beside_it() -> None:
    source, segmenter = MemorySource(), GatedSegmenter()
    source.fresh = [delivery(f"c{number}") for number in range(3)]
    async with running(source, segmenter):
        await until(lambda: len(segmenter.running) == 3)
        source.suspects = [delivery("s1", is_suspect=True), delivery("s2", is_suspect=True)]
        await until(lambda: not source.suspects or len(source.suspects) == 1)
        source.fresh = [delivery(f"d{number}") for number in range(3)]
        await asyncio.sleep(0.05)
        assert "s1" not in segmenter.running
        segmenter.gate.set()
        await until(lambda: len(source.answers) == 8)
    assert source.alone == ["s1", "s2"]
    assert segmenter.beside["s1"] == segmenter.beside["s2"] == set()


@pytest.mark.parametrize("is_suspect", [False, True])
async def test_a_lost_device_gives_its_chunk_back_and_takes_no_other(is_suspect: bool) -> None:
    source, segmenter = MemorySource(), GatedSegmenter()
    first = delivery("first", is_suspect=is_suspect)
    (source.suspects if is_suspect else source.fresh).append(first)
    async with running(source, segmenter):
        await until(lambda: segmenter.running)
        segmenter.is_device_alive = False
        segmenter.error = ServiceError("backend_down", "The device hangs.")
        source.fresh = [delivery("later")]
        source.suspects = [delivery("again", is_suspect=True)]
        segmenter.gate.set()
        await until(lambda: source.released)
        await asyncio.sleep(0.1)
        assert source.released == ["first"]
        assert len(source.fresh) == len(source.suspects) == 1
    # Only a chunk that ran alone can have caused it.
    assert source.crashed == (["first"] if is_suspect else [])


async def test_a_chunk_that_a_healthy_device_refuses_is_no_crash() -> None:
    source, segmenter = MemorySource(), GatedSegmenter()
    segmenter.error = ServiceError("queue_full", "Full.")
    segmenter.gate.set()
    source.suspects = [delivery("suspect", is_suspect=True)]
    async with running(source, segmenter):
        await until(lambda: source.released)
    assert source.crashed == []


async def test_a_lost_lease_ends_the_work() -> None:
    source, segmenter = MemorySource(), GatedSegmenter()
    source.fresh = [delivery("mine"), delivery("lost")]
    async with running(source, segmenter):
        await until(lambda: len(segmenter.running) == 2)
        source.lost.add("lost")
        await until(lambda: segmenter.running == {"mine"})
        segmenter.gate.set()
        await until(lambda: "mine" in source.answers)
    assert set(source.answers) == {"mine"}


async def test_replies_outlast_an_outage() -> None:
    source, segmenter = MemorySource(), GatedSegmenter()
    segmenter.gate.set()
    source.fresh = [delivery("c")]
    async with running(source, segmenter):
        await until(lambda: segmenter.beside)
        source.num_failures = 3
        await until(lambda: "c" in source.answers)


async def test_failures_of_a_chunk_are_answered_and_own_trouble_gives_it_back() -> None:
    source, segmenter = MemorySource(), GatedSegmenter()
    segmenter.gate.set()
    async with running(source, segmenter):
        for name, error in (
            ("late", ServiceError("deadline_exceeded", "late")),
            ("odd", RuntimeError("odd")),
            ("own", ServiceError("draining", "ends")),
        ):
            segmenter.error = error
            source.fresh = [delivery(name)]
            await until(
                lambda: not source.fresh and not segmenter.running and len(source.answers) + len(source.released)
            )
            await asyncio.sleep(0.02)
    assert {name: answer.code for name, answer in source.answers.items()} == {  # type: ignore[union-attr]
        "late": "deadline_exceeded",
        "odd": "internal",
    }
    assert source.released == ["own"]


async def test_drain_waits_and_then_gives_back() -> None:
    source, segmenter = MemorySource(), GatedSegmenter()
    source.fresh = [delivery("slow")]
    async with running(source, segmenter, drain_s=0.05):
        await until(lambda: segmenter.running)
    assert source.released == ["slow"]
    assert source.answers == {}
    source, segmenter = MemorySource(), GatedSegmenter()
    source.fresh = [delivery("soon")]
    async with running(source, segmenter, drain_s=5.0) as consumer:
        await until(lambda: segmenter.running)
        consumer.stop()
        segmenter.gate.set()
    assert set(source.answers) == {"soon"}
    assert source.released == []


async def test_it_announces_itself_while_it_lives() -> None:
    source, segmenter = MemorySource(), GatedSegmenter()
    async with running(source, segmenter) as consumer:
        await until(lambda: source.num_announced >= 3)
        assert consumer.is_announced
        assert not consumer.is_stopping
    assert consumer.is_stopping
