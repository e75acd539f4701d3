"""The rule for slow readers on every transport: while bytes wait for a reader, it must read at a minimum rate."""

from __future__ import annotations

from collections import deque

from service.domain.errors import ServiceError

_NUM_BUCKETS = 10


class ReaderRate:
    """Counts what a reader takes over a sliding window of the time in which something waited for it.

    Args:
        min_bytes_per_s: minimum rate; at 0 the reader must still take something in every window.
        window_s: length of the window, seconds of waiting.
    """

    def __init__(self, min_bytes_per_s: int, *, window_s: float) -> None:
        self._min_bytes = max(1.0, min_bytes_per_s * window_s)
        self._window_s = window_s
        self._buckets: deque[tuple[float, int]] = deque()
        self._seconds = 0.0
        self._bytes = 0
        self._open_s = 0.0
        self._open_bytes = 0

    @property
    def window_s(self) -> float:
        """Return the length of the window in seconds."""
        return self._window_s

    @property
    def poll_s(self) -> float:
        """Return how often a wait should be reported, in seconds."""
        return self._window_s / _NUM_BUCKETS

    def caught_up(self) -> None:
        """Restart the window, because nothing waits for the reader."""
        self._buckets.clear()
        self._seconds = self._open_s = 0.0
        self._bytes = self._open_bytes = 0

    def add(self, seconds: float, num_bytes: int) -> None:
        """Count a wait and the bytes that the reader took in it; raises `slow_reader`."""
        self._open_s += seconds
        self._open_bytes += num_bytes
        if self._open_s >= self.poll_s:
            self._close_bucket()
        seconds, taken = self._seconds + self._open_s, self._bytes + self._open_bytes
        if seconds >= self._window_s - 1e-9 and taken < self._min_bytes:
            detail = f"The reader took {taken} bytes in {seconds:.3g} s; it must take at least {self._min_bytes:.0f}."
            raise ServiceError("slow_reader", detail)

    def _close_bucket(self) -> None:
        self._buckets.append((self._open_s, self._open_bytes))
        self._seconds += self._open_s
        self._bytes += self._open_bytes
        self._open_s, self._open_bytes = 0.0, 0
        while self._seconds - self._buckets[0][0] >= self._window_s:
            seconds, num_bytes = self._buckets.popleft()
            self._seconds -= seconds
            self._bytes -= num_bytes
