"""uvicorn's HTTP/1.1 protocol with the bounds it lacks: request framing, header time, connections, and a gentle close.

uvicorn 0.54 has no deadline for receiving a request, accepts heads and trailers of any size and parses any number of
pipelined requests ahead. Here the next request is parsed when the answer to the previous one is complete.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.domain.errors import ServiceError
from service.rest.connection.answer_transport import GentleTransport
from service.rest.connection.eviction import evict_one
from service.rest.connection.framing import Piece, RequestSplitter
from service.rest.connection.policy import PROBE_PATHS, ConnectionPolicy
from service.rest.connection.refusals import encoded_refusal, host_error, refusing_app, too_many_connections
from service.rest.connection.send_buffers import bound_writes, num_unread_bytes
from service.rest.connection.websocket import WebSocketProtocol

# Key of the connection in the ASGI scope's extensions.
_CONNECTION_KEY = "avesformer.connection"
# Bytes of pipelined requests that may wait for the answer in progress. Reading is paused long before.
_MAX_WAITING_BYTES = 1024**2


def connection_of(scope: Scope) -> BoundedProtocol | None:
    """Return the connection of a request; None under a server other than ours."""
    connection: BoundedProtocol | None = scope.get("extensions", {}).get(_CONNECTION_KEY)
    return connection


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, policy: ConnectionPolicy, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._policy = policy
        self._splitter = RequestSplitter(max_head_bytes=policy.max_head_bytes)
        self._socket_transport: asyncio.Transport | None = None
        self._has_head = False
        self._is_message_complete = True
        self._is_lingering = False
        self._is_reserved = False
        self._is_paused = False
        self._is_shutting_down = False
        self._idle_since_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Start the timeout of the first head; evict an idle connection if there are too many."""
        self._socket_transport = transport
        super().connection_made(GentleTransport(transport, self, loop=self.loop))  # type: ignore[arg-type]  # a proxy of one
        bound_writes(transport, self._policy)
        self._idle_since_s = self.loop.time()
        self._arm(self._policy.head_timeout_s)
        if len(self.connections) > self._policy.max_connections and not evict_one(self.connections, newcomer=self):
            self._is_reserved = True
            if len(self.connections) > self._policy.max_connections + self._policy.num_reserved:
                self._refuse(self._too_many_connections())

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timeout."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Add what came, then parse as far as the answers allow."""
        if self._is_lingering:
            return
        try:
            self._splitter.add(data)
        except ServiceError as error:
            self._refuse(error)
            return
        self._advance()

    def on_message_begin(self) -> None:
        """Put the connection into the request's scope, for the sender."""
        super().on_message_begin()
        self._has_head = self._is_message_complete = False
        self.scope["extensions"] = {_CONNECTION_KEY: self}  # type: ignore[dict-item]  # an object, not a mapping

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep headers; trailers are dropped."""
        if not self._has_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request, or its refusal."""
        self._has_head = True
        self._disarm()
        app = self.app
        error = self._head_error()
        if error is not None:
            self.app = refusing_app(error)
        super().on_headers_complete()
        self.app = app
        if self._is_reserved or self._is_shutting_down:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """What comes next is another head."""
        self._is_message_complete = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with the next request, if it is waiting."""
        super().on_response_complete()
        self._idle_since_s = self.loop.time()
        if self._splitter.num_waiting and self._splitter.is_between_requests:
            self._pause()
            self.loop.call_soon(self._advance)

    def shutdown(self) -> None:
        """Close when the answer in progress is complete; a connection without a request may still send one soon."""
        self._is_shutting_down = True
        if self.cycle is None and not self._is_closing:
            self._disarm()
            self._arm(self._policy.last_head_s)
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """A problem document where uvicorn would send plain text."""
        self._refuse(ServiceError("malformed_body", "This is not a well-formed HTTP/1.1 request."))

    def close_after_answer_if_body_is_open(self) -> None:
        """Announce and do `Connection: close` where the answer starts before the request's end."""
        if self.cycle is not None and self.cycle.more_body:
            self.cycle.keep_alive = False

    def is_congested(self) -> bool:
        """Whether a write would have to wait."""
        return self.flow.write_paused

    def num_unread_bytes(self) -> int:
        """Bytes in our buffer and in the kernel's that the client has not read."""
        return num_unread_bytes(self._socket_transport)

    def cut(self) -> None:
        """Drop the connection at once."""
        if self.cycle is not None:
            self.cycle.disconnected = True
        if self._socket_transport is not None:
            self._socket_transport.abort()

    def end_chunked(self, data: bytes, *, within_s: float) -> None:
        """Put the last piece of a chunked answer behind what waits, and drop the connection after `within_s`."""
        transport = self._socket_transport
        if transport is None or transport.is_closing() or self.cycle is None:
            return
        self.cycle.disconnected = True
        transport.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data))
        transport.close()
        self._disarm()
        self._timer = self.loop.call_later(within_s, transport.abort)

    @property
    def is_lingering(self) -> bool:
        """Whether the answer is sent and the rest of the request is being discarded."""
        return self._is_lingering

    @property
    def eviction_rank(self) -> tuple[int, float] | None:
        """Order in which connections are evicted, lowest first; None while a request is in progress.

        Answered connections come first, then those that never sent a head; within each, the one idle for longest.
        """
        if self._is_answering and not self._is_lingering:
            return None
        return (0 if self.cycle is not None else 1, self._idle_since_s)

    def evict(self) -> None:
        """Drop the connection to make room for another one."""
        if self._socket_transport is not None:
            self._socket_transport.abort()

    def close_gently(self) -> None:
        """Close; with a request still arriving, read and discard it for a while first."""
        transport = self._socket_transport
        if transport is None:
            return
        is_arriving = self._splitter.num_waiting or not self._splitter.is_between_requests
        if self._is_lingering or not is_arriving:
            transport.close()
            return
        self._linger(transport)

    def _linger(self, transport: asyncio.Transport) -> None:
        """Send the end of the answer, then read and discard what still comes until `linger_s` has passed."""
        self._is_lingering = True
        self.flow.resume_reading()
        if transport.can_write_eof():
            transport.write_eof()
        self._disarm()
        self._timer = self.loop.call_later(self._policy.linger_s, transport.abort)

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _is_closing(self) -> bool:
        return self._is_lingering or self._socket_transport is None or self._socket_transport.is_closing()

    def _advance(self) -> None:
        """Parse what has arrived, up to the head of the request after the one in progress."""
        while not self._is_closing:
            if self._splitter.is_between_requests and self._is_answering:
                if self._splitter.num_waiting > _MAX_WAITING_BYTES:
                    self.cut()
                elif self._splitter.num_waiting:
                    self._pause()
                return
            try:
                piece = self._splitter.take()
            except ServiceError as error:
                self._refuse(error)
                return
            if piece is None:
                break
            self._parse(piece)
        if self._is_closing:
            return
        if self._is_paused:
            self._is_paused = False
            self.flow.resume_reading()
        if self._timer is None and self._splitter.is_between_requests and self._splitter.num_waiting:
            self._arm(self._policy.head_timeout_s)

    def _pause(self) -> None:
        """Stop reading while a pipelined request waits."""
        self._is_paused = True
        self.flow.pause_reading()

    def _parse(self, piece: Piece) -> None:
        """Feed one piece to the parser, which must agree about where the message ends."""
        if piece.is_websocket:
            self._switch_to_websocket(piece.data)
            return
        super().data_received(piece.data)
        if self._is_closing:
            return
        if piece.is_head:
            if not self._has_head:
                self.send_400_response("")
            elif not self._is_message_complete:
                self._splitter.begin_body(self._declared_length())
        elif piece.ends_body != self._is_message_complete:
            self.send_400_response("")

    def _switch_to_websocket(self, head: bytes) -> None:
        """Hand the connection over with the head and what came behind it. A reserved connection is for probes only."""
        transport = self._socket_transport
        if transport is None or self._is_reserved:
            self._refuse(self._too_many_connections())
            return
        self._disarm()
        self._unset_keepalive_if_required()
        self.connections.discard(self)
        self._socket_transport = None
        following = WebSocketProtocol(self.config, self.server_state, self.app_state)
        following.connection_made(transport)
        transport.set_protocol(following)
        if self._is_paused:
            transport.resume_reading()
        following.data_received(head + self._splitter.take_rest())

    def _declared_length(self) -> int | None:
        """The Content-Length of the head just parsed; None for a chunked body. The parser has checked both."""
        for name, value in self.headers:
            if name == b"content-length":
                return int(value)
        return None

    def _head_error(self) -> ServiceError | None:
        error = host_error(self.headers, version=self.parser.get_http_version())
        is_over = self._is_reserved and len(self.connections) > self._policy.max_connections
        if error is None and is_over and self.url.partition(b"?")[0].decode("latin-1") not in PROBE_PATHS:
            return self._too_many_connections()
        return error

    def _too_many_connections(self) -> ServiceError:
        return too_many_connections(self._policy.max_connections)

    def _arm(self, timeout_s: float) -> None:
        self._timer = self.loop.call_later(timeout_s, self._on_head_timeout)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_head_timeout(self) -> None:
        self._timer = None
        if self._splitter.num_waiting:
            limit_s = self._policy.head_timeout_s
            self._refuse(ServiceError("slow_upload", f"The request's head did not arrive within {limit_s:g} s."))
        elif self._socket_transport is not None:
            self._socket_transport.close()

    def _refuse(self, error: ServiceError) -> None:
        """Answer outside any request, then close. An answer in progress is cut, one that is complete is left alone."""
        transport = self._socket_transport
        if transport is None or transport.is_closing() or self._is_lingering:
            return
        cycle = self.cycle
        if cycle is None or not cycle.response_started or (cycle.response_complete and self._is_message_complete):
            transport.write(encoded_refusal(error))
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        self._linger(transport)
