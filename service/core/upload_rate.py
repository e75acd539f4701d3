"""The rule for slow uploads on every transport: a minimum number of bytes in any 10 s."""

from __future__ import annotations

from collections import deque

from service.domain.deadline import Clock
from service.domain.errors import ServiceError

# Seconds of the sliding window. The rule does not apply before the first window has passed.
WINDOW_S = 10.0
_BUCKET_S = 1.0


class UploadRate:
    """Counts arriving bytes over a sliding window, in buckets of a second."""

    def __init__(self, min_bytes_per_s: int, *, clock: Clock) -> None:
        self._min_bytes = min_bytes_per_s * WINDOW_S
        self._min_bytes_per_s = min_bytes_per_s
        self._clock = clock
        self._started_at_s = clock()
        self._buckets: deque[tuple[int, int]] = deque()

    def add(self, num_bytes: int) -> None:
        """Count bytes that arrived, then apply the rule; raises `slow_upload`."""
        number = self._bucket_number()
        if self._buckets and self._buckets[-1][0] == number:
            num_bytes += self._buckets.pop()[1]
        self._buckets.append((number, num_bytes))
        self.check()

    def timeout_s(self) -> float:
        """Return how many seconds to wait for more before the rule must be checked."""
        age_s = self._clock() - self._started_at_s
        return WINDOW_S - age_s if age_s < WINDOW_S else _BUCKET_S

    def check(self) -> None:
        """Raise `slow_upload` if too few bytes arrived in the last 10 s."""
        first = self._bucket_number() - int(WINDOW_S / _BUCKET_S)
        while self._buckets and self._buckets[0][0] < first:
            self._buckets.popleft()
        if self._clock() - self._started_at_s < WINDOW_S:
            return
        came = sum(num_bytes for _, num_bytes in self._buckets)
        if came < self._min_bytes:
            detail = (
                f"{came} bytes came in {WINDOW_S:g} s; "
                f"an upload must bring at least {self._min_bytes_per_s} bytes a second."
            )
            raise ServiceError("slow_upload", detail)

    def _bucket_number(self) -> int:
        return int((self._clock() - self._started_at_s) / _BUCKET_S)
