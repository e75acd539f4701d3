"""The HTTP server: uvicorn's protocol on our own listener. The command line owns signals, this file the socket."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from service.aio.tasks import end_tasks
from service.aio.waits import ends_within
from service.codec.live_json import MAX_MESSAGE_BYTES
from service.domain.errors import ServiceError
from service.rest.connection.acceptor import Acceptor
from service.rest.connection.policy import ConnectionPolicy
from service.rest.connection.protocol import BoundedProtocol
from service.rest.connection.refusals import encoded_refusal
from service.rest.connection.websocket import PING_INTERVAL_S, PING_TIMEOUT_S

logger = logging.getLogger(__name__)

_BACKLOG = 1024
# Longer than the 60 s for which load balancers keep idle connections, so that they close first.
_KEEP_ALIVE_S = 75.0
# Seconds for connections to send what is in their buffers, after the drain.
_CLOSING_S = 5.0
_CLOSING_POLL_S = 0.05
_DATE_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class ServerPolicy:
    """Address and limits of the server. `tls_cert` and `tls_key` go together."""

    host: str
    port: int
    tls_cert: Path | None = None
    tls_key: Path | None = None
    connections: ConnectionPolicy = field(default_factory=ConnectionPolicy)


class HttpServer:
    """Listens from `start` to `stop`. Admission does the draining."""

    def __init__(self, app: ASGIApp, policy: ServerPolicy) -> None:
        self._policy = policy
        self._config = uvicorn.Config(
            app,
            ws="none",  # BoundedProtocol switches to WebSocketProtocol itself
            ws_max_size=MAX_MESSAGE_BYTES,
            ws_ping_interval=PING_INTERVAL_S,
            ws_ping_timeout=PING_TIMEOUT_S,
            ws_per_message_deflate=False,  # pictures do not compress, and a small message could inflate to a large one
            lifespan="off",
            loop="asyncio",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=int(_KEEP_ALIVE_S),
            ssl_certfile=policy.tls_cert,
            ssl_keyfile=policy.tls_key,
        )
        self._config.load()
        self._state = ServerState()
        self._listener: socket.socket | None = None
        self._acceptor: Acceptor | None = None
        self._dating: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Bind and listen; returns the port. Raises OSError if the address is not available."""
        self._listener = bind(self._policy.host, self._policy.port)
        make_protocol = functools.partial(
            BoundedProtocol,
            config=self._config,
            server_state=self._state,
            app_state={},
            policy=self._policy.connections,
        )
        self._acceptor = Acceptor(
            self._listener,
            make_protocol,
            tls=self._config.ssl,
            refusal=encoded_refusal(ServiceError("backend_down", "The server has no room for a connection now.")),
            clock=time.monotonic,
        )
        self._dating = asyncio.create_task(self._date(), name="http date")
        self._acceptor.start()
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def num_connections(self) -> int:
        """Connections that are open now."""
        return len(self._state.connections)

    async def stop(self) -> None:
        """Stop listening, let connections send their buffers, then close them. Idempotent."""
        if self._acceptor is None or self._listener is None or self._dating is None:
            return
        await self._acceptor.aclose()
        for connection in list(self._state.connections):
            connection.shutdown()
        if not await ends_within(_CLOSING_S, self._until_closed()):
            logger.warning("requests did not end in time", extra={"num_requests": len(self._state.tasks)})
            await end_tasks(list(self._state.tasks))
        await end_tasks([self._dating])
        self._acceptor = self._listener = self._dating = None

    async def _until_closed(self) -> None:
        while self._state.connections or self._state.tasks:  # noqa: ASYNC110 - uvicorn offers no event
            await asyncio.sleep(_CLOSING_POLL_S)

    async def _date(self) -> None:
        """Keep the `Date` header current."""
        while True:
            self._state.default_headers = [(b"date", formatdate(time.time(), usegmt=True).encode())]
            await asyncio.sleep(_DATE_EVERY_S)


def bind(host: str, port: int) -> socket.socket:
    """Return a non-blocking socket that listens on the address; raises OSError if the address cannot be bound."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    # asyncio sets TCP_NODELAY only on sockets whose protocol number is IPPROTO_TCP, and accepted sockets inherit the
    # listener's number. With the default number 0, Nagle's algorithm and the client's delayed acknowledgement add
    # 40 ms to each answer on a kept-alive connection.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # `::` accepts IPv4 too, as gRPC's listener does; a single IPv6 address accepts only IPv6.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener
