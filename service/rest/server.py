"""The HTTP server: uvicorn without its signal handlers; the command line owns signals, this file the socket."""

from __future__ import annotations

import asyncio
import functools
import socket
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from service.rest.protocol import BoundedProtocol, ConnectionPolicy

_BACKLOG = 1024
_KEEP_ALIVE_S = 75.0
"""Over the 60 s that load balancers keep idle connections, so that they close first."""
_CLOSING_S = 5.0
"""What connections get after the drain to send what is already in their buffers."""


@dataclass(frozen=True, slots=True)
class ServerPolicy:
    """Where to listen. `tls_cert` and `tls_key` go together."""

    host: str
    port: int
    tls_cert: Path | None = None
    tls_key: Path | None = None
    connections: ConnectionPolicy = field(default_factory=ConnectionPolicy)


class HttpServer:
    """Listens from `start` to `stop`; draining is the admission's affair."""

    def __init__(self, app: ASGIApp, policy: ServerPolicy) -> None:
        self._policy = policy
        config = uvicorn.Config(
            app,
            http=functools.partial(BoundedProtocol, policy=policy.connections),  # type: ignore[arg-type]  # a factory
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=int(_KEEP_ALIVE_S),
            timeout_graceful_shutdown=int(_CLOSING_S),
            ssl_certfile=policy.tls_cert,
            ssl_keyfile=policy.tls_key,
        )
        config.load()
        self._server = uvicorn.Server(config)
        self._server.lifespan = config.lifespan_class(config)
        self._listener: socket.socket | None = None
        self._ticking: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Bind and listen; returns the port. Raises OSError when the address cannot be had."""
        self._listener = bind(self._policy.host, self._policy.port)
        await self._server.startup(sockets=[self._listener])
        self._ticking = asyncio.create_task(self._server.main_loop(), name="http server")
        port: int = self._listener.getsockname()[1]
        return port

    async def stop(self) -> None:
        """Close the listener, let connections send what they have, close them."""
        if self._ticking is None or self._listener is None:
            return
        self._server.should_exit = True
        await self._ticking
        await self._server.shutdown(sockets=[self._listener])
        self._ticking = self._listener = None


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
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener
