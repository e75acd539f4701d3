"""Webhooks over real HTTP on loopback: signature, retries, no redirects, no private addresses."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from service.domain.errors import ServiceError
from service.domain.job import Job
from service.domain.options import SegmentOptions
from service.jobs.webhooks import WebhookPolicy, Webhooks


class Receiver:
    """Answers each request with the next status."""

    def __init__(self, *statuses: str) -> None:
        self._statuses = list(statuses)
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.port = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await reader.readexactly(int(headers["content-length"]))
        self.requests.append((headers, body))
        writer.write(f"HTTP/1.1 {self._statuses.pop(0)}\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()


@asynccontextmanager
async def receiving(*statuses: str) -> AsyncIterator[Receiver]:
    receiver = Receiver(*statuses)
    server = await asyncio.start_server(receiver.handle, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    async with server:
        yield receiver


def a_job(url: str) -> Job:
    return Job(
        job_id="ab" * 16,
        owner="",
        request_id="r",
        options=SegmentOptions(),
        created_at_s=5.0,
        webhook=url,
        webhook_secret="secret",
        state="done",
        progress=1.0,
    )


async def resolve_here(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


def hooks(slept: list[float], *, allowed: frozenset[str] = frozenset({"hooks.example"})) -> Webhooks:
    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    policy = WebhookPolicy(private_hosts=allowed)
    return Webhooks(policy, wall_clock=lambda: 1700000000.0, resolve=resolve_here, sleep=sleep)


async def test_state_is_told_and_signed() -> None:
    async with receiving("204 No Content") as receiver:
        await hooks([]).tell(a_job(f"http://hooks.example:{receiver.port}/done?x=1"))
    [(headers, body)] = receiver.requests
    assert json.loads(body)["state"] == "done"
    assert headers["host"] == f"hooks.example:{receiver.port}"
    expected = hmac.new(b"secret", b"1700000000." + body, hashlib.sha256).hexdigest()
    assert headers["x-avesformer-signature"] == f"sha256={expected}"
    assert headers["x-avesformer-timestamp"] == "1700000000"


async def test_failures_are_tried_again_three_times() -> None:
    slept: list[float] = []
    async with receiving("500 No", "302 Found", "503 No", "200 OK") as receiver:
        await hooks(slept).tell(a_job(f"http://hooks.example:{receiver.port}/"))
    assert len(receiver.requests) == 4
    assert slept == [1.0, 5.0, 25.0]


async def test_it_gives_up() -> None:
    slept: list[float] = []
    async with receiving(*["500 No"] * 9) as receiver:
        await hooks(slept).tell(a_job(f"http://hooks.example:{receiver.port}/"))
    assert len(receiver.requests) == 4
    await hooks(slept).tell(a_job("http://hooks.example:1/"))


async def test_private_addresses_are_refused_at_both_ends() -> None:
    async with receiving("200 OK") as receiver:
        url = f"http://other.example:{receiver.port}/"
        with pytest.raises(ServiceError, match="private"):
            await hooks([]).check(url)
        await hooks([]).tell(a_job(url))
        assert receiver.requests == []
    await hooks([], allowed=frozenset({"127.0.0.1"})).check(url)


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1", "127.0.0.1", "169.254.169.254", "192.168.1.1", "172.16.0.1", "0.0.0.0", "100.64.0.1", "224.0.0.1",
        "::1", "fe80::1", "fd00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "ff02::1", "::",
    ],
)  # fmt: skip
async def test_every_private_range_is_known(address: str) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["93.184.216.34", address]

    webhooks = Webhooks(WebhookPolicy(), wall_clock=lambda: 0.0, resolve=resolve)
    with pytest.raises(ServiceError, match="private"):
        await webhooks.check("https://mixed.example/")


async def test_public_addresses_pass() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"]

    await Webhooks(WebhookPolicy(), wall_clock=lambda: 0.0, resolve=resolve).check("https://example.com/a")


@pytest.mark.parametrize(
    "url", ["", "x", "ftp://a.b/", "http://", "http://u:p@a.b/", "file:///etc/passwd", "http://a.b/" + "x" * 3000]
)
async def test_malformed_addresses_are_refused(url: str) -> None:
    with pytest.raises(ServiceError) as caught:
        await hooks([]).check(url)
    assert caught.value.code == "bad_option"
