"""The transport of a connection as uvicorn sees it: heads and bodies leave together, and closing is gentle."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

_HEAD = b"HTTP/1.1 "


class GentleClosing(Protocol):
    """The protocol that owns the transport."""

    @property
    def is_lingering(self) -> bool:
        """Whether the answer is sent and the rest of the request is being discarded."""
        ...

    def close_gently(self) -> None:
        """Close, letting the client read the answer first."""
        ...


class GentleTransport:
    """The connection's transport with `write`, `close` and `is_closing` of its own.

    uvicorn writes the head of an answer apart from the body. Each write to a socket wakes the client, and on a busy
    machine the kernel may run the client or another process before this one goes on. A head therefore waits for what
    is written next, at most until the event loop's next round.

    Args:
        transport: of the socket.
        protocol: closes and lingers.
        loop: the running event loop.
    """

    def __init__(
        self, transport: asyncio.Transport, protocol: GentleClosing, *, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._transport = transport
        self._protocol = protocol
        self._loop = loop
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write data behind the head that waits; a head waits itself."""
        if not self._head and data.startswith(_HEAD):
            self._head = data
            self._loop.call_soon(self.flush)
            return
        head, self._head = self._head, b""
        self._transport.write(head + data)

    def flush(self) -> None:
        """Write the head that waits, if there is one."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        """Close, letting the client read the answer first."""
        self.flush()
        self._protocol.close_gently()

    def is_closing(self) -> bool:
        """Whether the connection takes no more requests."""
        return self._protocol.is_lingering or self._transport.is_closing()
