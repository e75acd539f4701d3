"""Limit on the decoded bytes that wait in this process. When it is reached, decoders wait; requests do not fail."""

from __future__ import annotations

import asyncio
from collections import deque


class ByteBudget:
    """FIFO byte semaphore. A single holder may exceed the limit, so that a block of any size can pass.

    Args:
        max_bytes: limit on the bytes held by all holders together.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held_bytes = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def held_bytes(self) -> int:
        """Number of bytes that are currently acquired."""
        return self._held_bytes

    async def acquire(self, num_bytes: int) -> None:
        """Wait until `num_bytes` fit, then acquire them. Cancelling the wait leaves the queue."""
        if not self._waiting and self._fits(num_bytes):
            self._held_bytes += num_bytes
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (num_bytes, granted)
        self._waiting.append(entry)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.release(num_bytes)
            else:
                self._waiting.remove(entry)
                self._grant()
            raise

    def release(self, num_bytes: int) -> None:
        """Release `num_bytes` and grant the next waiters that fit."""
        self._held_bytes -= num_bytes
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            num_bytes, granted = self._waiting.popleft()
            if not granted.done():
                self._held_bytes += num_bytes
                granted.set_result(None)

    def _fits(self, num_bytes: int) -> bool:
        return self._held_bytes == 0 or self._held_bytes + num_bytes <= self._max_bytes
