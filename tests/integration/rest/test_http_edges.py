"""HTTP requests that are odd or hostile before their body: framing, pipelining, Host, upgrades, connections."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from support.components.scripted_decoders import Script
from support.servers.raw_http import chunked_head, exchange, problem_of, read_answer, request_head
from support.servers.rest_front import HANG_GUARD_S, FrontSpec, rest_front
from support.waiting import until

from service.rest.connection.policy import ConnectionPolicy

GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
GET_CHUNKED = b"GET /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
FLOOD = b"a: bbbbbbbbbbbbbbbbbbbb\r\n" * 20_000


@pytest.mark.parametrize(
    "rest",
    [
        b"5\r\nhello\r\n0\r\n" + FLOOD,  # trailers
        b"5\r\nhello\r\n0\r\nX: " + FLOOD.replace(b"\r\n", b""),  # one trailer
        b"5;" + FLOOD.replace(b"\r\n", b"") + b"\r\nhello\r\n",  # a chunk extension
        b"1\r\nx\r\n" * 100_000,  # chunks that are mostly framing
    ],
    ids=["trailers", "trailer", "extension", "framing"],
)
async def test_what_is_no_body_is_bounded_in_an_upload(tmp_path, rest):
    async with rest_front(tmp_path) as front:
        problem = problem_of(await exchange(front.port, chunked_head() + rest))
        assert (problem["status"], problem["code"]) == (431, "headers_too_large")
        await until(lambda: front.admission.in_flight == 0 and front.spool.used_bytes == 0, what="all is freed")
        assert (await front.client.get("/livez")).status_code == 200


async def test_a_request_that_needs_no_body_is_answered_and_closed(tmp_path):
    """The body and the trailers are discarded, and only until the time for lingering is over."""
    async with rest_front(tmp_path, FrontSpec(connections=ConnectionPolicy(linger_s=0.3))) as front:
        for rest in (b"5\r\nhello\r\n0\r\n", b"", b"ffffff\r\n" + b"x" * 100_000):
            async with asyncio.timeout(HANG_GUARD_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
                writer.write(GET_CHUNKED + rest)
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 ")
                assert b"connection: close" in head
                assert json.loads(await reader.read()) == {"status": "alive"}
                with suppress(ConnectionError):
                    while True:  # until the server has closed
                        writer.write(FLOOD)
                        await writer.drain()
                writer.transport.abort()
        assert await connections(front) == 0


async def connections(front) -> int:
    """Connections that the server still has once closed ones are gone."""
    state = front.server._state
    await until(lambda: not state.tasks, what="requests have ended")
    try:
        async with asyncio.timeout(5):
            while state.connections:
                await asyncio.sleep(0.01)
    except TimeoutError:
        pass
    return len(state.connections)


async def test_trailers_within_the_limit_are_dropped(tmp_path):
    body = Script().encode()
    rest = b"%x\r\n%s\r\n0\r\nDigest: x\r\nX-Request-ID: trailer\r\n\r\n" % (len(body), body)
    async with rest_front(tmp_path) as front:
        raw = await exchange(front.port, chunked_head("X-Request-ID: head", "Connection: close") + rest)
        assert raw.startswith(b"HTTP/1.1 200 ")
        assert b"x-request-id: head\r\n" in raw


async def test_pipelined_requests_are_answered_in_order_and_not_parsed_ahead(tmp_path):
    async with rest_front(tmp_path) as front:
        body = Script(hangs_after=0).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(request_head(len(body)) + body + GET * 5000)
        await until(lambda: front.decoders.num_open == 1, what="the first one runs")
        (connection,) = (each for each in front.server._state.connections if each.cycle.more_body is False)
        assert not connection.pipeline
        writer.transport.abort()
        body = Script().encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(GET + request_head(len(body)) + body + GET * 100)
        answers = [await read_answer(reader) for _ in range(102)]
        assert [status for status, _ in answers] == [200] * 102
        assert b"frames" in answers[1][1]
        writer.transport.abort()


async def test_a_request_in_two_halves_behind_another_one_is_answered(tmp_path):
    async with rest_front(tmp_path) as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(GET + GET[:10])
        assert (await read_answer(reader))[0] == 200
        writer.write(GET[10:] + b"\r\n\r\n")
        assert (await read_answer(reader))[0] == 200
        writer.transport.abort()


async def test_half_a_request_behind_another_one_has_the_time_limit_of_a_head(tmp_path):
    async with rest_front(tmp_path, FrontSpec(connections=ConnectionPolicy(head_timeout_s=0.3))) as front:
        raw = await exchange(front.port, GET + GET[:10])
        assert raw.startswith(b"HTTP/1.1 200 ")
        assert problem_of(raw[raw.index(b"HTTP/1.1 408") :])["code"] == "slow_upload"


@pytest.mark.parametrize(
    "hosts", [[], ["a", "b"], ["a", "a"], ["a b"], ["a/b"], ["user@a"], ["[::1"], ["a:b"]], ids=repr
)
async def test_a_request_has_one_well_formed_host(tmp_path, hosts):
    async with rest_front(tmp_path) as front:
        lines = [f"Host: {host}" for host in hosts]
        raw = await exchange(front.port, "\r\n".join(["GET /livez HTTP/1.1", *lines, "", ""]).encode())
        problem = problem_of(raw)
        assert (problem["status"], problem["code"]) == (400, "malformed_body")
        assert b"connection: close" in raw


@pytest.mark.parametrize("host", ["", "a.example", "a.example:8000", "127.0.0.1:80", "[::1]:8000", "a_b"], ids=repr)
async def test_hosts_that_are_right(tmp_path, host):
    async with rest_front(tmp_path) as front:
        raw = await exchange(front.port, f"GET /livez HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        assert raw.startswith(b"HTTP/1.1 200 ")
        raw = await exchange(front.port, b"GET /livez HTTP/1.0\r\n\r\n")
        assert raw.startswith(b"HTTP/1.1 200 "), "HTTP/1.0 has no Host"


@pytest.mark.parametrize(
    "offer",
    [
        ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"],
        ["Connection: upgrade", "upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="],
        ["Connection: Upgrade", "Upgrade: TLS/1.2, HTTP/2.0"],
    ],
    ids=["h2c", "websocket", "tls"],
)
async def test_an_offer_to_change_the_protocol_is_ignored(tmp_path, offer):
    body = Script().encode()
    async with rest_front(tmp_path) as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        for head in (request_head(len(body), *offer), chunked_head(*offer)):
            framed = body if b"Content-Length" in head else b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
            writer.write(head + framed)
            status, answer = await read_answer(reader)
            assert status == 200, answer
        writer.transport.abort()


@pytest.mark.parametrize(
    "name", ["a" * 5000, "..%2Fapp.py", "%00", "%ff%fe", "page.css%2Fx", ".", "viewer", "%F0%9F%8E%B5"]
)
async def test_static_names_that_are_none_are_404(tmp_path, name):
    async with rest_front(tmp_path) as front:
        answer = await front.client.get(f"/static/{name}")
        assert (answer.status_code, answer.json()["code"]) == (404, "route_not_found")
        assert (await front.client.get("/static/page.css")).status_code == 200


async def open_and_answered(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(GET)
    assert (await read_answer(reader))[0] == 200
    return reader, writer


async def test_probes_are_answered_while_all_connections_are_idle(tmp_path):
    """Idle connections give way to new ones, the one idle for longest first."""
    async with rest_front(tmp_path, FrontSpec(connections=ConnectionPolicy(max_connections=512))) as front:
        held = [await open_and_answered(front.port) for _ in range(512)]
        reader, writer = await open_and_answered(front.port)
        assert await held[0][0].read() == b"", "the oldest one was closed"
        held[1][1].write(GET)
        assert (await read_answer(held[1][0]))[0] == 200
        for _, each in (*held, (reader, writer)):
            each.transport.abort()


async def test_connections_that_say_nothing_give_way_too(tmp_path):
    spec = FrontSpec(connections=ConnectionPolicy(max_connections=3, head_timeout_s=HANG_GUARD_S))
    async with rest_front(tmp_path, spec) as front:
        held = [await asyncio.open_connection("127.0.0.1", front.port) for _ in range(2)]
        held[1][1].write(b"GET / HT")
        idle = await open_and_answered(front.port)
        second = await open_and_answered(front.port)
        assert await idle[0].read() == b"", "an answered connection goes first"
        third = await open_and_answered(front.port)
        assert not held[0][0].at_eof()
        for _, each in (*held, idle, second, third):
            each.transport.abort()


@pytest.mark.parametrize("is_accepted", [True, False], ids=["accepted", "in the backlog"])
async def test_a_connection_that_was_made_before_the_server_stops_is_answered(tmp_path, is_accepted):
    spec = FrontSpec(connections=ConnectionPolicy(last_head_s=HANG_GUARD_S))
    async with rest_front(tmp_path, spec) as front:
        client = socket.create_connection(("127.0.0.1", front.port))
        if is_accepted:
            await until(lambda: front.server.num_connections == 1)
        stopping = asyncio.create_task(front.server.stop())
        await until(lambda: front.server.num_connections == 1)
        client.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=client)
        writer.write(GET)
        assert (await read_answer(reader))[0] == 200
        assert await reader.read() == b"", "the server closes after the answer"
        await stopping
        writer.transport.abort()


async def test_connections_with_requests_are_bounded_and_probes_have_a_reserve(tmp_path):
    spec = FrontSpec(connections=ConnectionPolicy(max_connections=3, num_reserved=2))
    async with rest_front(tmp_path, spec) as front:
        held = [await asyncio.open_connection("127.0.0.1", front.port) for _ in range(3)]
        for _, writer in held:
            writer.write(request_head(100_000))
        await until(lambda: front.admission.in_flight == 3, what="all three upload")
        problem = problem_of(await exchange(front.port, request_head(10)))
        assert (problem["status"], problem["code"]) == (429, "too_many_requests")
        for path in (b"/livez", b"/v1/readyz", b"/metrics"):
            raw = await exchange(front.port, GET.replace(b"/livez", path)[:-2] + b"Connection: close\r\n\r\n")
            assert raw.startswith(b"HTTP/1.1 200 ")
        for _, writer in held:
            writer.transport.abort()
        await until(lambda: front.admission.in_flight == 0, what="they are gone")
        _, writer = await open_and_answered(front.port)
        writer.transport.abort()


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """The process may open nothing more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    fillers: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    try:
        with suppress(OSError):
            while True:
                fillers.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for filler in fillers:
            os.close(filler)


async def test_without_descriptors_clients_are_told_when_to_come_back(tmp_path, caplog):
    """Accepting pauses instead of failing in a loop; one line in the log; afterwards all is as before."""
    loop = asyncio.get_running_loop()
    async with rest_front(tmp_path) as front:
        assert (await front.client.get("/livez")).status_code == 200
        clients = [socket.socket() for _ in range(4)]
        for client in clients:
            client.setblocking(False)
        with no_descriptor_left():
            for client in clients:
                await loop.sock_connect(client, ("127.0.0.1", front.port))
            answers = [await read_all(client) for client in clients]
        for client in clients:
            client.close()
        for raw in answers:
            problem = problem_of(raw)
            assert (problem["status"], problem["code"]) == (503, "backend_down")
            assert b"retry-after: " in raw
        assert len([record for record in caplog.records if "cannot be accepted" in record.message]) == 1
        _, writer = await open_and_answered(front.port)
        writer.transport.abort()


async def read_all(client: socket.socket) -> bytes:
    """Everything until the server closes."""
    loop = asyncio.get_running_loop()
    pieces = []
    async with asyncio.timeout(HANG_GUARD_S):
        while not pieces or pieces[-1]:
            pieces.append(await loop.sock_recv(client, 65536))
    return b"".join(pieces)
