"""DNS rebinding: a name has a public address when it is checked, and an address of this machine when it is asked again.

The system's resolver is replaced, so that the service's own look-up and one of the HTTP client's are told apart by
their order. Connections are noted where the event loop opens them, and none is made.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.domain.deadline import Deadline
from service.domain.errors import ServiceError
from service.domain.job import Job
from service.domain.options import SegmentOptions
from service.jobs.webhooks import WebhookPolicy, Webhooks
from service.media.spool import Spool
from service.outbound.fetch import Fetcher, FetchPolicy
from service.outbound.put import PutError, PutPolicy, Putter

PUBLIC, INSIDE = "93.184.216.34", "127.0.0.1"
URL = "https://rebind.example/clip.mp4"


class Rebinding:
    """A resolver that returns the next address for each look-up, and the last one from then on."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = list(addresses)
        self.connected: list[tuple[str, int]] = []

    def getaddrinfo(self, host: str | bytes, port: int, *rest: Any, **options: Any) -> list[tuple[Any, ...]]:
        if host in ("rebind.example", b"rebind.example"):
            address = self._addresses.pop(0) if len(self._addresses) > 1 else self._addresses[0]
        else:
            address = host
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))]

    async def sock_connect(self, connecting: socket.socket, address: Any) -> None:
        self.connected.append(address)
        raise ConnectionRefusedError


@pytest.fixture(params=[(PUBLIC, INSIDE), (INSIDE, PUBLIC)], ids=["inside at connect", "inside at the check"])
def rebinding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Rebinding:
    names = Rebinding(*request.param)
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_connect", names.sock_connect)
    return names


async def fetch(folder: Path) -> None:
    upload = await Spool(folder, max_bytes=1000).open_upload(max_bytes=1000)
    try:
        with pytest.raises(ServiceError):
            await Fetcher(FetchPolicy(frozenset({"*"})), clock=lambda: 0.0)(URL, upload, deadline=Deadline())
    finally:
        upload.close()


async def put(folder: Path) -> None:
    async def blocks() -> AsyncIterator[bytes]:
        yield b"x"

    with pytest.raises(PutError):
        await Putter(PutPolicy(frozenset({"*"}))).put(URL, blocks(), num_bytes=1, media_type="text/csv")


async def tell(folder: Path) -> None:
    job = Job(
        job_id="ab" * 16,
        owner="",
        request_id="r",
        options=SegmentOptions(),
        created_at_s=5.0,
        webhook=URL,
        state="done",
    )
    await Webhooks(WebhookPolicy(delays_s=()), wall_clock=lambda: 0.0).deliver(job)


@pytest.mark.parametrize("connect", [fetch, put, tell])
async def test_the_connection_goes_to_the_address_that_was_checked(
    connect: Callable[[Path], Coroutine[Any, Any, None]],
    rebinding: Rebinding,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    await connect(tmp_path)
    is_public_first = request.node.callspec.params["rebinding"][0] == PUBLIC
    assert rebinding.connected == ([(PUBLIC, 443)] if is_public_first else [])


@pytest.mark.parametrize("rebinding", [(PUBLIC, INSIDE)], indirect=True)
async def test_a_client_that_checks_and_then_connects_by_name_is_caught(rebinding: Rebinding) -> None:
    """The control: what the service must not do would be noticed."""
    assert socket.getaddrinfo("rebind.example", 443)[0][4][0] == PUBLIC
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(URL)
    assert rebinding.connected == [(INSIDE, 443)]
