"""Sockets that the servers accept have TCP_NODELAY set, read back from the kernel."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import AsyncExitStack

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.servers.front import running_front

from service.rest.connection.server import HttpServer, ServerPolicy
from service.rest.ops_app import create_ops_app
from service.rest.parts import Probes
from service.telemetry.metrics import Metrics

HANG_GUARD_S = 30.0


async def _version() -> dict[str, object]:
    return {}


def _accepted(port: int) -> list[socket.socket]:
    """Duplicates of this process's connected TCP sockets whose local port is `port`."""
    found: list[socket.socket] = []
    for name in os.listdir("/proc/self/fd"):
        try:
            duplicate = socket.socket(fileno=os.dup(int(name)))
        except OSError:  # not a socket, or closed since it was listed
            continue
        try:
            duplicate.getpeername()
            is_accepted = duplicate.getsockname()[1] == port
        except (OSError, IndexError):
            is_accepted = False
        if is_accepted:
            found.append(duplicate)
        else:
            duplicate.close()
    return found


def _assert_no_delay(port: int) -> None:
    sockets = _accepted(port)
    assert sockets
    for accepted in sockets:
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def _get(stack: AsyncExitStack, host: str, port: int) -> None:
    """Ask for /livez on a connection that stays open until the stack ends."""
    reader, writer = await asyncio.open_connection(host, port)
    stack.callback(writer.close)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n")
    async with asyncio.timeout(HANG_GUARD_S):
        assert b"200" in await reader.readline()


async def test_rest_and_grpc_of_a_front() -> None:
    async with AsyncExitStack() as stack, running_front() as running:
        await _get(stack, "127.0.0.1", running.http_port)
        _assert_no_delay(running.http_port)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(running.grpc_target))
        stub = health_pb2_grpc.HealthStub(channel)
        await stub.Check(health_pb2.HealthCheckRequest(), timeout=HANG_GUARD_S)
        _assert_no_delay(running.grpc_port)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_ops_port(host: str) -> None:
    metrics = Metrics()
    probes = Probes(unready=lambda: None, is_alive=lambda: True, describe_version=_version, metrics=metrics)
    server = HttpServer(create_ops_app(probes, version="test"), ServerPolicy(host, 0))
    try:
        port = await server.start()
    except OSError:
        if host == "::1":
            pytest.skip("this machine has no IPv6 loopback")
        raise
    try:
        async with AsyncExitStack() as stack:
            await _get(stack, host, port)
            _assert_no_delay(port)
    finally:
        await server.stop()
