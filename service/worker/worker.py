"""Run a worker: load the model, consume chunks until stopped, end if the device dies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from service.aio.waits import ends_within
from service.batching.segmenter import LocalSegmenter
from service.domain.chunk import MAX_CHUNK_SAMPLES
from service.domain.deadline import Clock
from service.domain.errors import ServiceError
from service.domain.result import ModelInfo
from service.redis.chunk_source import RedisChunkSource
from service.telemetry.traces import NO_TRACES, Traces
from service.worker.chunk_consumer import ChunkConsumer, ConsumerPolicy

# Most batches that a worker holds: one on the device, one waiting, two being encoded and sent. This only limits memory;
# chunks are leased when the device is about to need them, so that other workers can take the rest.
_BATCHES_HELD = 4
# Interval in seconds of health checks of the device.
_HEALTH_CHECK_S = 0.5

# Returns the source of chunks for the worker of this name that runs this model.
OpenSource = Callable[[str, ModelInfo], RedisChunkSource]


@dataclass(frozen=True, slots=True)
class WorkerPolicy:
    """Seconds of a chunk's lease, and seconds that held chunks may take to finish at shutdown."""

    lease_s: float
    drain_s: float


class Worker:
    """Main loop of a worker process."""

    def __init__(
        self,
        segmenter: LocalSegmenter,
        open_source: OpenSource,
        policy: WorkerPolicy,
        *,
        clock: Clock,
        traces: Traces = NO_TRACES,
    ) -> None:
        """Wire the worker; `run` starts it.

        Args:
            segmenter: local segmenter, not started.
            open_source: returns the source of chunks, given the worker's name and its model.
            policy: lease and drain time.
            clock: seconds, monotonic.
            traces: spans of deliveries.
        """
        self._segmenter = segmenter
        self._open_source = open_source
        self._policy = policy
        self._clock = clock
        self._traces = traces
        self._consumer: ChunkConsumer | None = None

    @property
    def has_started(self) -> bool:
        """Whether the model is loaded and chunks are consumed."""
        return self._consumer is not None

    async def run(self, stopping: asyncio.Event, *, name: str, on_warm: Callable[[], None] = lambda: None) -> bool:
        """Load the model and consume until `stopping`; False if the device died.

        Args:
            stopping: set when the process should end.
            name: name of this worker; it must survive restarts.
            on_warm: called once the model is loaded and warm, before the first chunk is taken.
        """
        await self._segmenter.start()
        on_warm()
        source = self._open_source(name, await self._segmenter.describe())
        most = _BATCHES_HELD * max(self._segmenter.max_batch, MAX_CHUNK_SAMPLES)
        policy = ConsumerPolicy(max_held_samples=most, lease_s=self._policy.lease_s)
        consumer = self._consumer = ChunkConsumer(
            source, self._segmenter, policy, clock=self._clock, traces=self._traces
        )
        running = asyncio.create_task(consumer.run(drain_s=self._policy.drain_s), name="chunk consumer")
        is_healthy = False
        try:
            is_healthy = await self._until_stopped(stopping, running)
        finally:
            consumer.stop(has_failed=not is_healthy)
        await running
        return is_healthy

    def unready(self) -> ServiceError | None:
        """Return the reason why chunks cannot be consumed now; None if they can."""
        if not self._segmenter.is_ready() or self._consumer is None:
            return ServiceError("warming_up", "The model is being loaded.")
        if self._consumer.is_stopping:
            return ServiceError("draining", "This worker is shutting down.")
        if not self._consumer.is_announced:
            return ServiceError("backend_down", "Redis does not respond.")
        return None

    async def _until_stopped(self, stopping: asyncio.Event, running: asyncio.Task[None]) -> bool:
        while not stopping.is_set() and not running.done():
            if not self._segmenter.is_healthy():
                return False
            await ends_within(_HEALTH_CHECK_S, stopping.wait())
        return True
