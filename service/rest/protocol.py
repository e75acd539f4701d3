"""uvicorn's HTTP/1.1 protocol with the bounds it lacks: header size and time, connections, and a gentle close.

uvicorn 0.54 has no deadline for receiving a request and takes headers of any size.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.domain.errors import ServiceError
from service.domain.request import accept_request_id
from service.rest.errors import Problem, send_problem
from service.rest.sender import CONNECTION_KEY


@dataclass(frozen=True, slots=True)
class ConnectionPolicy:
    """Bounds of connections. 64 KiB and 10 s for a head: what large proxies allow, a thousand times what is usual.

    `linger_s`: after an early answer the rest of the request's body is still taken and thrown away for this long, so
    that a client that sends before it reads sees the answer instead of a reset. `send_buffer_bytes`: what the kernel
    may hold of an answer; its own choice of up to 4 MiB a connection would hide for long that a reader stands still.
    """

    max_connections: int = 1024
    max_head_bytes: int = 64 * 1024
    head_timeout_s: float = 10.0
    linger_s: float = 10.0
    send_buffer_bytes: int = 256 * 1024


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, policy: ConnectionPolicy, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._policy = policy
        self._socket_transport: asyncio.Transport | None = None
        self._is_in_head = True
        self._is_lingering = False
        self._head_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Start the clock of the first head; refuse the connection if there are too many."""
        self._socket_transport = transport
        super().connection_made(_GentleTransport(transport, self))  # type: ignore[arg-type]  # a proxy of one
        plain = transport.get_extra_info("socket")
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._policy.send_buffer_bytes)
        self._arm(self._policy.head_timeout_s)
        if len(self.connections) > self._policy.max_connections:
            limit = self._policy.max_connections
            self._refuse(ServiceError("too_many_requests", f"All {limit} connections are taken; try again later."))

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head, then parse."""
        if self._is_lingering:
            return
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._timer is None:
                self._arm(self._policy.head_timeout_s)
        super().data_received(data)
        if self._is_in_head and self._head_bytes > self._policy.max_head_bytes and not self._is_lingering:
            self._refuse(self._head_too_large())

    def on_message_begin(self) -> None:
        """Put the connection into the request's scope, for the sender."""
        super().on_message_begin()
        self.scope["extensions"] = {CONNECTION_KEY: self}  # type: ignore[dict-item]  # an object, not a mapping

    def on_headers_complete(self) -> None:
        """The head is there: stop its clock and check its size."""
        self._is_in_head = False
        self._disarm()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        app = self.app
        if size > self._policy.max_head_bytes:
            self.app = _refusing(self._head_too_large())
        super().on_headers_complete()
        self.app = app

    def on_message_complete(self) -> None:
        """What comes next is another head."""
        super().on_message_complete()
        self._is_in_head = True
        self._head_bytes = 0

    def send_400_response(self, msg: str) -> None:
        """A problem document where uvicorn would send plain text."""
        self._refuse(ServiceError("malformed_body", "This is not a well-formed HTTP/1.1 request."))

    def is_congested(self) -> bool:
        """Whether a write would have to wait."""
        return self.flow.write_paused

    def num_unread_bytes(self) -> int:
        """Bytes in our buffer and in the kernel's that the client has not taken."""
        transport = self._socket_transport
        if transport is None or transport.is_closing():
            return 0
        waiting = transport.get_write_buffer_size()
        try:
            queued = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, b"\0" * 4)
        except OSError:
            return waiting
        return waiting + int(struct.unpack("i", queued)[0])

    def cut(self) -> None:
        """Drop the connection at once."""
        if self.cycle is not None:
            self.cycle.disconnected = True
        if self._socket_transport is not None:
            self._socket_transport.abort()

    @property
    def is_lingering(self) -> bool:
        """Whether the answer is out and the rest of the request is being thrown away."""
        return self._is_lingering

    def close_gently(self) -> None:
        """Close; with a body still on its way, take it for a while first."""
        transport = self._socket_transport
        if transport is None:
            return
        is_body_open = self.cycle is not None and self.cycle.more_body and not self._is_in_head
        if self._is_lingering or not (is_body_open or self._head_bytes):
            transport.close()
            return
        self._is_lingering = True
        self.flow.resume_reading()
        if transport.can_write_eof():
            transport.write_eof()
        self._disarm()
        self._timer = self.loop.call_later(self._policy.linger_s, transport.abort)

    def _head_too_large(self) -> ServiceError:
        limit = self._policy.max_head_bytes
        return ServiceError("headers_too_large", f"The request's head is over the limit of {limit} bytes.")

    def _arm(self, timeout_s: float) -> None:
        self._timer = self.loop.call_later(timeout_s, self._on_head_timeout)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_head_timeout(self) -> None:
        self._timer = None
        if self._head_bytes:
            limit_s = self._policy.head_timeout_s
            self._refuse(ServiceError("slow_upload", f"The request's head did not arrive within {limit_s:g} s."))
        elif self._socket_transport is not None:
            self._socket_transport.close()

    def _refuse(self, error: ServiceError) -> None:
        """Answer outside any request, then close."""
        transport = self._socket_transport
        if transport is None or transport.is_closing():
            return
        problem = Problem(error, accept_request_id(None))
        body = problem.encoded()
        headers = {
            **problem.headers(),
            "X-Request-ID": problem.request_id,
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
        head = "".join(f"{name.lower()}: {value}\r\n" for name, value in headers.items())
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            transport.write(STATUS_LINE[problem.status] + head.encode("latin-1") + b"\r\n" + body)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.close_gently()


class _GentleTransport:
    """The connection's transport with `close` and `is_closing` by way of the protocol."""

    def __init__(self, transport: asyncio.Transport, protocol: BoundedProtocol) -> None:
        self._transport = transport
        self._protocol = protocol

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        """Close, letting the client read the answer first."""
        self._protocol.close_gently()

    def is_closing(self) -> bool:
        """Whether the connection takes no more requests."""
        return self._protocol.is_lingering or self._transport.is_closing()


def _refusing(error: ServiceError) -> Any:
    """An ASGI application that answers everything with one problem."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        problem = Problem(error, accept_request_id(None))
        headers = {"X-Request-ID": problem.request_id}
        await send_problem(problem, send=send, extra_headers=headers, must_close=True)

    return app
