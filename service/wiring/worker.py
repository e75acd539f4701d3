"""Build a worker process: the local segmenter, fed by chunks from Redis, and an HTTP port for probes and metrics."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from service.batching.segmenter import LocalSegmenter
from service.domain.result import ModelInfo
from service.redis.chunk_source import ChunkSourcePolicy, RedisChunkSource
from service.rest.connection.server import HttpServer, ServerPolicy
from service.rest.ops_app import create_ops_app
from service.rest.parts import Probes
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.wiring.links import build_traces, redis_links
from service.wiring.predictor import MakePredictor, batch_policy, predictor_maker
from service.wiring.version import describe_version, service_version
from service.worker.worker import Worker, WorkerPolicy


@dataclass(frozen=True, slots=True)
class BuiltWorker:
    """A worker and its ops server. Neither is started."""

    worker: Worker
    http: HttpServer


@asynccontextmanager
async def build_worker(
    settings: Settings, *, make_predictor: MakePredictor | None = None
) -> AsyncIterator[BuiltWorker]:
    """Build a worker. It neither listens nor takes chunks yet.

    Args:
        settings: effective settings, with `redis_url`.
        make_predictor: loads the model on the device thread; None loads the checkpoint named in the settings.
    """
    metrics, clock = Metrics(), time.monotonic
    async with AsyncExitStack() as stack:
        jobs, data = redis_links(settings, stack)
        traces = build_traces(settings, stack, service="avesformer-worker", clock=clock)
        segmenter = LocalSegmenter(
            make_predictor or predictor_maker(settings),
            batch_policy(settings),
            metrics=metrics,
            clock=clock,
            traces=traces,
        )
        stack.push_async_callback(segmenter.aclose)

        def open_source(name: str, model: ModelInfo) -> RedisChunkSource:
            labels = {"version": service_version(), "variant": model.variant, "checkpoint": model.checkpoint}
            metrics.build_info.labels(**labels).set(1)
            policy = ChunkSourcePolicy(worker=name, lease_s=settings.lease_s)
            return RedisChunkSource(jobs, data, policy, checkpoint=model.checkpoint, metrics=metrics, clock=clock)

        policy = WorkerPolicy(lease_s=settings.lease_s, drain_s=settings.drain_s)
        worker = Worker(segmenter, open_source, policy, clock=clock, traces=traces)
        probes = Probes(
            unready=worker.unready,
            is_alive=segmenter.is_healthy,
            describe_version=partial(describe_version, segmenter),
            metrics=metrics,
        )
        app = create_ops_app(probes, version=service_version())
        http = HttpServer(app, ServerPolicy(host=settings.host, port=settings.worker_port))
        stack.push_async_callback(http.stop)
        yield BuiltWorker(worker, http)


def worker_name(port: int) -> str:
    """Return host and ops port. The name survives a restart, so a restarted worker claims its old chunks at once."""
    return f"{socket.gethostname()}:{port}"
