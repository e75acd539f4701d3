"""Absolute deadlines on the monotonic clock. Transports convert timeouts, which are durations, into deadlines."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from service.domain.errors import ServiceError

# Seconds of a monotonic clock; injected, so that tests own time.
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in time on the monotonic clock of this process; infinity means no deadline."""

    at_s: float = math.inf

    @classmethod
    def after(cls, timeout_s: float | None, *, clock: Clock) -> Deadline:
        """Return the deadline in `timeout_s` seconds; None means no deadline."""
        return cls() if timeout_s is None else cls(clock() + timeout_s)

    def remaining_s(self, clock: Clock) -> float:
        """Return the seconds left; never negative, infinity without a deadline."""
        return max(0.0, self.at_s - clock())

    def timeout_s(self, clock: Clock) -> float | None:
        """Return the seconds left as asyncio expects them: None without a deadline."""
        return None if math.isinf(self.at_s) else self.remaining_s(clock)

    def has_passed(self, clock: Clock) -> bool:
        """Return whether the deadline has passed."""
        return clock() >= self.at_s

    def check(self, clock: Clock, *, stage: str) -> None:
        """Raise `deadline_exceeded` naming the stage if the deadline has passed."""
        if self.has_passed(clock):
            raise deadline_exceeded(stage)


def deadline_exceeded(stage: str) -> ServiceError:
    """Return the error of a deadline that passed during `stage`."""
    return ServiceError("deadline_exceeded", f"The deadline passed during {stage}; send a longer timeout.")
