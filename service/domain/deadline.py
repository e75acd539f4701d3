"""Absolute deadlines on the monotonic clock; timeouts are durations and are turned into deadlines at the door."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from service.domain.errors import ServiceError

Clock = Callable[[], float]
"""Seconds of a monotonic clock; injected, so that tests own time."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on the monotonic clock of this process; infinity where there is none."""

    at_s: float = math.inf

    @classmethod
    def after(cls, timeout_s: float | None, *, clock: Clock) -> Deadline:
        """The deadline `timeout_s` from now; None means none."""
        return cls() if timeout_s is None else cls(clock() + timeout_s)

    def remaining_s(self, clock: Clock) -> float:
        """Seconds left; never negative, infinity where there is no deadline."""
        return max(0.0, self.at_s - clock())

    def timeout_s(self, clock: Clock) -> float | None:
        """Seconds left in the form that asyncio takes: None where there is no deadline."""
        return None if math.isinf(self.at_s) else self.remaining_s(clock)

    def has_passed(self, clock: Clock) -> bool:
        """Whether the deadline is over."""
        return clock() >= self.at_s

    def check(self, clock: Clock, *, stage: str) -> None:
        """Raise `deadline_exceeded` naming the stage if the deadline is over."""
        if self.has_passed(clock):
            raise deadline_exceeded(stage)


def deadline_exceeded(stage: str) -> ServiceError:
    """Return the error of a deadline that passed during `stage`."""
    return ServiceError("deadline_exceeded", f"The deadline passed during {stage}; send a longer timeout.")
