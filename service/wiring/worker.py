"""Builds the worker process: the same segmenter as a front without Redis, fed by the queue, with its own ops port."""

from __future__ import annotations

import asyncio
import platform
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from service.aio.waits import ends_within
from service.batching.segmenter import LocalSegmenter
from service.domain.chunk import MAX_CHUNK_SAMPLES
from service.domain.errors import ServiceError
from service.redis.chunk_source import ChunkSourcePolicy, RedisChunkSource
from service.redis.link import RedisLink
from service.rest.app import create_ops_app
from service.rest.parts import Probes
from service.rest.server import HttpServer, ServerPolicy
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.telemetry.traces import Traces
from service.wiring.front import build_traces, redis_links
from service.wiring.policies import MakePredictor, batch_policy, predictor_maker, service_version
from service.worker.chunk_consumer import ChunkConsumer, ConsumerPolicy

_BATCHES_HELD = 4
"""One batch on the device, one behind it, two being encoded and replied: a bound on memory. What is taken when follows
from what the device will need next, so that the rest is left to other workers."""
_HEALTH_CHECK_S = 0.5


@dataclass(slots=True)
class Worker:
    """A wired worker: ops port first, then the model, then chunks."""

    settings: Settings
    metrics: Metrics
    segmenter: LocalSegmenter
    jobs: RedisLink
    data: RedisLink
    traces: Traces
    http: HttpServer = field(init=False)
    consumer: ChunkConsumer | None = None

    def __post_init__(self) -> None:
        app = create_ops_app(self.probes(), version=service_version())
        self.http = HttpServer(app, ServerPolicy(host=self.settings.host, port=self.settings.worker_port))

    async def run(self, stopping: asyncio.Event, *, name: str, on_warm: Callable[[], None] = lambda: None) -> bool:
        """Load the model and consume until `stopping`; False if the device died.

        Args:
            stopping: set when the process should end.
            name: this worker's, the same over restarts.
            on_warm: called once the model is loaded and warm, before the first chunk is taken.
        """
        await self.segmenter.start()
        on_warm()
        model = await self.segmenter.describe()
        labels = {"version": service_version(), "variant": model.variant, "checkpoint": model.checkpoint}
        self.metrics.build_info.labels(**labels).set(1)
        lease_s = self.settings.lease_s
        source = RedisChunkSource(
            self.jobs,
            self.data,
            ChunkSourcePolicy(worker=name, lease_s=lease_s),
            checkpoint=model.checkpoint,
            metrics=self.metrics,
            clock=time.monotonic,
        )
        most = _BATCHES_HELD * max(self.segmenter.max_batch, MAX_CHUNK_SAMPLES)
        policy = ConsumerPolicy(max_held_samples=most, lease_s=lease_s)
        consumer = self.consumer = ChunkConsumer(
            source, self.segmenter, policy, clock=time.monotonic, traces=self.traces
        )
        running = asyncio.create_task(consumer.run(drain_s=self.settings.drain_s), name="chunk consumer")
        is_healthy = False
        try:
            is_healthy = await self._until_stopped(stopping, running)
        finally:
            consumer.stop(has_failed=not is_healthy)
        await running
        return is_healthy

    async def _until_stopped(self, stopping: asyncio.Event, running: asyncio.Task[None]) -> bool:
        while not stopping.is_set() and not running.done():
            if not self.segmenter.is_healthy():
                return False
            await ends_within(_HEALTH_CHECK_S, stopping.wait())
        return True

    def probes(self) -> Probes:
        """What the ops port tells."""
        return Probes(
            unready=self._unready,
            is_alive=self.segmenter.is_healthy,
            describe_version=self._describe_version,
            metrics=self.metrics,
        )

    def _unready(self) -> ServiceError | None:
        if not self.segmenter.is_ready() or self.consumer is None:
            return ServiceError("warming_up", "The model is being loaded.")
        if self.consumer.is_stopping:
            return ServiceError("draining", "This worker is shutting down.")
        if not self.consumer.is_announced:
            return ServiceError("backend_down", "Redis does not answer.")
        return None

    async def _describe_version(self) -> Mapping[str, object]:
        model = None
        if self.segmenter.is_ready():
            info = await self.segmenter.describe()
            model = {"variant": info.variant, "checkpoint": info.checkpoint, "labels": list(info.labels)}
        return {"service": service_version(), "python": platform.python_version(), "model": model}


@asynccontextmanager
async def build_worker(settings: Settings, *, make_predictor: MakePredictor | None = None) -> AsyncIterator[Worker]:
    """A worker that is built and neither listens nor works yet.

    Args:
        settings: effective settings, with `redis_url`.
        make_predictor: loads the model on the device thread; None takes the checkpoint that the settings name.
    """
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        jobs, data = redis_links(settings, stack)
        traces = build_traces(settings, stack, service="avesformer-worker", clock=time.monotonic)
        segmenter = LocalSegmenter(
            make_predictor or predictor_maker(settings),
            batch_policy(settings),
            metrics=metrics,
            clock=time.monotonic,
            traces=traces,
        )
        stack.push_async_callback(segmenter.aclose)
        worker = Worker(settings, metrics, segmenter, jobs, data, traces)
        stack.push_async_callback(worker.http.stop)
        yield worker


def worker_name(port: int) -> str:
    """Host and ops port: the same after a restart, so that a worker's next life takes its chunks over at once."""
    return f"{socket.gethostname()}:{port}"
