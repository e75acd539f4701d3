"""WebSocket connections: which request heads switch to one, and uvicorn's protocol with our logging."""

from __future__ import annotations

import logging
import re
from typing import Any

from starlette.types import Scope
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


def is_websocket_request(head: bytes) -> bool:
    """Return whether a request head opens the WebSocket /live."""
    return bool(_LIVE_TARGET.match(head)) and bool(_UPGRADE.search(head))


def note_stream(scope: Scope) -> None:
    """Note that the stream of a WebSocket was admitted; does nothing under a server other than ours."""
    connection: WebSocketProtocol | None = scope.get("extensions", {}).get(_CONNECTION_KEY)
    if connection is not None:
        connection.note_stream()


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """A connection after its switch.

    Reading pauses while the application has a message to take, so what waits is bounded by one read of the socket and
    one message. A message over `Config.ws_max_size` closes the connection with code 1009.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _uvicorn_logger
        self._opened_at_s = self.loop.time()
        self._has_stream = False

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection, which an eviction may have done already."""
        self.connections.add(self)
        super().connection_lost(exc)

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

    async def run_asgi(self) -> None:
        """Run the application with header names in lower case, as ASGI requires; uvicorn 0.54 omits this here."""
        self.scope.setdefault("extensions", {})[_CONNECTION_KEY] = self  # type: ignore[assignment]  # an object, not a mapping
        self.scope["headers"] = [(name.lower(), value) for name, value in self.scope["headers"]]
        await super().run_asgi()
