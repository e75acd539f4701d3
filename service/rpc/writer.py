"""The one writer of a call's answer: the rule for slow readers, and a sign of life where nothing else is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from google.protobuf.message import Message

from service.aio.tasks import end_tasks
from service.core.reader_rate import ReaderRate
from service.domain.deadline import Clock
from service.domain.errors import ServiceError
from service.rpc.calls import Rpc, write

# Load balancers cut streams without a message after 60 s by default.
HEARTBEAT_S = 10.0


class CallWriter:
    """Sends the messages of a call, one at a time as gRPC asks."""

    def __init__(self, rpc: Rpc, *, rate: ReaderRate, clock: Clock) -> None:
        self._rpc = rpc
        self._rate = rate
        self._clock = clock
        self._writing = asyncio.Lock()
        self._sent_at_s = clock()

    async def send(self, message: Message) -> None:
        """Send a message; raises what `write` raises."""
        async with self._writing:
            await write(self._rpc, message, rate=self._rate, clock=self._clock)
            self._sent_at_s = self._clock()

    @asynccontextmanager
    async def beating(self, heartbeat: Message) -> AsyncIterator[None]:
        """Send `heartbeat` after every 10 s without another message while the body runs."""
        beating = asyncio.create_task(self._beat(heartbeat), name="heartbeat")
        try:
            yield
        finally:
            await end_tasks([beating])

    async def _beat(self, heartbeat: Message) -> None:
        while True:
            silent_s = self._clock() - self._sent_at_s
            if silent_s < HEARTBEAT_S:
                await asyncio.sleep(HEARTBEAT_S - silent_s)
            elif self._writing.locked():  # a message waits for the reader
                await asyncio.sleep(HEARTBEAT_S)
            else:
                try:
                    await self.send(heartbeat)
                except ServiceError:
                    return  # the next message of the answer meets the same error
