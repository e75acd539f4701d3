"""The only builder of objects: settings become a wired front, closed in reverse order.

Order matters at the start (the decoders' zygote is spawned before anything has threads or a device) and at the end
(listeners close before the device, the device before the decoders).
"""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from service.batching.emulated import DEFAULT_MAX_BATCH, BenchAccelerator
from service.batching.segmenter import LocalSegmenter
from service.core.admission import Admission
from service.core.api_keys import ApiKeys, Authenticate
from service.core.live import LivePolicy, LiveStreams
from service.core.pipeline import Pipeline
from service.core.request_log import Journal
from service.domain.deadline import Clock
from service.domain.errors import ServiceError
from service.jobs.runner import JobRunner
from service.media.decoders.pool import DecoderPool
from service.media.upload import Spool
from service.ports import Answering, Segmenter
from service.redis.link import RedisLink
from service.redis.segmenter import RedisSegmenter, RedisSegmenterPolicy
from service.rest.app import create_app
from service.rest.bench import build_bench_router
from service.rest.jobs_routes import JobRouteParts, build_jobs_router
from service.rest.parts import Probes, RestParts
from service.rest.server import HttpServer
from service.rpc.server import GrpcParts, GrpcServer, build_server
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.telemetry.traces import NO_TRACES, Traces
from service.wiring.jobs import Base, JobSide, build_job_side
from service.wiring.policies import (
    MakePredictor,
    admission_policy,
    batch_policy,
    edge_policy,
    grpc_policy,
    media_policy,
    pipeline_policy,
    predictor_maker,
    rest_policy,
    server_policy,
    service_version,
)

_STOPPING_S = 5.0
"""What ended requests get to send their `draining` and let go of what they hold."""


class ListenError(Exception):
    """A port cannot be had; the message is for the person who starts the service."""


@dataclass(frozen=True, slots=True)
class Core:
    """What every transport stands on."""

    metrics: Metrics
    traces: Traces
    clock: Clock
    spool: Spool
    decoders: DecoderPool
    segmenter: Segmenter
    admission: Admission
    journal: Journal
    pipeline: Pipeline


