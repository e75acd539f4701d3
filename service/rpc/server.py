"""The gRPC server: our service, health and reflection on one port and one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from service.codec.protobuf import MAX_MESSAGE_BYTES
from service.core.admission import Admission
from service.core.api_keys import Authenticate
from service.core.live import LiveStreams
from service.core.request_log import RequestLog
from service.domain.deadline import Clock
from service.media.spool import Spool
from service.ports import Answering, Segmenter
from service.rpc.calls import Calls
from service.rpc.malformed import MalformedMessages
from service.rpc.pb.avesformer.v1 import segmentation_pb2
from service.rpc.pb.avesformer.v1.segmentation_pb2_grpc import add_SegmentationServicer_to_server
from service.rpc.reflection import enable_reflection
from service.rpc.servicer import Servicer, ServicerParts, ServicerPolicy

SERVICE_NAME = segmentation_pb2.DESCRIPTOR.services_by_name["Segmentation"].full_name
# Seconds between checks, so that health follows readiness within a quarter of a second. A check is a few attribute
# reads.
_READY_POLL_S = 0.25
# Seconds for answers that are already written, and for health watchers, which never end by themselves.
_CLOSE_GRACE_S = 1.0


@dataclass(frozen=True, slots=True)
class TlsPair:
    """PEM bytes of the certificate chain and of its private key."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class GrpcPolicy:
    """Address and limits of the server; port 0 takes any free port.

    A connection beyond `max_connections` is closed at once. One that does not finish its handshake is closed after
    `handshake_timeout_s`.
    """

    host: str
    port: int
    servicer: ServicerPolicy
    tls: TlsPair | None = None
    max_connections: int = 1024
    handshake_timeout_s: float = 10.0
    max_streams_per_connection: int = 100
    max_metadata_bytes: int = 16 * 1024
    keepalive_s: float = 60.0
    keepalive_timeout_s: float = 20.0
    min_client_ping_s: float = 10.0
    max_connection_idle_s: float = 300.0
    max_connection_age_s: float = 3600.0

    def channel_options(self) -> list[tuple[str, int]]:
        """Return the options of gRPC core. A connection that is too old gets a GOAWAY; its running calls may finish."""
        return [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_allowed_incoming_connections", self.max_connections),
            ("grpc.server_handshake_timeout_ms", int(self.handshake_timeout_s * 1000)),
            ("grpc.max_concurrent_streams", self.max_streams_per_connection),
            ("grpc.max_metadata_size", self.max_metadata_bytes),
            ("grpc.keepalive_time_ms", int(self.keepalive_s * 1000)),
            ("grpc.keepalive_timeout_ms", int(self.keepalive_timeout_s * 1000)),
            # ends a connection whose ping stays unanswered; core 1.85 waits a minute if only the other is set
            ("grpc.http2.ping_timeout_ms", int(self.keepalive_timeout_s * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", int(self.min_client_ping_s * 1000)),
            ("grpc.max_connection_idle_ms", int(self.max_connection_idle_s * 1000)),
            ("grpc.max_connection_age_ms", int(self.max_connection_age_s * 1000)),
            ("grpc.so_reuseport", 0),
        ]


@dataclass(frozen=True, slots=True)
class GrpcParts:
    """Parts of the front; owned and closed by whoever builds it."""

    admission: Admission
    request_log: RequestLog
    pipeline: Answering
    spool: Spool
    segmenter: Segmenter
    live: LiveStreams
    authenticate: Authenticate
    clock: Clock
    is_ready: Callable[[], bool]


class GrpcServer:
    """The running front. Order at the end: `start_draining`, wait for the admission to be idle, `aclose`."""

    def __init__(
        self, servicer: Servicer, policy: GrpcPolicy, *, live: LiveStreams, is_ready: Callable[[], bool]
    ) -> None:
        self._servicer = servicer
        self._policy = policy
        self._live = live
        self._is_ready = is_ready
        self._health = HealthServicer()
        self._server: aio.Server | None = None
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Listen and return the port. Raises OSError if the address cannot be bound or the TLS files do not match."""
        server = aio.server(interceptors=[MalformedMessages()], options=self._policy.channel_options())
        add_SegmentationServicer_to_server(self._servicer, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        enable_reflection((SERVICE_NAME, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name), server)
        await self._tell_health(self._is_ready())
        port = self._bind(server)
        await server.start()
        self._server = server
        self._following = asyncio.create_task(self._follow_readiness(), name="grpc health")
        return port

    async def start_draining(self) -> None:
        """Report NOT_SERVING, then end live streams after their started frames. Calls in progress continue."""
        await self._health.enter_graceful_shutdown()
        self._live.start_draining()

    async def aclose(self) -> None:
        """Stop listening and end the remaining calls. Idempotent."""
        following, self._following = self._following, None
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        server, self._server = self._server, None
        if server is not None:
            await server.stop(_CLOSE_GRACE_S)

    def _bind(self, server: aio.Server) -> int:
        host = f"[{self._policy.host}]" if ":" in self._policy.host else self._policy.host
        address = f"{host}:{self._policy.port}"
        try:
            if self._policy.tls is None:
                return server.add_insecure_port(address)
            pair = (self._policy.tls.key, self._policy.tls.certificate)
            return server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        except RuntimeError:
            raise OSError(f"gRPC cannot listen on {address}: the port is taken, or the TLS files do not fit.") from None

    async def _follow_readiness(self) -> None:
        is_serving = self._is_ready()
        await self._tell_health(is_serving)
        while True:
            await asyncio.sleep(_READY_POLL_S)
            if self._is_ready() != is_serving:
                is_serving = not is_serving
                await self._tell_health(is_serving)

    async def _tell_health(self, is_ready: bool) -> None:
        serving = health_pb2.HealthCheckResponse.SERVING if is_ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", SERVICE_NAME):
            await self._health.set(name, serving)


def build_server(parts: GrpcParts, policy: GrpcPolicy) -> GrpcServer:
    """Build the front; nothing runs before `start`."""
    servicer_parts = ServicerParts(
        calls=Calls(request_log=parts.request_log, authenticate=parts.authenticate, clock=parts.clock),
        admission=parts.admission,
        pipeline=parts.pipeline,
        spool=parts.spool,
        segmenter=parts.segmenter,
        live=parts.live,
        clock=parts.clock,
    )
    servicer = Servicer(servicer_parts, policy.servicer)
    return GrpcServer(servicer, policy, live=parts.live, is_ready=parts.is_ready)
