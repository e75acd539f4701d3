"""Turns on the event loop for work that never waits, such as decoding a stored answer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeVar

# Seconds of work in one turn. A request beside it waits this long at most whenever it needs the loop.
SLICE_S = 0.002
# While other requests work, the loop is left to them for this many times as long as the turn before took, so that all
# turns together use at most a fifth of it.
_REST = 4.0
_T = TypeVar("_T")


class Turns:
    """Gives turns one after another, in the order in which they are asked for.

    Args:
        clock: seconds, monotonic.
        is_busy: whether other requests need the event loop now. If not, one turn follows the other without a pause.
    """

    def __init__(self, *, clock: Callable[[], float], is_busy: Callable[[], bool] = lambda: False) -> None:
        self._clock = clock
        self._is_busy = is_busy
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_granting = False

    async def paced(self, items: Iterator[_T]) -> AsyncIterator[_T]:
        """Yield the items of a computation. It and its consumer take a turn after every `SLICE_S` seconds."""
        pace = self.pace()
        for item in items:
            await pace.step()
            yield item

    def pace(self) -> Pace:
        """Return the pace of one computation."""
        return Pace(self, clock=self._clock)

    async def next(self) -> None:
        """Wait for a turn, which lasts until the caller's task waits for something."""
        loop = asyncio.get_running_loop()
        granted: asyncio.Future[None] = loop.create_future()
        self._waiting.append(granted)
        if not self._is_granting:
            self._is_granting = True
            loop.call_soon(self._grant)
        await granted

    def _grant(self) -> None:
        while self._waiting and self._waiting[0].done():  # the waiting task was cancelled
            self._waiting.popleft()
        if not self._waiting:
            self._is_granting = False
            return
        self._waiting.popleft().set_result(None)
        # The task that waited is now scheduled, so `_rest` runs when its turn is over.
        asyncio.get_running_loop().call_soon(self._rest, self._clock())

    def _rest(self, granted_at_s: float) -> None:
        pause_s = _REST * (self._clock() - granted_at_s) if self._is_busy() else 0.0
        asyncio.get_running_loop().call_later(pause_s, self._grant)


class Pace:
    """Takes turns for one computation that calls `step` between its parts.

    The first `SLICE_S` are free, so that a short answer never waits behind a crowd of long ones.
    """

    def __init__(self, turns: Turns, *, clock: Callable[[], float]) -> None:
        self._turns = turns
        self._clock = clock
        self._turn_ends_s: float | None = None

    async def step(self) -> None:
        """Wait for the next turn if this one has lasted for `SLICE_S`."""
        if self._turn_ends_s is not None:
            if self._clock() < self._turn_ends_s:
                return
            await self._turns.next()
        self._turn_ends_s = self._clock() + SLICE_S
