"""Forecast of requests that follow from clients whose last request has just ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

# Weight of one ended request in the moving average of the return rate: about the last twenty requests count.
RETURN_SMOOTHING = 0.05
# Ended requests count as coming back only while most of the recent ones did.
LEAST_RETURN_RATE = 0.5


class ReturningClients:
    """Counts requests that are likely to arrive within a short window.

    Closed-loop clients send their next request as soon as they have an answer, so requests follow a moment after a
    batch was answered. An ended request opens a place, and a request that begins within the window fills the oldest
    place. While most places get filled, the batcher waits for the open ones. Not thread-safe.
    """

    def __init__(self, *, window_s: float, clock: Callable[[], float]) -> None:
        """Start with the assumption that clients return.

        Args:
            window_s: lifetime of a place in seconds.
            clock: seconds, monotonic.
        """
        self._window_s = window_s
        self._clock = clock
        self._places: deque[float] = deque()  # expiry times, rising
        self._return_rate = 1.0

    def request_began(self) -> None:
        """Fill the oldest open place, if any."""
        self._expire()
        if self._places:
            self._places.popleft()
            self._learn(1.0)

    def request_ended(self) -> None:
        """Open a place."""
        self._expire()
        self._places.append(self._clock() + self._window_s)

    def num_expected(self) -> int:
        """Return the number of open places, or 0 while most places stay empty."""
        self._expire()
        return len(self._places) if self._return_rate >= LEAST_RETURN_RATE else 0

    def _expire(self) -> None:
        now_s = self._clock()
        while self._places and self._places[0] <= now_s:
            self._places.popleft()
            self._learn(0.0)

    def _learn(self, was_filled: float) -> None:
        self._return_rate += RETURN_SMOOTHING * (was_filled - self._return_rate)
