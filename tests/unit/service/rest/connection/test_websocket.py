"""WebSockets of clients that ping, send tiny frames or do not read, on real connections to a small application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.types import Receive, Scope, Send
from support.clients.raw_websocket import PING, TEXT, client_frame, switched
from support.waiting import until

from service.rest.connection import websocket
from service.rest.connection.server import HttpServer, ServerPolicy
from service.rest.connection.websocket import WebSocketProtocol

HANG_S = 60.0


class Application:
    """Accepts, notes what comes, and closes when it is told to."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.closing = asyncio.Event()
        self.has_ended = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        listening = asyncio.create_task(self._listen(receive))
        await self.closing.wait()
        try:
            await send({"type": "websocket.close", "code": 1008, "reason": "slow_reader"})
        finally:
            listening.cancel()
            self.has_ended.set()

    async def _listen(self, receive: Receive) -> None:
        while (message := await receive())["type"] != "websocket.disconnect":
            self.texts.append(message["text"])


@asynccontextmanager
async def served() -> AsyncIterator[tuple[Application, HttpServer, int]]:
    application = Application()
    server = HttpServer(application, ServerPolicy("127.0.0.1", 0))
    port = await server.start()
    try:
        yield application, server, port
    finally:
        application.closing.set()
        await server.stop()


async def the_socket(server: HttpServer) -> WebSocketProtocol:
    """The server's side of the only connection."""
    (connection,) = server._state.connections
    assert isinstance(connection, WebSocketProtocol)
    return connection


async def test_pings_of_a_client_that_does_not_read_take_no_memory() -> None:
    """Each ping is answered by a pong of its size, which nobody took: a megabyte of pings filled a megabyte."""
    async with served() as (application, server, port), switched(port) as (reader, writer), asyncio.timeout(HANG_S):
        connection = await the_socket(server)
        writer.write(client_frame(PING, bytes(125)) * 8000 + client_frame(TEXT, b"still heard"))
        await until(lambda: application.texts == ["still heard"])
        assert connection.transport.get_write_buffer_size() + len(connection._pongs) < 64 * 1024
        while b"\x8a" not in await reader.read(65_536):  # the client reads on, and gets pongs
            pass


async def test_tiny_frames_leave_the_loop_to_others() -> None:
    async with served() as (application, _, port), switched(port) as (_, writer), asyncio.timeout(HANG_S):
        rounds = 0

        async def others() -> None:
            nonlocal rounds
            while not application.texts:
                await asyncio.sleep(0)
                rounds += 1

        beside = asyncio.create_task(others())
        writer.write(client_frame(PING) * 8000 + client_frame(TEXT, b"after them"))
        await beside
        # One read of the socket can hold them all. Without turns they are parsed within a few rounds of the loop.
        assert rounds > 20


@pytest.mark.parametrize("is_closing", [True, False], ids=["application", "server"])
async def test_a_closing_connection_whose_client_does_not_read_is_dropped(
    is_closing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing waits for the buffer, which such a client never empties."""
    monkeypatch.setattr(websocket, "LAST_BYTES_S", 0.2)
    async with served() as (application, server, port), switched(port), asyncio.timeout(HANG_S):
        connection = await the_socket(server)
        while connection.writable.is_set():
            connection.transport.write(bytes(65_536))
        if is_closing:
            application.closing.set()
        else:
            connection.shutdown()
        await until(lambda: server.num_connections == 0)
        application.closing.set()
        await application.has_ended.wait()


async def test_a_client_that_reads_on_gets_the_reason() -> None:
    async with served() as (application, server, port), switched(port) as (reader, _), asyncio.timeout(HANG_S):
        connection = await the_socket(server)
        while connection.writable.is_set():
            connection.transport.write(bytes(65_536))
        application.closing.set()
        tail = b""
        while piece := await reader.read(65_536):
            tail = (tail + piece)[-100:]
            if b"slow_reader" in tail:
                break
        assert tail.endswith(b"\x88\x0d\x03\xf0slow_reader")
