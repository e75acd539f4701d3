"""The service's end of one child's socket: whole messages with bounded sizes, read without reading ahead."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any

from service.aio.waits import ends_within
from service.media import framing
from service.media.decoders.zygote_link import Child, ZygoteLink
from service.media.framing import FrameSize, ProtocolError

# Seconds to wait for the exit code of a child that closed its socket.
_EXIT_NOTICE_S = 10.0


class ChildGoneError(Exception):
    """The child closed its socket without giving a reason."""


class Channel:
    """Messages of one child. Only the kernel's socket buffer is read ahead, so a child waits for an idle reader."""

    def __init__(self, link: ZygoteLink, child: Child, connection: socket.socket) -> None:
        self._link = link
        self.child = child
        self._connection = connection
        self._is_closed = False

    @staticmethod
    async def open(link: ZygoteLink, kind: str, job: dict[str, Any], fds: Sequence[int] = ()) -> Channel:
        """Start a child with a job and return the channel to it.

        Args:
            link: starts the child.
            kind: see `ZygoteLink.spawn`.
            job: JSON values for the child.
            fds: further descriptors for the child.

        Raises:
            ServiceError: `decoder_gone`.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            with theirs:
                child = await link.spawn(kind, job, [theirs.fileno(), *fds])
        except BaseException:
            ours.close()
            raise
        return Channel(link, child, ours)

    @property
    def pid(self) -> int:
        """Return the child's process id."""
        return self.child.spawned.result()

    async def receive(self, size: FrameSize) -> tuple[int, bytearray]:
        """Return the kind and the body of the next message.

        Raises:
            ChildGoneError: the socket has ended.
            ProtocolError: the kind is unknown or its body is too long.
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
        """Kill the child; `then` is called when its end has been reported."""
        if not self._is_closed:
            self._is_closed = True
            self._connection.close()
            self._link.kill(self.child)
        if then is not None:
            if self.child.exited.done():
                then()
            else:
                self.child.on_exit.append(then)

    async def exit_code(self) -> int | None:
        """Return the exit code of a child that has ended or is ending; None if it is not reported in time."""
        exited = self.child.exited
        return exited.result() if await ends_within(_EXIT_NOTICE_S, asyncio.shield(exited)) else None

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
