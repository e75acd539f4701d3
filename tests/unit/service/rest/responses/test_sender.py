"""The writer of a response, on virtual time, before a client that reads nothing."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message
from support.virtual_time import run_virtual, virtual_clock

from service.core.message_writer import HEARTBEAT_S
from service.core.reader_rate import ReaderRate
from service.domain.errors import ServiceError
from service.rest.responses.sender import Sender

_STALL_S = 60.0


def test_a_stalled_reader_costs_next_to_nothing_while_it_waits() -> None:
    """Five hundred of them must leave the loop to others. Each asked the time 100 times a second once it was silent."""
    num_looks = 0

    def clock() -> float:
        nonlocal num_looks
        num_looks += 1
        return virtual_clock()

    async def send(message: Message) -> None:
        await asyncio.Event().wait()

    async def stall() -> None:
        sender = Sender({"type": "http"}, send, rate=ReaderRate(1024, window_s=_STALL_S), clock=clock)
        since_s = virtual_clock()
        with pytest.raises(ServiceError, match="slow_reader"):
            async with sender.beating(b"beat"):
                await sender.write(b"x" * 1000)
        assert virtual_clock() - since_s == pytest.approx(_STALL_S)

    run_virtual(stall())
    assert num_looks < 10 * _STALL_S / HEARTBEAT_S