@dataclass(frozen=True, slots=True)
class Front:
    """A wired front process: its parts, its servers, and the task that loads the model."""

    settings: Settings
    core: Core
    jobs: JobRunner
    http: HttpServer
    grpc: GrpcServer
    warming: asyncio.Task[None]
    listening: asyncio.Event

    async def listen(self) -> tuple[int, int]:
        """Listen on both ports, which are returned, then let the model load; raises ListenError."""
        settings = self.settings
        http_port = await _listening(self.http.start(), settings.host, settings.port, option="--port")
        grpc_port = await _listening(self.grpc.start(), settings.host, settings.grpc_port, option="--grpc-port")
        self.listening.set()
        return http_port, grpc_port

    async def drain(self, hurrying: asyncio.Event) -> None:
        """Refuse new work and let running work end until the drain's limit or `hurrying`; the rest ends `draining`.

        Jobs are given back at once: another front, or this one's next life, begins them anew.
        """
        admission = self.core.admission
        await self.jobs.aclose()
        await self.grpc.start_draining()
        admission.start_draining()
        idle = asyncio.create_task(admission.wait_until_idle(self.settings.drain_s))
        hurry = asyncio.create_task(hurrying.wait())
        await asyncio.wait({idle, hurry}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        idle.cancel()
        if admission.in_flight:
            admission.stop_running()
            await admission.wait_until_idle(_STOPPING_S)


@asynccontextmanager
async def build_core(settings: Settings, *, make_predictor: MakePredictor | None = None) -> AsyncIterator[Core]:
    """The core with its decoders running and the segmenter not yet started.

    Args:
        settings: effective settings.
        make_predictor: loads the model on the device thread; None takes the checkpoint that the settings name.
    """
    clock = time.monotonic
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        decoders = DecoderPool(
            media_policy(settings),
            num_decoders=settings.num_decoders,
            max_live_streams=settings.max_live_streams,
            clock=clock,
            metrics=metrics,
        )
        stack.push_async_callback(decoders.aclose)
        await decoders.start()
        traces = build_traces(settings, stack, service="avesformer-front", clock=clock)
        segmenter = _build_segmenter(settings, stack, make_predictor, metrics=metrics, clock=clock, traces=traces)
        stack.push_async_callback(segmenter.aclose)
        admission = Admission(
            admission_policy(settings),
            metrics=metrics,
            clock=clock,
            predicted_wait_s=lambda: segmenter.predicted_wait_s(1),
        )
        spool = Spool(settings.spool_dir, max_bytes=settings.spool_bytes, on_received=admission.usage.add_bytes)
        pipeline = Pipeline(
            segmenter=segmenter,
            decoders=decoders,
            spool=spool,
            admission=admission,
            policy=pipeline_policy(settings),
            metrics=metrics,
            clock=clock,
            traces=traces,
        )
        spool = Spool(settings.spool_dir, max_bytes=settings.spool_bytes)
        spool.probe()
        yield Core(
            metrics=metrics,
            traces=traces,
            clock=clock,
            spool=spool,
            decoders=decoders,
            segmenter=segmenter,
            admission=admission,
            journal=Journal(metrics=metrics, clock=clock, traces=traces, usage=admission.usage),
            pipeline=pipeline,
        )


@asynccontextmanager
async def build_front(settings: Settings, *, make_predictor: MakePredictor | None = None) -> AsyncIterator[Front]:
    """A front whose servers are built and not yet listening; the model loads in the background."""
    async with AsyncExitStack() as stack:
        core = await stack.enter_async_context(build_core(settings, make_predictor=make_predictor))
        keys = ApiKeys(settings.api_keys_file)
        authenticate = keys.check
        probes = _probes(core)
        links = None if settings.redis_url is None else redis_links(settings, stack)
        base = Base(core.pipeline, core.segmenter, core.spool, core.journal, core.metrics, keys.caller_of)
        side = build_job_side(settings, base, links, stack)
        parts = _rest_parts(settings, core, side, authenticate, probes)
        routers = [build_jobs_router(JobRouteParts(parts, side.jobs, side.idempotency))]
        if settings.bench_routes:
            routers.append(build_bench_router(parts, await _start_accelerator(settings, core, stack)))
        app = create_app(parts, version=service_version(), routers=routers, edge=edge_policy(settings))
        http = HttpServer(app, server_policy(settings))
        stack.push_async_callback(http.stop)
        grpc = build_server(_grpc_parts(settings, core, side.answering, authenticate, probes), grpc_policy(settings))
        stack.push_async_callback(grpc.aclose)
        listening = asyncio.Event()
        warming = asyncio.create_task(_warm_up(core, side.runner, listening), name="warm-up")
        stack.callback(warming.cancel)
        yield Front(settings, core, side.runner, http, grpc, warming, listening)


async def _start_accelerator(settings: Settings, core: Core, stack: AsyncExitStack) -> BenchAccelerator:
    accelerator = BenchAccelerator(
        batch_s=settings.bench_batch_ms / 1000,
        item_s=settings.bench_item_ms / 1000,
        max_batch=settings.max_batch or DEFAULT_MAX_BATCH,
        metrics=core.metrics,
        clock=core.clock,
    )
    stack.push_async_callback(accelerator.aclose)
    await accelerator.start()
    return accelerator


async def _listening(starting: Awaitable[int], host: str, port: int, *, option: str) -> int:
    try:
        return await starting
    except OSError as error:
        reason = f" ({error.strerror})" if error.strerror else ""
        raise ListenError(f"cannot listen on {host}:{port}{reason}; choose another port with {option}") from error


async def _warm_up(core: Core, jobs: JobRunner, listening: asyncio.Event) -> None:
    await listening.wait()
    await core.segmenter.start()
    model = await core.segmenter.describe()
    core.metrics.build_info.labels(version=service_version(), variant=model.variant, checkpoint=model.checkpoint).set(1)
    jobs.start()


def _probes(core: Core) -> Probes:
    def unready() -> ServiceError | None:
        if core.admission.is_draining:
            return ServiceError("draining", "This server is shutting down.")
        if core.spool.failure() is not None:
            return ServiceError("backend_down", "Uploads cannot be stored: the spool is full or not writable.")
        if not core.decoders.is_healthy():
            return ServiceError("backend_down", "The decoders are being started again.")
        if not core.segmenter.is_healthy():
            return ServiceError("backend_down", "The compute device does not answer.")
        if not core.segmenter.is_ready():
            return ServiceError("warming_up", "The model is being loaded.")
        return None

    async def describe_version() -> Mapping[str, object]:
        model = None
        if core.segmenter.is_ready():
            info = await core.segmenter.describe()
            model = {"variant": info.variant, "checkpoint": info.checkpoint, "labels": list(info.labels)}
        return {
            "service": service_version(),
            "python": platform.python_version(),
            "model": model,
            "media": core.decoders.features(),
        }

    return Probes(
        unready=unready,
        is_alive=core.segmenter.is_healthy,
        describe_version=describe_version,
        metrics=core.metrics,
    )


def _rest_parts(
    settings: Settings,
    core: Core,
    side: JobSide,
    authenticate: Authenticate,
    probes: Probes,
) -> RestParts:
    return RestParts(
        policy=rest_policy(settings),
        answering=side.answering,
        idempotent_answering=side.idempotent_answering,
        admission=core.admission,
        journal=core.journal,
        spool=core.spool,
        clock=core.clock,
        authenticate=authenticate,
        probes=probes,
    )


def _grpc_parts(
    settings: Settings,
    core: Core,
    answering: Answering,
    authenticate: Authenticate,
    probes: Probes,
) -> GrpcParts:
    policy = LivePolicy(max_pixels=settings.max_pixels)
    return GrpcParts(
        admission=core.admission,
        journal=core.journal,
        pipeline=answering,
        spool=core.spool,
        segmenter=core.segmenter,
        live=LiveStreams(
            segmenter=core.segmenter,
            decoders=core.decoders,
            policy=policy,
            clock=core.clock,
            usage=core.admission.usage,
        ),
        authenticate=authenticate,
        clock=core.clock,
        is_ready=lambda: probes.unready() is None,
    )


def _build_segmenter(
    settings: Settings,
    stack: AsyncExitStack,
    make_predictor: MakePredictor | None,
    *,
    metrics: Metrics,
    clock: Clock,
    traces: Traces,
) -> Segmenter:
    """This process's device, or workers across Redis where one is named."""
    if settings.redis_url is None:
        return LocalSegmenter(
            make_predictor or predictor_maker(settings),
            batch_policy(settings),
            metrics=metrics,
            clock=clock,
            traces=traces,
        )
    jobs, data = redis_links(settings, stack)
    policy = RedisSegmenterPolicy(max_outstanding_bytes=settings.redis_max_bytes)
    return RedisSegmenter(jobs, data, policy, metrics=metrics, clock=clock)


def build_traces(settings: Settings, stack: AsyncExitStack, *, service: str, clock: Clock) -> Traces:
    """Where spans go, closed with the stack; the OpenTelemetry SDK is imported only where a collector is named.

    It has a thread of its own, so a front asks for it when its decoders have been started.
    """
    if settings.otlp_endpoint is None:
        return NO_TRACES
    from service.telemetry.otlp import OtlpTraces

    traces = OtlpTraces(settings.otlp_endpoint, service=service, version=service_version(), clock=clock)
    stack.push_async_callback(traces.aclose)
    return traces


def redis_links(settings: Settings, stack: AsyncExitStack) -> tuple[RedisLink, RedisLink]:
    """The Redis of jobs and keys and that of chunks, closed with the stack; nothing is connected yet."""
    assert settings.redis_url is not None, "asked only where Redis is used"
    urls = (settings.redis_url, settings.redis_data_url or settings.redis_url)
    jobs, data = (RedisLink(url.get_secret_value(), clock=time.monotonic) for url in urls)
    stack.push_async_callback(jobs.aclose)
    stack.push_async_callback(data.aclose)
    return jobs, data
