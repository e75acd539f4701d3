"""A real front on free loopback ports in the test's own loop: both servers, real decoders, the given predictor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from service.aio.tasks import end_tasks
from service.cli.front import drain, listen, warm_up
from service.core.live import LiveStreams
from service.core.live_frames import LivePolicy
from service.domain.caller import ANONYMOUS
from service.outbound.fetch import Fetcher, FetchPolicy
from service.ports import Answering, Predictor
from service.predictors.fake import FakePredictor
from service.rest.app import create_app
from service.rest.connection.server import HttpServer, ServerPolicy
from service.rest.live import LiveRouteParts, build_live_router
from service.rest.parts import Probes, RestParts, RestPolicy
from service.rpc.server import GrpcParts, GrpcPolicy, build_server
from service.rpc.servicer import ServicerPolicy
from service.settings import Settings
from service.wiring.front import Front, build_front


@dataclass(frozen=True)
class RunningFront:
    """A front and where it listens."""

    front: Front
    http_port: int
    grpc_port: int
    warming: asyncio.Task[None]

    async def drain(self) -> None:
        """Refuse new work and wait for what runs."""
        await drain(self.front, asyncio.Event())

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def grpc_target(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"


@asynccontextmanager
async def running_front(
    *, make_predictor: Callable[[], Predictor] = FakePredictor, is_warm: bool = True, **settings: object
) -> AsyncIterator[RunningFront]:
    """Start a front that keeps no answers; `settings` are fields of Settings.

    With `is_warm` it is ready when this returns.
    """
    chosen = {"port": 0, "grpc_port": 0, "decode_processes": 2, "max_batch": 8, "cache_bytes": 0, **settings}
    async with build_front(Settings(**chosen), make_predictor=make_predictor) as front:  # type: ignore[arg-type]
        http_port, grpc_port = await listen(front)
        warming = asyncio.create_task(warm_up(front))
        try:
            if is_warm:
                await warming
            yield RunningFront(front, http_port, grpc_port, warming)
        finally:
            await end_tasks([warming])


@asynccontextmanager
async def beside(
    running: RunningFront,
    *,
    answering: Answering | None = None,
    stall_s: float = 30.0,
    idle_s: float = 30.0,
    **connection: Any,
) -> AsyncIterator[RunningFront]:
    """Both servers once more on the same core, with another pipeline, other patience or other bounds on connections.

    `stall_s` is for readers that read nothing, `idle_s` for live clients that send nothing; `connection` are fields of
    GrpcPolicy.
    """
    core = running.front.core
    chosen = answering or core.pipeline
    probes = Probes(unready=lambda: None, is_alive=lambda: True, describe_version=_version, metrics=core.metrics)
    policy = RestPolicy(
        max_upload_bytes=10**8,
        max_answer_bytes=10**8,
        request_timeout_s=120.0,
        upload_min_bytes_per_s=0,
        stall_s=stall_s,
    )
    shared: dict[str, Any] = {
        "admission": core.admission,
        "request_log": core.request_log,
        "spool": core.spool,
        "clock": core.clock,
        "authenticate": lambda authorization: ANONYMOUS,
    }
    rest = RestParts(
        policy=policy,
        answering=chosen,
        idempotent_answering=chosen,
        probes=probes,
        draw=core.decoders.draw,
        fetch=Fetcher(FetchPolicy(), clock=core.clock),
        **shared,
    )
    live_policy = LivePolicy(max_pixels=10**7, idle_s=idle_s)
    live = LiveStreams(segmenter=core.segmenter, decoders=core.decoders, policy=live_policy, clock=core.clock)
    app = create_app(rest, version="test", routers=[build_live_router(LiveRouteParts(rest, live))])
    http = HttpServer(app, ServerPolicy("127.0.0.1", 0))
    grpc_parts = GrpcParts(pipeline=chosen, segmenter=core.segmenter, live=live, is_ready=lambda: True, **shared)
    servicer = ServicerPolicy(max_upload_bytes=10**8, upload_min_bytes_per_s=0, stall_s=stall_s)
    grpc = build_server(grpc_parts, GrpcPolicy("127.0.0.1", 0, servicer, **connection))
    try:
        yield RunningFront(running.front, await http.start(), await grpc.start(), running.warming)
    finally:
        await grpc.aclose()
        await http.stop()


async def _version() -> Mapping[str, object]:
    return {"service": "test"}
