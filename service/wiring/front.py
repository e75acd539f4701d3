"""Build a front process from the settings. Components are closed in reverse order.

The decoders' zygote is spawned first, before the process has threads or a device. At the end the listeners close
before the device, and the device before the decoders.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from service.batching.emulated import DEFAULT_MAX_BATCH, BenchAccelerator
from service.core.api_keys import ApiKeys, Authenticate
from service.core.live import LiveStreams
from service.core.live_frames import LivePolicy
from service.domain.errors import ServiceError
from service.jobs.runner import JobRunner
from service.outbound.fetch import Fetcher
from service.ports import Answering
from service.rest.app import create_app
from service.rest.bench import build_bench_router
from service.rest.connection.server import HttpServer
from service.rest.jobs.parts import JobRouteParts
from service.rest.jobs.routes import build_jobs_router
from service.rest.live import LiveRouteParts, build_live_router
from service.rest.parts import Probes, RestParts
from service.rpc.server import GrpcParts, GrpcServer, build_server
from service.settings import Settings
from service.wiring.core import Core, build_core
from service.wiring.kept_work import KeptWork, build_kept_work
from service.wiring.links import redis_links
from service.wiring.policies import (
    edge_policy,
    fetch_policy,
    grpc_policy,
    rest_policy,
    server_policy,
)
from service.wiring.predictor import MakePredictor
from service.wiring.version import describe_version, service_version


@dataclass(frozen=True, slots=True)
class Front:
    """Components and servers of a front process. The servers do not listen yet; `service.cli.front` runs them."""

    settings: Settings
    core: Core
    jobs: JobRunner
    http: HttpServer
    grpc: GrpcServer


@asynccontextmanager
async def build_front(settings: Settings, *, make_predictor: MakePredictor | None = None) -> AsyncIterator[Front]:
    """Build a front. Its servers do not listen and the model is not loaded yet.

    Args:
        settings: effective settings.
        make_predictor: loads the model on the device thread; None loads the checkpoint named in the settings.
    """
    async with AsyncExitStack() as stack:
        core = await stack.enter_async_context(build_core(settings, make_predictor=make_predictor))
        keys = ApiKeys(settings.api_keys_file)
        authenticate = keys.check
        probes = _probes(core)
        links = None if settings.redis_url is None else redis_links(settings, stack)
        kept = build_kept_work(settings, core, links, stack, caller_of=keys.caller_of)
        parts = _rest_parts(settings, core, kept, authenticate, probes)
        live = _live_streams(settings, core)
        routers = [
            build_jobs_router(JobRouteParts(parts, kept.jobs, kept.idempotency)),
            build_live_router(LiveRouteParts(parts, live, edge_policy(settings).cors_origins)),
        ]
        if settings.bench_routes:
            routers.insert(0, build_bench_router(parts, await _start_accelerator(settings, core, stack)))
        app = create_app(parts, version=service_version(), routers=routers, edge=edge_policy(settings))
        http = HttpServer(app, server_policy(settings))
        stack.push_async_callback(http.stop)
        grpc = build_server(_grpc_parts(core, live, kept.answering, authenticate, probes), grpc_policy(settings))
        stack.push_async_callback(grpc.aclose)
        yield Front(settings, core, kept.runner, http, grpc)


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


def _probes(core: Core) -> Probes:
    def unready() -> ServiceError | None:
        if core.admission.is_draining:
            return ServiceError("draining", "This server is shutting down.")
        if core.spool.failure() is not None:
            return ServiceError("backend_down", "Uploads cannot be stored: the spool is full or not writable.")
        if not core.decoders.is_healthy():
            return ServiceError("backend_down", "The decoders are restarting.")
        if not core.segmenter.is_healthy():
            return ServiceError("backend_down", "The compute device does not answer.")
        if not core.segmenter.is_ready():
            return ServiceError("warming_up", "The model is being loaded.")
        return None

    async def describe() -> Mapping[str, object]:
        return {**await describe_version(core.segmenter), "media": core.decoders.features()}

    return Probes(
        unready=unready,
        is_alive=core.segmenter.is_healthy,
        describe_version=describe,
        metrics=core.metrics,
    )


def _rest_parts(
    settings: Settings,
    core: Core,
    kept: KeptWork,
    authenticate: Authenticate,
    probes: Probes,
) -> RestParts:
    return RestParts(
        policy=rest_policy(settings),
        answering=kept.answering,
        idempotent_answering=kept.idempotent_answering,
        admission=core.admission,
        request_log=core.request_log,
        spool=core.spool,
        draw=core.decoders.draw,
        fetch=Fetcher(fetch_policy(settings), clock=core.clock),
        clock=core.clock,
        authenticate=authenticate,
        probes=probes,
    )


def _live_streams(settings: Settings, core: Core) -> LiveStreams:
    return LiveStreams(
        segmenter=core.segmenter,
        decoders=core.decoders,
        policy=LivePolicy(max_pixels=settings.max_pixels),
        clock=core.clock,
        usage=core.admission.usage,
    )


def _grpc_parts(
    core: Core,
    live: LiveStreams,
    answering: Answering,
    authenticate: Authenticate,
    probes: Probes,
) -> GrpcParts:
    return GrpcParts(
        admission=core.admission,
        request_log=core.request_log,
        pipeline=answering,
        spool=core.spool,
        segmenter=core.segmenter,
        live=live,
        authenticate=authenticate,
        clock=core.clock,
        is_ready=lambda: probes.unready() is None,
    )
