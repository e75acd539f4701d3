"""The service's end of one child's socket: whole messages, read with bounds, without reading ahead."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from service.media import framing
from service.media.decoders.zygote_link import Child, ZygoteLink
from service.media.framing import FrameSize, ProtocolError


class ChildGoneError(Exception):
    """The child closed its socket without having said why."""


class Channel:
    """Messages of one child. Only the kernel's socket buffer is read ahead, so an idle reader holds the child up."""

    def __init__(self, link: ZygoteLink, child: Child, connection: socket.socket) -> None:
        self._link = link
        self.child = child
        self._connection = connection
        self._is_closed = False

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self.child.spawned.result()

    async def receive(self, size: FrameSize) -> tuple[int, bytearray]:
        """The next message: kind and body.

        Raises:
            ChildGoneError: the socket has ended.
            ProtocolError: there is no such kind, or its body is too long.
        """
        kind, length = framing.HEADER.unpack(await self._read_exactly(framing.HEADER.size))
        if length > framing.max_body_bytes(kind, size):
            raise ProtocolError("length")
        return kind, await self._read_exactly(length)

    async def send(self, data: bytes) -> None:
        """Send all of the data."""
        try:
            await asyncio.get_running_loop().sock_sendall(self._connection, data)
        except OSError:
            raise ChildGoneError from None

    def close(self, *, then: Callable[[], None] | None = None) -> None:
        """End the child; `then` is called once its end has been seen."""
        if not self._is_closed:
            self._is_closed = True
            self._connection.close()
            self._link.kill(self.child)
        if then is not None:
            if self.child.exited.done():
                then()
            else:
                self.child.on_exit.append(then)

    async def _read_exactly(self, num_bytes: int) -> bytearray:
        data = bytearray(num_bytes)
        view = memoryview(data)
        loop = asyncio.get_running_loop()
        while view:
            try:
                count = await loop.sock_recv_into(self._connection, view)
            except OSError:
                raise ChildGoneError from None
            if not count:
                raise ChildGoneError
            view = view[count:]
        return data
