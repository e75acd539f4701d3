"""The rule for slow uploads, for every transport: after each window of 10 s a least number of bytes must have come."""

from __future__ import annotations

from service.domain.deadline import Clock
from service.domain.errors import ServiceError

WINDOW_S = 10.0
"""The minimum rate is checked from 10 s on."""


class UploadRate:
    """Counts arriving bytes in windows; a stalled sender is found at the end of the window in which it stalled."""

    def __init__(self, min_bytes_per_s: int, *, clock: Clock) -> None:
        self._min_bytes_per_s = min_bytes_per_s
        self._clock = clock
        self._window_end_s = clock() + WINDOW_S
        self._window_bytes = 0

    def add(self, num_bytes: int) -> None:
        """Count bytes that came, then apply the rule; raises `slow_upload`."""
        self._window_bytes += num_bytes
        self.check()

    def timeout_s(self) -> float:
        """How long to wait for more before the rule is to be checked."""
        return max(0.0, self._window_end_s - self._clock())

    def check(self) -> None:
        """Raise `slow_upload` if a window has ended with too few bytes."""
        now = self._clock()
        if now < self._window_end_s:
            return
        if self._window_bytes < self._min_bytes_per_s * WINDOW_S:
            detail = (
                f"{self._window_bytes} bytes came in {WINDOW_S:g} s; "
                f"an upload must bring at least {self._min_bytes_per_s} bytes a second."
            )
            raise ServiceError("slow_upload", detail)
        self._window_bytes = 0
        self._window_end_s = now + WINDOW_S
