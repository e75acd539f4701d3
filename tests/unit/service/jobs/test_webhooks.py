"""Webhooks over real HTTP on loopback: signature, retries, no redirects, no private addresses."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from service.codec.job_json import JobEvents
from service.domain.errors import ServiceError
from service.domain.job import Job
from service.domain.options import SegmentOptions
from service.domain.result import SoundEvent
from service.jobs.webhooks import WebhookPolicy, Webhooks
from service.outbound.addresses import Resolver, is_public


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
        await hooks([]).deliver(a_job(f"http://hooks.example:{receiver.port}/done?x=1"))
    [(headers, body)] = receiver.requests
    assert json.loads(body)["state"] == "done"
    assert headers["host"] == f"hooks.example:{receiver.port}"
    expected = hmac.new(b"secret", b"1700000000." + body, hashlib.sha256).hexdigest()
    assert headers["x-avesformer-signature"] == f"sha256={expected}"
    assert headers["x-avesformer-timestamp"] == "1700000000"


async def test_the_end_lists_the_events() -> None:
    async def events_of(job: Job) -> JobEvents:
        return JobEvents((SoundEvent("dog", None, 0.5, 1.5, 6, 0.91),), 7)

    async with receiving("200 OK") as receiver:
        webhooks = hooks([])
        webhooks.events_of = events_of
        await webhooks.deliver(a_job(f"http://hooks.example:{receiver.port}/"))
        told = json.loads(receiver.requests[0][1])
    assert told["num_events"] == 7
    assert told["events"] == [
        {"label": "dog", "track_id": None, "start_s": 0.5, "end_s": 1.5, "peak_area": 6, "mean_score": 0.91}
    ]


async def test_failures_are_tried_again_three_times() -> None:
    slept: list[float] = []
    async with receiving("500 No", "302 Found", "503 No", "200 OK") as receiver:
        await hooks(slept).deliver(a_job(f"http://hooks.example:{receiver.port}/"))
    assert len(receiver.requests) == 4
    assert slept == [1.0, 5.0, 25.0]


async def test_it_gives_up() -> None:
    slept: list[float] = []
    async with receiving(*["500 No"] * 9) as receiver:
        await hooks(slept).deliver(a_job(f"http://hooks.example:{receiver.port}/"))
    assert len(receiver.requests) == 4
    await hooks(slept).deliver(a_job("http://hooks.example:1/"))


async def test_private_addresses_are_refused_at_delivery() -> None:
    slept: list[float] = []
    async with receiving("200 OK") as receiver:
        url = f"http://other.example:{receiver.port}/"
        await hooks(slept).deliver(a_job(url))
        assert receiver.requests == []
        await hooks(slept, allowed=frozenset({"127.0.0.1"})).deliver(a_job(url))
        assert len(receiver.requests) == 1


async def test_a_public_address_is_not_reached_at_an_odd_port() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["93.184.216.34"]

    webhooks = Webhooks(WebhookPolicy(), wall_clock=lambda: 0.0, resolve=resolve)
    with pytest.raises(ServiceError, match="port must be one of 80, 443, 8080, 8443"):
        webhooks.check("http://example.com:6379/")
    for port in (80, 443, 8080, 8443):
        webhooks.check(f"http://example.com:{port}/")


PRIVATE = [
    "10.0.0.1", "127.0.0.1", "169.254.169.254", "192.168.1.1", "172.16.0.1", "0.0.0.0", "100.64.0.1", "224.0.0.1",
    "168.63.129.16", "100.100.100.200", "192.0.0.192", "192.88.99.1", "255.255.255.255",
    "::1", "fe80::1", "fd00::1", "fd00:ec2::254", "fec0::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::",
    "ff02::1", "::", "::127.0.0.1", "::10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808",
    "::ffff:0:10.0.0.1", "2001:db8::1", "2606:2800::5efe:10.0.0.1", "100::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_every_private_range_is_known(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1946", "64:ff9b::5db8:d822", "::ffff:8.8.8.8"])
def test_public_addresses_pass(address: str) -> None:
    assert is_public(address)


async def test_one_private_address_among_public_ones_refuses_the_host() -> None:
    asked: list[tuple[str, int]] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return ["93.184.216.34", "10.0.0.1"]

    async def sleep(seconds: float) -> None:
        pass

    webhooks = Webhooks(WebhookPolicy(), wall_clock=lambda: 0.0, resolve=resolve, sleep=sleep)
    await webhooks.deliver(a_job("https://mixed.example/"))
    assert asked == [("mixed.example", 443)] * 4


@pytest.mark.parametrize(
    "url",
    [
        "", "x", "ftp://a.b/", "http://", "http://u:p@a.b/", "file:///etc/passwd", "http://a.b/" + "x" * 3000,
        "http://" + "a" * 64 + ".example/", "http://" + ".".join(["a" * 60] * 5) + "/", "http://a..b/", "http://\ud800/",
        "http://xn--/", "http://a.b:0/", "http://a.b:99999/", "http://a%00b/", "http://[::1/",
        "http://localhost/", "http://db.internal/", "http://printer.local./", "http://metadata.google.internal/",
        "http://127.1/", "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/", "http://[::7f00:1]/",
        "http://[64:ff9b::7f00:1]/", "http://[fec0::1]/", "http://10.0.0.1:8080/", "http://a.b:22/",
    ],
)  # fmt: skip
def test_addresses_that_need_no_look_up_are_refused_at_once(url: str) -> None:
    with pytest.raises(ServiceError) as caught:
        Webhooks(WebhookPolicy(), wall_clock=lambda: 0.0).check(url)
    assert caught.value.code == "bad_option"


async def test_a_silent_resolver_costs_its_caller_the_deadline_and_nobody_else_anything() -> None:
    silent = threading.Event()

    def look_up(host: str, port: int) -> list[str]:
        if host == "silent.example":
            silent.wait(60)
        return ["93.184.216.34"]

    resolver = Resolver(timeout_s=0.05, max_resolving=3, look_up=look_up)
    try:
        for _ in range(5):  # three occupy the slots, two do not get one
            with pytest.raises(TimeoutError):
                await resolver("silent.example", 80)
        assert sum(thread.name == "resolver" for thread in threading.enumerate()) == 3
        assert await asyncio.to_thread(lambda: "free") == "free"
    finally:
        silent.set()
    patient = Resolver(timeout_s=60, max_resolving=1, look_up=look_up)
    assert [await patient("a.example", 80) for _ in range(3)] == [["93.184.216.34"]] * 3


@pytest.mark.parametrize("error", [OSError("no such host"), UnicodeError("label too long"), ValueError("null byte")])
async def test_a_failed_look_up_is_an_os_error_and_frees_its_slot(error: Exception) -> None:
    def look_up(host: str, port: int) -> list[str]:
        raise error

    resolver = Resolver(timeout_s=60, max_resolving=1, look_up=look_up)
    for _ in range(3):
        with pytest.raises(OSError, match=r"no such host|look-up failed"):
            await resolver("a.example", 80)


async def test_the_resolver_of_the_system_knows_this_machine() -> None:
    assert "127.0.0.1" in await Resolver(timeout_s=60)("127.0.0.1", 80)
