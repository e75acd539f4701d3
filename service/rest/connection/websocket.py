"""WebSocket connections: which request heads switch to one, and uvicorn's protocol with our logging."""

from __future__ import annotations

import logging
import re
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

# uvicorn logs every connection at INFO, and its own faults at ERROR.
_uvicorn_logger = logging.getLogger("uvicorn.websocket")
_uvicorn_logger.setLevel(logging.ERROR)
# Only /live accepts WebSockets, under any prefix of a proxy; elsewhere an offer to upgrade is ignored.
_LIVE_TARGET = re.compile(rb"GET (?:/[^ ?]*)?/live/?(?:\?[^ ]*)? HTTP/1\.1\r?\n")
_UPGRADE = re.compile(rb"(?i)\nupgrade[ \t]*:[ \t]*websocket[ \t]*\r?\n")
# Seconds after which dead connections are noticed: ping interval and wait for the pong.
PING_INTERVAL_S = 20.0
PING_TIMEOUT_S = 20.0


def is_websocket_request(head: bytes) -> bool:
    """Return whether a request head opens the WebSocket /live."""
    return bool(_LIVE_TARGET.match(head)) and bool(_UPGRADE.search(head))


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """A connection after its switch.

    Reading pauses while the application has a message to take, so what waits is bounded by one read of the socket and
    one message. A message over `Config.ws_max_size` closes the connection with code 1009.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _uvicorn_logger

    async def run_asgi(self) -> None:
        """Run the application with header names in lower case, as ASGI requires; uvicorn 0.54 omits this here."""
        self.scope["headers"] = [(name.lower(), value) for name, value in self.scope["headers"]]
        await super().run_asgi()
