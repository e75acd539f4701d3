"""A TCP proxy on loopback that can delay, narrow, cut and stall what passes through it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from types import TracebackType

from support.servers.ports import free_port

_PIECE_BYTES = 16 * 1024
# Read ahead of what is delayed: 1 MiB a direction, then the sender feels it.
_MAX_PIECES = 64
_LOOK_S = 0.05
_GUARD_S = 30.0


class FaultProxy:
    """Passes connections on to a port; the faults hold for connections that are open as well as for new ones.

    Attributes:
        latency_s: every piece arrives this much later, in either direction; what is on its way when the fault is
            removed arrives at once.
        bytes_per_s: of a connection, in each direction; None is unbounded.
        reset_after_bytes: a connection is reset (TCP RST on both sides) after so many bytes; None is never.
        is_stalled: connections are accepted and nothing passes, as when a cable is cut.
        num_resets, num_bytes: so far.
    """

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        self.latency_s = 0.0
        self.bytes_per_s: float | None = None
        self.reset_after_bytes: int | None = None
        self.is_stalled = False
        self.num_resets = 0
        self.num_bytes = 0
        self._target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._open: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        listening = asyncio.start_server(self._pass_on, "127.0.0.1", self.port)
        self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result(_GUARD_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._aclose(), self._loop).result(_GUARD_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_GUARD_S)
        self._loop.close()

    def heal(self) -> None:
        """No fault from now on."""
        self.latency_s, self.bytes_per_s, self.reset_after_bytes, self.is_stalled = 0.0, None, None, False

    def point_to(self, target_port: int) -> None:
        """Pass new connections on to another port; open ones stay where they are, as after a change of a DNS name."""
        self._target_port = target_port

    def reset_all(self) -> None:
        """Reset every open connection now."""
        self._loop.call_soon_threadsafe(self._reset_all)

    def _reset_all(self) -> None:
        for pair in list(self._open):
            self.reset(pair)

    def reset(self, pair: _Pair) -> None:
        """Cut both sides with RST."""
        self.num_resets += not pair.is_cut
        pair.cut()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            _abort(writer)  # as a refused connection shows behind a proxy
            return
        pair = _Pair((writer, there[1]))
        self._open.add(pair)
        ways = [_Way(self, pair, reader, there[1]), _Way(self, pair, there[0], writer)]
        tasks = [asyncio.ensure_future(step) for way in ways for step in (way.read(), way.write())]
        self._tasks.update(tasks)
        try:
            with contextlib.suppress(asyncio.CancelledError):  # of the steps, when the proxy closes
                await asyncio.gather(*tasks)
        finally:
            self._tasks.difference_update(tasks)
            self._open.discard(pair)
            for side in pair.sides:
                side.close()

    async def _aclose(self) -> None:
        self._server.close()
        self._reset_all()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(_LOOK_S)


class _Pair:
    """The two sides of one connection."""

    def __init__(self, sides: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
        self.sides = sides
        self.num_bytes = 0
        self.is_cut = False

    def cut(self) -> None:
        self.is_cut = True
        for side in self.sides:
            _abort(side)


class _Way:
    """One direction of a connection."""

    def __init__(
        self, proxy: FaultProxy, pair: _Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._proxy = proxy
        self._pair = pair
        self._reader = reader
        self._writer = writer
        self._pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_MAX_PIECES)

    async def read(self) -> None:
        data = b"first"
        while data:
            try:
                data = await self._reader.read(_PIECE_BYTES)
            except OSError:
                data = b""
            await self._pieces.put((time.monotonic(), data))

    async def write(self) -> None:
        while True:
            came_s, data = await self._pieces.get()
            while self._proxy.is_stalled or time.monotonic() < came_s + self._proxy.latency_s:
                left_s = came_s + self._proxy.latency_s - time.monotonic()
                await asyncio.sleep(_LOOK_S if self._proxy.is_stalled else min(_LOOK_S, max(0.0, left_s)))
            if not data:
                break
            await self._deliver(data)
        with contextlib.suppress(OSError, RuntimeError):
            if not self._pair.is_cut and self._writer.can_write_eof():
                self._writer.write_eof()

    async def _deliver(self, data: bytes) -> None:
        while data and not self._pair.is_cut:
            rate, limit = self._proxy.bytes_per_s, self._proxy.reset_after_bytes
            size = len(data) if rate is None else max(1, int(rate * _LOOK_S))
            if limit is not None:
                size = min(size, max(0, limit - self._pair.num_bytes))
            piece, data = data[:size], data[size:]
            self._pair.num_bytes += len(piece)
            self._proxy.num_bytes += len(piece)
            with contextlib.suppress(OSError):
                self._writer.write(piece)
                await self._writer.drain()
            if limit is not None and self._pair.num_bytes >= limit:
                self._proxy.reset(self._pair)
            elif rate is not None:
                await asyncio.sleep(len(piece) / rate)


def _abort(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    made: socket.socket = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
