"""WebSocket connections: which request heads switch to one, and uvicorn's protocol with our logging."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

from starlette.types import Scope
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

# Messages that uvicorn logs as its own errors, but that any client can cause: a refused connection, and bad text.
_CLIENT_FAULTS = ("ASGI callable returned without completing handshake", "Invalid UTF-8 sequence received")
# uvicorn logs every connection at INFO, and its own faults at ERROR.
_uvicorn_logger = logging.getLogger("uvicorn.websocket")
_uvicorn_logger.setLevel(logging.ERROR)
_uvicorn_logger.addFilter(lambda record: not str(record.msg).startswith(_CLIENT_FAULTS))
# Key of the connection in the ASGI scope's extensions.
_CONNECTION_KEY = "avesformer.websocket"
# Only /live accepts WebSockets, under any prefix of a proxy; elsewhere an offer to upgrade is ignored.
_LIVE_TARGET = re.compile(rb"GET (?:/[^ ?]*)?/live/?(?:\?[^ ]*)? HTTP/1\.1\r?\n")
_UPGRADE = re.compile(rb"(?i)\nupgrade[ \t]*:[ \t]*websocket[ \t]*\r?\n")
# Seconds after which dead connections are noticed: ping interval and wait for the pong.
PING_INTERVAL_S = 20.0
PING_TIMEOUT_S = 20.0
# Seconds that a client may take for what was written before the close; the connection is then dropped.
LAST_BYTES_S = 30.0
# Bytes that are parsed at a time. A frame takes at least 6 of them, and about 10 us.
_SLICE_BYTES = 4096
# Seconds of parsing after which the event loop is left to others, and how many times as long it is left to them.
_TURN_S = 0.002
_REST = 4.0


def is_websocket_request(head: bytes) -> bool:
    """Return whether a request head opens the WebSocket /live."""
    return bool(_LIVE_TARGET.match(head)) and bool(_UPGRADE.search(head))


def note_stream(scope: Scope) -> None:
    """Note that the stream of a WebSocket was admitted; does nothing under a server other than ours."""
    connection: WebSocketProtocol | None = scope.get("extensions", {}).get(_CONNECTION_KEY)
    if connection is not None:
        connection.note_stream()


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """A connection after its switch, with the bounds that uvicorn lacks.

    Reading pauses while the application has a message to take, so what waits is bounded by one read of the socket and
    one message. A message over `Config.ws_max_size` closes the connection with code 1009. Small frames are parsed in
    turns, because one read of the socket can hold 40 000 of them. To a client that pings and does not read, only the
    latest pongs are kept. A connection that is being closed is dropped after `LAST_BYTES_S`, because a client that
    does not read would keep it for good.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _uvicorn_logger
        self._opened_at_s = self.loop.time()
        self._has_stream = False
        self._unparsed = bytearray()
        self._parsing: asyncio.TimerHandle | None = None
        self._pongs = b""
        self._dropping: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Add what came, and parse for one turn unless a turn is due later."""
        self._unparsed += data
        if self._parsing is None:
            self._parse()
        else:
            self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection, which an eviction may have done already."""
        for timer in (self._parsing, self._dropping):
            if timer is not None:
                timer.cancel()
        self._unparsed.clear()
        self.connections.add(self)
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        """Send the latest pongs and go on."""
        super().resume_writing()
        pongs, self._pongs = self._pongs, b""
        if pongs and not self.transport.is_closing():
            self.transport.write(pongs)

    def handle_ping(self) -> None:
        """Answer the pings of one slice. While the client does not read, later pongs replace earlier ones."""
        pongs = b"".join(self.conn.data_to_send())
        if not pongs:  # sent with those of an earlier ping of the slice
            return
        if self.writable.is_set():
            self.transport.write(pongs)
        else:
            self._pongs = pongs

    def keepalive_timeout(self) -> None:
        """Close the connection of a client that answers no ping."""
        self._drop_later()
        super().keepalive_timeout()

    def shutdown(self) -> None:
        """Close the connection."""
        self._drop_later()
        super().shutdown()

    async def send(self, message: ASGISendEvent) -> None:
        """Send a message of the application, which waits while the client does not read."""
        if message["type"] == "websocket.close":
            self._drop_later()
        await super().send(message)

    @property
    def eviction_rank(self) -> tuple[int, float] | None:
        """Order in which connections are evicted; None while a stream is inside. See `BoundedProtocol.eviction_rank`.

        Who has not sent options yet may be anyone, since the key may come with them.
        """
        return None if self._has_stream else (1, self._opened_at_s)

    def evict(self) -> None:
        """Drop the connection to make room for another one."""
        self.transport.abort()

    def note_stream(self) -> None:
        """Keep the connection from being evicted, because its stream was admitted."""
        self._has_stream = True

    def _parse(self) -> None:
        """Parse slices for one turn; with more to parse, rest and stop reading meanwhile."""
        self._parsing = None
        since_s = self.loop.time()
        while self._unparsed and not self.transport.is_closing():
            piece = bytes(self._unparsed[:_SLICE_BYTES])
            del self._unparsed[:_SLICE_BYTES]
            super().data_received(piece)
            spent_s = self.loop.time() - since_s
            if self._unparsed and spent_s >= _TURN_S:
                self.transport.pause_reading()
                self._parsing = self.loop.call_later(_REST * spent_s, self._parse)
                return
        if self.transport.is_closing():
            self._unparsed.clear()
            self._drop_later()
        elif not self.read_paused:
            self.transport.resume_reading()

    def _drop_later(self) -> None:
        if self._dropping is None and not self.disconnected:
            self._dropping = self.loop.call_later(LAST_BYTES_S, self.transport.abort)

    async def run_asgi(self) -> None:
        """Run the application with header names in lower case, as ASGI requires; uvicorn 0.54 omits this here."""
        self.scope.setdefault("extensions", {})[_CONNECTION_KEY] = self  # type: ignore[assignment]  # an object, not a mapping
        self.scope["headers"] = [(name.lower(), value) for name, value in self.scope["headers"]]
        await super().run_asgi()
        self._drop_later()
