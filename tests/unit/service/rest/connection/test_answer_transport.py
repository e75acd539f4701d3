"""What leaves a connection in one write, over a transport that keeps what it is given."""

from __future__ import annotations

import asyncio

from service.rest.connection.answer_transport import GentleTransport

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Wire:
    """A transport and a protocol at once."""

    is_lingering = False

    def __init__(self) -> None:
        self.events: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.events.append(data)

    def is_closing(self) -> bool:
        return False

    def close_gently(self) -> None:
        self.events.append(b"closed")


def transport_of(wire: Wire) -> GentleTransport:
    return GentleTransport(wire, wire, loop=asyncio.get_running_loop())  # type: ignore[arg-type]


async def test_a_head_leaves_with_the_body() -> None:
    wire = Wire()
    transport = transport_of(wire)
    transport.write(HEAD)
    transport.write(b"body")
    transport.write(b"more")
    await asyncio.sleep(0)
    assert wire.events == [HEAD + b"body", b"more"]


async def test_a_head_without_a_body_leaves_by_itself() -> None:
    wire = Wire()
    transport = transport_of(wire)
    transport.write(HEAD)
    assert wire.events == []
    await asyncio.sleep(0)
    assert wire.events == [HEAD]
    transport.write(b"body")
    assert wire.events == [HEAD, b"body"]


async def test_an_interim_head_leaves_before_the_final_one() -> None:
    wire = Wire()
    transport = transport_of(wire)
    transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    transport.write(HEAD)
    transport.write(b"body")
    assert b"".join(wire.events) == b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"body"


async def test_closing_sends_the_head_first() -> None:
    wire = Wire()
    transport = transport_of(wire)
    transport.write(HEAD)
    transport.close()
    await asyncio.sleep(0)
    assert wire.events == [HEAD, b"closed"]
