"""Measured rate at which work ends, and the retry delay that follows from it."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

from service.domain.deadline import Clock

# Seconds of ends that give the rate: long enough for slow clips, short enough to follow the load.
_WINDOW_S = 60.0
# Retry delay in seconds before anything has ended: the duration of a typical clip.
_UNKNOWN_RETRY_S = 5.0
_MIN_RETRY_S = 1.0
_MAX_RETRY_S = 60.0


class DrainRate:
    """Measures the rate at which work ends.

    Args:
        clock: seconds, monotonic.
        jitter: uniform in [0, 1).
    """

    def __init__(self, *, clock: Clock, jitter: Callable[[], float] = random.random) -> None:
        self._clock = clock
        self._jitter = jitter
        self._ended_at_s: deque[float] = deque(maxlen=256)
        self._num_refused = 0

    def ended(self) -> None:
        """Count an end of work."""
        self._ended_at_s.append(self._clock())
        self._num_refused = 0

    def refused(self) -> None:
        """Count a refusal. Each refusal since the last end adds to the delay, so that callers return one by one."""
        self._num_refused += 1

    def retry_after_s(self) -> float:
        """Return the seconds until a place should be free, from 1 to 60, with 20 % of jitter."""
        now = self._clock()
        recent = [at_s for at_s in self._ended_at_s if now - at_s <= _WINDOW_S]
        wait_s = _UNKNOWN_RETRY_S
        if recent:
            wait_s = max(now - recent[0], 1e-3) / len(recent) * (1 + self._num_refused)
        return min(max(wait_s * (0.8 + 0.4 * self._jitter()), _MIN_RETRY_S), _MAX_RETRY_S)
