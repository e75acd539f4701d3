"""Send the messages of a stream one at a time, with the rule for slow readers and heartbeats between messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Generic, TypeVar

from service.aio.tasks import end_tasks
from service.aio.waits import bounded_wait
from service.core.reader_rate import ReaderRate
from service.domain.deadline import Clock
from service.domain.errors import ServiceError

# Every stream sends a heartbeat after this many seconds without another message or line, over HTTP and gRPC. Load
# balancers cut streams that are silent for 60 s by default.
HEARTBEAT_S = 10.0
# A send that takes longer than this has waited for the client to read.
_WAITED_S = 0.05
_M = TypeVar("_M")


class MessageWriter(Generic[_M]):
    """Writer of one stream.

    Args:
        transmit: sends one message and waits while the client does not read; may raise ServiceError.
        num_bytes: size of a message.
        rate: rule for slow readers; owned by this writer.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        transmit: Callable[[_M], Awaitable[None]],
        *,
        num_bytes: Callable[[_M], int],
        rate: ReaderRate,
        clock: Clock,
    ) -> None:
        self._transmit = transmit
        self._num_bytes = num_bytes
        self._rate = rate
        self._clock = clock
        self._writing = asyncio.Lock()
        self._sent_at_s = clock()

    async def send(self, message: _M) -> None:
        """Send a message; raises `slow_reader` by the rule of `rate`, and what `transmit` raises."""
        async with self._writing:
            stalled = partial(ServiceError, "slow_reader", f"The client read nothing for {self._rate.window_s:g} s.")
            since_s = self._clock()
            async with bounded_wait(self._rate.window_s, stalled):
                await self._transmit(message)
            self._sent_at_s = self._clock()
            if self._sent_at_s - since_s > _WAITED_S:
                self._rate.add(self._sent_at_s - since_s, self._num_bytes(message))

    @asynccontextmanager
    async def beating(self, heartbeat: _M) -> AsyncIterator[None]:
        """Send `heartbeat` after every 10 s without another message while the body runs."""
        beating = asyncio.create_task(self._beat(heartbeat), name="heartbeat")
        try:
            yield
        finally:
            await end_tasks([beating])

    async def _beat(self, heartbeat: _M) -> None:
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
                    return  # the next message meets the same error
