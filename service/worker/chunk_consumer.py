"""Consume chunks in a worker: lease what the batcher has room for, segment, reply, renew leases, run suspects alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from service.aio.tasks import end_tasks
from service.aio.waits import ends_within
from service.batching.segmenter import LocalSegmenter
from service.domain.chunk import SegmentedChunk
from service.domain.deadline import Clock
from service.domain.errors import ServiceError
from service.redis.chunk_source import LeasedChunk, RedisChunkSource
from service.telemetry.traces import NO_TRACES, Traces, Value

logger = logging.getLogger(__name__)

_RENEWALS_PER_LEASE = 5
_RETRY_S = 0.2
# Failures of this worker rather than of the chunk, which is released for another worker.
_OWN_TROUBLE = frozenset({"draining", "queue_full", "warming_up", "backend_down"})
# Longest wait in seconds for new chunks, and so the interval at which an idle worker looks for expired leases.
_TAKE_WAIT_S = 0.25
# Shortest wait in seconds for the device, because its remaining time is an estimate.
_MIN_WAIT_S = 0.005


@dataclass(frozen=True, slots=True)
class ConsumerPolicy:
    """Limits on the chunks that a worker holds.

    Attributes:
        max_held_samples: most samples that are leased and not yet answered.
        lease_s: lease of the source; it is renewed five times within this.
        ahead_s: the next batch is leased when the device will be free within this. It must cover the time to fetch a
            batch. A longer value would keep chunks from idle workers.
    """

    max_held_samples: int
    lease_s: float = 10.0
    ahead_s: float = 0.1


@dataclass(eq=False, slots=True)
class _RunningChunk:
    """A leased chunk and the task that segments it."""

    leased: LeasedChunk
    task: asyncio.Task[None]


class ChunkConsumer:
    """Leases chunks from a source, segments them and sends the answers.

    Args:
        source: source of chunks.
        segmenter: started local segmenter.
        policy: limits.
        clock: seconds, monotonic.
        traces: spans of deliveries.
    """

    def __init__(
        self,
        source: RedisChunkSource,
        segmenter: LocalSegmenter,
        policy: ConsumerPolicy,
        *,
        clock: Clock,
        traces: Traces = NO_TRACES,
    ) -> None:
        self._source = source
        self._segmenter = segmenter
        self._policy = policy
        self._clock = clock
        self._traces = traces
        self._running: dict[str, _RunningChunk] = {}
        self._changed = asyncio.Event()
        self._stopped = asyncio.Event()
        self._has_failed = False
        self._next_reclaim_s = 0.0
        self._contact_s: float | None = None

    @property
    def num_held_samples(self) -> int:
        """Number of samples that are leased and not answered."""
        return sum(len(running.leased.chunk.samples) for running in self._running.values())

    @property
    def is_announced(self) -> bool:
        """Whether the queue was reached within the last lease."""
        return self._contact_s is not None and self._clock() - self._contact_s <= self._policy.lease_s

    @property
    def is_stopping(self) -> bool:
        """Whether intake has ended."""
        return self._stopped.is_set()

    async def run(self, *, drain_s: float) -> None:
        """Work until `stop`, then let held chunks finish for at most `drain_s` seconds and release the rest."""
        renewal = asyncio.create_task(self._forever(self._renew_leases))
        taking = asyncio.create_task(self._take_until_stopped())
        try:
            await self._stopped.wait()
            await self._once(self._withdraw)
            until_s = self._clock() + drain_s
            await asyncio.wait([taking], timeout=drain_s)
            running = [running.task for running in self._running.values()]
            if running:
                await asyncio.wait(running, timeout=max(0.0, until_s - self._clock()))
            await self._release_all()
        finally:
            await end_tasks((taking, renewal, *(running.task for running in self._running.values())))

    def stop(self, *, has_failed: bool = False) -> None:
        """Take no more chunks; `has_failed` if the worker ends because its device failed."""
        self._has_failed = self._has_failed or has_failed
        self._stopped.set()
        self._changed.set()

    async def _take_until_stopped(self) -> None:
        while not self.is_stopping:
            if not self._segmenter.is_healthy():  # the worker is about to stop; others take what was released
                await self._wait_for_change(_RETRY_S)
                continue
            try:
                if not await self._take_suspect():
                    await self._take_new()
            except ServiceError:
                await asyncio.sleep(_RETRY_S)
            except Exception:
                logger.exception("taking chunks failed")
                await asyncio.sleep(_RETRY_S)

    async def _take_suspect(self) -> bool:
        """Claim a chunk of a crashed worker and run it alone. Return False if there was none."""
        if self._clock() < self._next_reclaim_s:
            return False
        suspect = await self._source.reclaim()
        if suspect is None:
            self._next_reclaim_s = self._clock() + min(_TAKE_WAIT_S, self._policy.lease_s / 20)
            return False
        others = [running.task for running in self._running.values()]
        started = asyncio.Event()
        task = self._start(suspect, after=started)
        if others:
            await asyncio.wait(others)
        try:
            if suspect.token in self._running:  # its lease may be lost or its front may have gone
                await self._source.start_alone(suspect)
        except ServiceError:
            task.cancel()
            raise
        started.set()
        await asyncio.wait([task])
        return True

    async def _take_new(self) -> None:
        """Lease chunks while there is room. Until the stream is empty, the batcher waits for more within its window."""
        with ExitStack() as expecting:
            wait_s = _TAKE_WAIT_S
            while not self.is_stopping and (room := self._room()) > 0:
                taken = await self._source.take(room, wait_s=wait_s)
                if not taken:
                    return
                if wait_s:
                    expecting.enter_context(self._segmenter.expect("worker intake"))
                    wait_s = 0.0
                for leased in taken:
                    self._start(leased)
                await asyncio.sleep(0)  # lets each chunk enter the queue of the batcher, so that `_room` counts it
        until_room_s = self._segmenter.busy_for_s - self._policy.ahead_s
        await self._wait_for_change(min(_TAKE_WAIT_S, max(_MIN_WAIT_S, until_room_s)))

    def _room(self) -> int:
        """Return how many samples to lease now: those of the next batch, once the device is about to need it."""
        if self._segmenter.busy_for_s > self._policy.ahead_s:
            return 0
        left = self._policy.max_held_samples - self.num_held_samples
        return min(left, self._segmenter.max_batch - self._segmenter.queue_depth)

    def _start(self, leased: LeasedChunk, *, after: asyncio.Event | None = None) -> asyncio.Task[None]:
        task = asyncio.create_task(self._handle(leased, after))
        self._running[leased.token] = _RunningChunk(leased, task)
        task.add_done_callback(lambda _: self._forget(leased))
        return task

    def _forget(self, leased: LeasedChunk) -> None:
        self._running.pop(leased.token, None)
        self._changed.set()

    async def _handle(self, leased: LeasedChunk, after: asyncio.Event | None) -> None:
        """Segment a chunk and reply. Cancelling the task removes the chunk from the queue of the batcher."""
        if after is not None:
            await after.wait()
        answer: SegmentedChunk | ServiceError
        chunk = leased.chunk
        attributes: dict[str, Value] = {
            "request_id": chunk.request_id,
            "attempt": leased.attempt,
            "is_suspect": leased.is_suspect,
        }
        was_healthy = self._segmenter.is_healthy()
        try:
            with self._traces.span("delivery", parent=chunk.traceparent, kind="consumer", **attributes) as span:
                answer = await self._segmenter.segment(chunk.under(span.traceparent))
        except ServiceError as error:
            answer = error
        except Exception:
            logger.exception("a chunk failed")
            answer = ServiceError("internal", "A worker failed on this clip.")
        if isinstance(answer, ServiceError) and answer.code in _OWN_TROUBLE:
            has_crashed = leased.is_suspect and was_healthy and not self._segmenter.is_healthy()
            await self._persist(lambda: self._source.release(leased, has_crashed=has_crashed))
            return
        if not await self._persist(lambda: self._source.complete(leased, answer)):
            logger.info("an answer is dropped because its lease was lost", extra={"attempt": leased.attempt})

    async def _persist(self, action: Callable[[], Awaitable[bool | None]]) -> bool | None:
        """Retry until Redis responds. The task is cancelled if the lease is lost meanwhile."""
        while True:
            try:
                return await action()
            except ServiceError:
                await asyncio.sleep(_RETRY_S)

    async def _renew_leases(self) -> None:
        """Publish this worker, renew its leases and cancel chunks whose lease is lost."""
        info = await self._segmenter.describe()
        if not self.is_stopping:
            await self._source.announce(info)
        held = [entry.leased for entry in self._running.values()]
        lost = await self._source.renew(held) if held else frozenset()
        self._contact_s = self._clock()
        for token in lost:
            if token in self._running:
                self._running[token].task.cancel()
        await asyncio.sleep(self._policy.lease_s / _RENEWALS_PER_LEASE)

    async def _release_all(self) -> None:
        for running in list(self._running.values()):
            running.task.cancel()
            await self._once(partial(self._source.release, running.leased))
        await self._once(self._withdraw)

    async def _withdraw(self) -> None:
        await self._source.withdraw(has_failed=self._has_failed)

    async def _once(self, action: Callable[[], Awaitable[None]]) -> None:
        try:
            await action()
        except ServiceError:
            logger.warning("redis was unreachable at shutdown; leases will expire")

    async def _wait_for_change(self, timeout_s: float) -> None:
        self._changed.clear()
        await ends_within(timeout_s, self._changed.wait())

    async def _forever(self, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await step()
            except ServiceError:
                await asyncio.sleep(_RETRY_S)
            except Exception:
                logger.exception("renewing leases failed")
                await asyncio.sleep(_RETRY_S)
